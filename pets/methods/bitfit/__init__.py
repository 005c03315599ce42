"""BitFit, the training of bias terms, as a peft method: `BitFitConfig`, or ``pets.get("bitfit")``."""

from pets.methods.bitfit.config import BitFitConfig
from pets.methods.bitfit.layer import BiasDelta
from pets.methods.bitfit.model import BitFitModel
from pets.methods.peft_types import register

__all__ = ["BiasDelta", "BitFitConfig", "BitFitModel"]

register("bitfit", BitFitConfig, BitFitModel)
