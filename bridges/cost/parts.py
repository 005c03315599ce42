"""What a running cost is made of: latent map, end points and bridge; their files and their hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from bridges.cost.card import CARD_FILE, card
from bridges.cost.files import (
    END_POINTS,
    check_tensors,
    file_format,
    load_cost,
    refusing_misfit,
    save_cost,
    tensors_sha256,
)
from bridges.cost.hub import found, upload
from bridges.cost.reader import (
    chosen_ends,
    chosen_normalise,
    chosen_widths,
    make_reader,
    map_of,
    widths_of,
)
from bridges.errors import BadInput, check_flags, check_seeds
from bridges.latent.end_points import EndPoints
from bridges.latent.latent_map import Layers, Reader
from bridges.latent.trajectory import layer_times
from bridges.model.spec import ModelSpec, hub_name, pretrained_model
from bridges.model.vocabulary import predicting_table
from bridges.model.weights import unsharded
from bridges.processes.base import Cost, catalogue
from bridges.processes.names import made
from bridges.storage.field_types import misfit
from bridges.storage.files import tensor_bytes, versions
from kernels.cuda_graphs import GraphedCosts

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
        self.base_model: str | None = None
        self.options = dict(DEFAULT_OPTIONS)
        self._graphs = GraphedCosts()
        if isinstance(latent_map, Layers) and latent_map.normalises:
            self.options["normalise"] = True
        self.requires_grad_(False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also of a cost that was pickled before there were graphs."""
        super().__setstate__({"_graphs": GraphedCosts(), **state})

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moved or cast: graphs of what was there would keep its memory."""
        self._graphs = GraphedCosts()
        return super()._apply(fn, recurse)

    @classmethod
    def for_model(
        cls: type[_Kept],
        model: nn.Module,
        bridge: str | Cost = "brownian",
        *,
        map: str = "mlp",
        ends: str | None = None,
        latent_dim: int | None = None,
        widths: Sequence[int] | None = None,
        seed: int = 0,
        shuffle_ends: bool = False,
        fit: bool = True,
        reads: str | None = None,
        normalise: bool | None = None,
    ) -> _Kept:
        """A cost for ``model``, its latent map not fitted yet.

        Args:
            model: a transformers model, plain or wrapped: a masked, causal or encoder-decoder language
                model, or a classifier on one of these.
            bridge: a registered name, or a bridge.
            map: what reads the states: "mlp", the published latent map, or "lens", an affine map for
                each layer that `fit` makes in closed form; see `bridges.latent.lens.Lens`.
            ends: of the vocabulary, "pca", the published ones, or "white"; see `EndPoints`. By default
                "pca" with "mlp" and "white" with "lens".
            latent_dim: d; by default the rule of `bridges.latent.latent_map.default_widths`.
            widths: all widths of g, instead of the rule; the last is d.
            seed: of the map's initial weights and of the shuffle; the global generator is left alone.
            shuffle_ends: a control: each word gets the end point of another, by one permutation.
            fit: False is a control: the map stays as random as it is, and `fit` refuses to change it.
            reads: which state predicts a label: "same", the one at its own position, as in masked LMs,
                or "next", the one before it, as in most causal ones. By default the model is asked: it
                runs once on a few tokens.
            normalise: True to read every state and context over its root mean square, as a lens always
                does. The published map reads them as they are; where a model's states are large, so is
                the cost's gradient then.

        Raises:
            BadInput: for an unknown bridge, map or end points, sizes out of range, or a model that
                cannot carry a cost or cannot be asked.
        """
        ends = chosen_ends(map, ends)
        normalise = chosen_normalise(map, normalise)
        spec = ModelSpec.of(model, reads)
        check_seeds(seed=seed)
        check_flags(shuffle_ends=shuffle_ends, fit=fit)
        asked = made(bridge)
        asked.verify(layer_times(spec.num_layers + 1))
        sizes = chosen_widths(map, spec, latent_dim, widths)
        with unsharded(plm := pretrained_model(model)):
            embeddings = predicting_table(plm)
        end_points = EndPoints.from_embeddings(embeddings, sizes[-1], ends=ends)
        if shuffle_ends:
            end_points = end_points.shuffled(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            reader = make_reader(map, asked, spec, sizes, normalise=normalise)
        cost = cls(spec, asked, reader, end_points).to(embeddings.device)
        cost.base_model = hub_name(plm)
        cost.options |= {"shuffle_ends": shuffle_ends, "fit": fit, "ends": ends}
        return cost

    def config(self) -> dict[str, Any]:
        """Everything but the weights, JSON-able."""
        return {
            "format": file_format(map_of(self.latent_map), normalise=self.latent_map.normalises),
            "model": dataclasses.asdict(self.spec),
            **({} if self.base_model is None else {"base_model": self.base_model}),
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
        if "normalise" in self.options:
            digest.update(b"normalise")
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

    def push_to_hub(
        self,
        repo_id: str,
        *,
        subfolder: str | None = None,
        commit_message: str = "Upload a running cost",
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        license: str | None = None,
        text: str | None = None,
    ) -> str:
        """Save into a repository of the Hugging Face hub, with a model card, as one commit.

        A running cost that is there is replaced, and nothing else; so is its card unless it was edited.

        Args:
            repo_id: ``"owner/name"``; the repository is made if need be.
            subfolder: of the repository: ``"running_cost"`` in that of an adapter.
            commit_message: of the commit.
            private: of a new repository; by default as the owner's are.
            token: by default the one that ``hf auth login`` or HF_TOKEN gave.
            branch: made if need be; by default the main one.
            create_pr: make a pull request, not a commit.
            license: of the cost, for the card, by its name on the hub.
            text: what the cost was fitted on, for the card, in words.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            BadInput: as `save_pretrained`; if files of something else are in the way; if the hub cannot
                be asked or refuses.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "cost"
            self.save_pretrained(folder)
            told = card(self.config(), repo_id, subfolder=subfolder, license=license, text=text)
            (folder / CARD_FILE).write_text(told, encoding="utf-8")
            return upload(
                folder,
                repo_id,
                subfolder=subfolder,
                commit_message=commit_message,
                private=private,
                token=token,
                branch=branch,
                create_pr=create_pr,
            )

    @classmethod
    def from_pretrained(
        cls: type[_Kept],
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> _Kept:
        """Read a cost that `save_pretrained` or `push_to_hub` wrote; every weight as it was saved.

        Args:
            pretrained_model_name_or_path: a folder, or ``"owner/name"`` on the Hugging Face hub where
                there is no such folder. Only the cost's two files are downloaded.
            subfolder: of the folder or repository that holds the cost.
            revision: of the repository: a branch, a tag or a commit.
            token: by default the one that ``hf auth login`` or HF_TOKEN gave.
            cache_dir: where downloads are kept.
            local_files_only: do not ask the hub, take what was downloaded.
            force_download: although it was downloaded.

        Raises:
            BadInput: if files are missing or broken, the bridge is not registered here, or weights
                do not fit, are not finite or are not those that the config was saved with; if the hub
                has no such cost, or cannot be asked.
        """
        with found(
            pretrained_model_name_or_path,
            subfolder,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        ) as folder:
            return cls._read(folder)

    @classmethod
    def _read(cls: type[_Kept], folder: Path) -> _Kept:
        """From its files in a folder."""
        config, tensors = load_cost(folder)
        with refusing_misfit(folder):
            spec = ModelSpec.from_dict(config["model"])
            if wrong := misfit(spec):
                raise TypeError(f"model: {wrong}")
            bridge = catalogue.get(config["bridge"]["name"], **config["bridge"]["parameters"])
            end_points = EndPoints(torch.empty(spec.vocab_size, config["widths"][-1]))
            with torch.random.fork_rng(devices=[]):  # initial weights are drawn, then replaced
                map_name, options = config.get("map", "mlp"), config.get("options", {})
                normalise = chosen_normalise(map_name, options.get("normalise"))
                reader = make_reader(map_name, bridge, spec, config["widths"], normalise=normalise)
                cost = cls(spec, bridge, reader, end_points)
            for tensor in tensors.values():
                cost.to(tensor.dtype)  # as it was saved; otherwise loading would cast
            cost.load_state_dict(tensors, strict=True)
            check_tensors(folder, config, tensors)
            cost.fit_record = config["fit"]
            cost.base_model = config.get("base_model")
            cost.options |= options
        return cost
