"""Adapters by name."""

from __future__ import annotations

from pets.methods.adapter.config import AdapterConfig
from pets.methods.base import PET


class Adapter(PET, name="adapter"):
    """Bottlenecks after attention and feed-forward: Houlsby et al., ICML 2019, arXiv 1902.00751.

    Of width 8, with GELU, in series.
    """

    config_class = AdapterConfig
