"""BitFit, the training of bias terms, as a peft method: `BitFitConfig`, or ``pets.get("bitfit")``."""

from pets.bitfit.config import BitFitConfig
from pets.bitfit.layer import BiasDelta
from pets.bitfit.model import BitFitModel
from pets.peft_types import register

__all__ = ["BiasDelta", "BitFitConfig", "BitFitModel"]

register("bitfit", BitFitConfig, BitFitModel)
