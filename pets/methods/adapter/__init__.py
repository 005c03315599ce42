"""Bottleneck adapters as a peft method: `AdapterConfig`, or ``pets.get("adapter")``."""

from pets.methods.adapter.config import AdapterConfig
from pets.methods.adapter.layer import AdapterLayer
from pets.methods.adapter.model import AdapterModel
from pets.methods.peft_types import register

__all__ = ["AdapterConfig", "AdapterLayer", "AdapterModel"]

register("adapter", AdapterConfig, AdapterModel)
