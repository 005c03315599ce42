"""Parameter-efficient tuning with a running cost.

`get` gives the peft config of a PET, `regularize` plugs `bridges.RunningCost`s and `regularizers` into a
model, weighed by numbers or a `Ratio` of gradients, a `Verbalizer` gives its labels words to end at,
`adapt` lets a cost's reader learn from labelled examples.
Each name is imported when it is first used.
Importing the package also makes "adapter" and "bitfit" known to peft, as soon as that is imported: a
process that only loads one of them needs ``import pets`` first, or peft stops with
``KeyError: 'ADAPTER'`` or ``'BITFIT'``.
"""

from typing import TYPE_CHECKING

import bridge_pets

bridge_pets.check("bridges")  # before anything is imported from there

from bridges.lazy import exports  # noqa: E402
from pets import interrupts  # noqa: E402, F401  before whatever takes seconds to import
from pets.on_import import import_after  # noqa: E402

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "kernels.version": ["__version__"],
        "pets.anytime.classifier": ["AnytimeClassifier"],
        "pets.anytime.truncate": ["truncate"],
        "pets.anytime.truncated": ["TruncatedClassifier"],
        "pets.methods": ["PET", "available", "get", "info", "init_prompt", "parse"],
        "pets.plug.adapting": ["adapt"],
        "pets.plug.regularize": ["Regularizer", "regularize", "unplug"],
        "pets.plug.weights": ["Ratio"],
        "pets.tasks.verbalizer": ["Verbalizer"],
    },
)

if TYPE_CHECKING:  # the same for type checkers and editors; tests/pets/test_start.py compares
    from kernels.version import __version__ as __version__
    from pets.anytime.classifier import AnytimeClassifier as AnytimeClassifier
    from pets.anytime.truncate import truncate as truncate
    from pets.anytime.truncated import TruncatedClassifier as TruncatedClassifier
    from pets.methods import PET as PET
    from pets.methods import available as available
    from pets.methods import get as get
    from pets.methods import info as info
    from pets.methods import init_prompt as init_prompt
    from pets.methods import parse as parse
    from pets.plug.adapting import adapt as adapt
    from pets.plug.regularize import Regularizer as Regularizer
    from pets.plug.regularize import regularize as regularize
    from pets.plug.regularize import unplug as unplug
    from pets.plug.weights import Ratio as Ratio
    from pets.tasks.verbalizer import Verbalizer as Verbalizer

import_after("peft", "pets.methods")
