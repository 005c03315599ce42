"""What a running cost is made of: latent map, end points and bridge; their files and their hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any, TypeVar

import torch
from torch import nn

from bridges.cost.files import (
    END_POINTS,
    check_tensors,
    file_format,
    load_cost,
    refusing_misfit,
    save_cost,
    tensors_sha256,
)
from bridges.cost.reader import make_reader, map_of, widths_of
from bridges.errors import BadInput
from bridges.latent.end_points import EndPoints
from bridges.latent.latent_map import Reader
from bridges.model.spec import ModelSpec
from bridges.processes.base import Cost, catalogue
from bridges.storage.field_types import misfit
from bridges.storage.files import tensor_bytes, versions

DEFAULT_OPTIONS: dict[str, Any] = {"shuffle_ends": False, "fit": True, "ends": "pca"}
"""Of `RunningCost.for_model`: the published end points, and no control."""

_Kept = TypeVar("_Kept", bound="CostParts")


class CostParts(nn.Module):
    """The parts of a cost for one model, as they are kept in files.

    Args:
        spec: the model it belongs to.
        bridge: the process.
        latent_map: what the states are read with: g, or a lens.
        end_points: [V, d].
    """

    def __init__(self, spec: ModelSpec, bridge: Cost, latent_map: Reader, end_points: EndPoints) -> None:
        super().__init__()
        self.spec = spec
        self.bridge = bridge
        self.latent_map = latent_map
        self.end_points = end_points
        self.fit_record: dict[str, Any] | None = None
        self.options = dict(DEFAULT_OPTIONS)
        self.requires_grad_(False)

    def config(self) -> dict[str, Any]:
        """Everything but the weights, JSON-able."""
        return {
            "format": file_format(map_of(self.latent_map)),
            "model": dataclasses.asdict(self.spec),
            "bridge": self._process(),
            "map": map_of(self.latent_map),
            "widths": widths_of(self.latent_map),
            "fit": self.fit_record,
            "options": self.options,
            "versions": versions(),
            "weights_sha256": tensors_sha256(self.state_dict()),
        }

    def _process(self) -> dict[str, Any]:
        return {"name": self.bridge.registered_name, "parameters": self.bridge.hyperparameters}

    def digest(self) -> str:
        """A hash of everything the value depends on: bridge, latent map and end points.

        The end points count to the digits that are the same on every machine.
        """
        digest = hashlib.sha256(json.dumps(self._process(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor_bytes(self.end_points.rounded if name == END_POINTS else tensor))
        return digest.hexdigest()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors into ``folder``, both or neither.

        Raises:
            BadInput: if the bridge has no registered name, or the folder holds something else.
        """
        if self.bridge.registered_name is None:
            raise BadInput(
                f"{type(self.bridge).__name__} has no registered name, so it could not be loaded "
                'again: write class X(GaussianBridge, name="x")'
            )
        save_cost(self.config(), self.state_dict(), folder)

    @classmethod
    def from_pretrained(cls: type[_Kept], folder: str | os.PathLike[str]) -> _Kept:
        """Read a cost that `save_pretrained` wrote; every weight must be there, as it was saved.

        Raises:
            BadInput: if files are missing or broken, the bridge is not registered here, or weights
                do not fit, are not finite or are not those that the config was saved with.
        """
        config, tensors = load_cost(folder)
        with refusing_misfit(folder):
            spec = ModelSpec.from_dict(config["model"])
            if wrong := misfit(spec):
                raise TypeError(f"model: {wrong}")
            bridge = catalogue.get(config["bridge"]["name"], **config["bridge"]["parameters"])
            end_points = EndPoints(torch.empty(spec.vocab_size, config["widths"][-1]))
            with torch.random.fork_rng(devices=[]):  # initial weights are drawn, then replaced
                reader = make_reader(config.get("map", "mlp"), bridge, spec, config["widths"])
                cost = cls(spec, bridge, reader, end_points)
            for tensor in tensors.values():
                cost.to(tensor.dtype)  # as it was saved; otherwise loading would cast
            cost.load_state_dict(tensors, strict=True)
            check_tensors(folder, config, tensors)
            cost.fit_record = config["fit"]
            cost.options = DEFAULT_OPTIONS | config.get("options", {})
        return cost
