"""The bridges: one process a file, and what they are made of.

Importing this room registers all of them. A new file is added here, and nowhere else.
"""

from bridges.processes.about_label import AboutLabel
from bridges.processes.alpha import AlphaBridge
from bridges.processes.axis import Axis
from bridges.processes.base import Cost, Process, catalogue
from bridges.processes.brownian import BrownianBridge
from bridges.processes.clock import ClockBridge
from bridges.processes.controls import Control, Kinetic, Nothing, Regression
from bridges.processes.fractional import FractionalBridge
from bridges.processes.gaussian import GaussianBridge
from bridges.processes.gp import GPBridge, StationaryBridge
from bridges.processes.names import available, get, info, parse
from bridges.processes.ou import OUBridge
from bridges.processes.posterior import Posterior
from bridges.processes.random_end import RandomEndBridge
from bridges.processes.sde import SDEBridge
from bridges.processes.smooth import SmoothBridge
from bridges.processes.student import StudentBridge
from bridges.registry import Info as BridgeInfo

Bridge = Process
"""Its name before costs that are no process had one of their own."""

__all__ = [
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
    "catalogue",
    "get",
    "info",
    "parse",
]
