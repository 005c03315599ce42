"""Stochastic bridges as running costs for language models.

`get` builds a bridge by name, `RunningCost` turns it into a cost on hidden states, `GaussianBridge` is
what a new process subclasses. Each name is imported when it is first used.
"""

from typing import TYPE_CHECKING

from bridges import ground
from bridges.lazy import exports

ground.reach()

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "bridges.cost.running_cost": ["RunningCost"],
        "bridges.errors": ["BadInput"],
        "bridges.fitting.settings": ["FitResult", "FitSettings", "LensSettings"],
        "bridges.fitting.together": ["fit_together"],
        "bridges.latent": ["EndPoints", "LabelEnds", "LatentMap", "Trajectory"],
        "bridges.model.spec": ["ModelSpec"],
        "bridges.processes": [
            "AboutLabel",
            "AlphaBridge",
            "Axis",
            "Bridge",
            "BridgeInfo",
            "BrownianBridge",
            "ClockBridge",
            "Control",
            "Cost",
            "FractionalBridge",
            "GPBridge",
            "GaussianBridge",
            "Kinetic",
            "Nothing",
            "OUBridge",
            "Posterior",
            "Process",
            "RandomEndBridge",
            "Regression",
            "SDEBridge",
            "SmoothBridge",
            "StationaryBridge",
            "StudentBridge",
            "available",
            "get",
            "info",
            "parse",
        ],
        "kernels.version": ["__version__"],
    },
)

if TYPE_CHECKING:  # the same for type checkers and editors; tests/bridges/test_exports.py compares
    from bridges.cost.running_cost import RunningCost as RunningCost
    from bridges.errors import BadInput as BadInput
    from bridges.fitting.settings import FitResult as FitResult
    from bridges.fitting.settings import FitSettings as FitSettings
    from bridges.fitting.settings import LensSettings as LensSettings
    from bridges.fitting.together import fit_together as fit_together
    from bridges.latent import EndPoints as EndPoints
    from bridges.latent import LabelEnds as LabelEnds
    from bridges.latent import LatentMap as LatentMap
    from bridges.latent import Trajectory as Trajectory
    from bridges.model.spec import ModelSpec as ModelSpec
    from bridges.processes import AboutLabel as AboutLabel
    from bridges.processes import AlphaBridge as AlphaBridge
    from bridges.processes import Axis as Axis
    from bridges.processes import Bridge as Bridge
    from bridges.processes import BridgeInfo as BridgeInfo
    from bridges.processes import BrownianBridge as BrownianBridge
    from bridges.processes import ClockBridge as ClockBridge
    from bridges.processes import Control as Control
    from bridges.processes import Cost as Cost
    from bridges.processes import FractionalBridge as FractionalBridge
    from bridges.processes import GaussianBridge as GaussianBridge
    from bridges.processes import GPBridge as GPBridge
    from bridges.processes import Kinetic as Kinetic
    from bridges.processes import Nothing as Nothing
    from bridges.processes import OUBridge as OUBridge
    from bridges.processes import Posterior as Posterior
    from bridges.processes import Process as Process
    from bridges.processes import RandomEndBridge as RandomEndBridge
    from bridges.processes import Regression as Regression
    from bridges.processes import SDEBridge as SDEBridge
    from bridges.processes import SmoothBridge as SmoothBridge
    from bridges.processes import StationaryBridge as StationaryBridge
    from bridges.processes import StudentBridge as StudentBridge
    from bridges.processes import available as available
    from bridges.processes import get as get
    from bridges.processes import info as info
    from bridges.processes import parse as parse
    from kernels.version import __version__ as __version__
