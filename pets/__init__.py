"""Parameter-efficient tuning with a running cost.

`get` gives the peft config of a PET, `regularize` plugs a `bridges.RunningCost` into a model.
"""

from pets.methods import available, get
from pets.regularize import Regularizer, regularize

__all__ = ["Regularizer", "available", "get", "regularize"]
