"""Bottleneck adapters as a peft method: `AdapterConfig`, or ``pets.get("adapter")``."""

from pets.adapter.config import AdapterConfig
from pets.adapter.layer import AdapterLayer
from pets.adapter.model import AdapterModel
from pets.peft_types import register

__all__ = ["AdapterConfig", "AdapterLayer", "AdapterModel"]

register("adapter", AdapterConfig, AdapterModel)
