"""Parameter-efficient tuning with a running cost.

`get` gives the peft config of a PET, `regularize` plugs a `bridges.RunningCost` into a model, a
`Verbalizer` gives its labels words to end at.
Importing the package also makes "adapter" and "bitfit" known to peft: a process that only loads one of
them needs ``import pets`` first, or peft stops with ``KeyError: 'ADAPTER'`` or ``'BITFIT'``.
"""

from pets import interrupts  # noqa: F401  first: it takes care of the seconds that the others take
from pets.methods import available, get, init_prompt
from pets.plug.regularize import Regularizer, regularize
from pets.tasks.verbalizer import Verbalizer

__all__ = ["Regularizer", "Verbalizer", "available", "get", "init_prompt", "regularize"]
