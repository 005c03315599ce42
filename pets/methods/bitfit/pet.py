"""BitFit by name."""

from __future__ import annotations

from pets.methods.base import PET
from pets.methods.bitfit.config import BitFitConfig


class BitFit(PET, name="bitfit"):
    """Every bias of the transformer, and nothing else: Ben Zaken et al., ACL 2022, arXiv 2106.10199."""

    config_class = BitFitConfig
