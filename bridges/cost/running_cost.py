"""The running cost: latent map, end points and bridge, made for one model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bridges.cost.documents import Layout
from bridges.cost.files import (
    FORMAT,
    check_tensors,
    load_cost,
    refusing_misfit,
    save_cost,
    tensors_sha256,
)
from bridges.cost.targets import gather
from bridges.errors import BadInput, check_seeds
from bridges.fitting.settings import FitResult
from bridges.fitting.together import fit
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import EndPoints, Layers, default_widths
from bridges.latent.trajectory import Trajectory
from bridges.model.probe import Reads
from bridges.model.spec import ModelSpec, pretrained_model
from bridges.model.vocabulary import predicting_table
from bridges.model.weights import unsharded
from bridges.processes.base import Cost, catalogue
from bridges.storage.field_types import misfit
from bridges.storage.files import tensor_bytes, versions

DEFAULT_OPTIONS = {"shuffle_ends": False, "fit": True}
"""Of `RunningCost.for_model`: anything else makes a control, and the config says so."""


class RunningCost(nn.Module):
    """How far the output tokens' path through depth is from a bridge that ends at their label.

    Build one with `for_model`, fit its latent map with `fit`, keep it with `save_pretrained`. All its
    parameters are frozen outside `fit`: gradients pass through it to the hidden states.

    Args:
        spec: the model it belongs to.
        bridge: the process.
        latent_map: g.
        end_points: [V, d].
    """

    def __init__(self, spec: ModelSpec, bridge: Cost, latent_map: Layers, end_points: EndPoints) -> None:
        super().__init__()
        self.spec = spec
        self.bridge = bridge
        self.latent_map = latent_map
        self.end_points = end_points
        self.fit_record: dict[str, Any] | None = None
        self.options = dict(DEFAULT_OPTIONS)
        self.requires_grad_(False)

    @classmethod
    def for_model(
        cls,
        model: nn.Module,
        bridge: str | Cost = "brownian",
        *,
        latent_dim: int | None = None,
        widths: Sequence[int] | None = None,
        seed: int = 0,
        shuffle_ends: bool = False,
        fit: bool = True,
        reads: str | None = None,
    ) -> RunningCost:
        """A cost for ``model``, its latent map not fitted yet.

        Args:
            model: a transformers model, plain or wrapped: a masked, causal or encoder-decoder language
                model, or a classifier on one of these.
            bridge: a registered name, or a bridge.
            latent_dim: d; by default the rule of `bridges.latent.latent_map.default_widths`.
            widths: all widths of g, instead of the rule; the last is d.
            seed: of g's initial weights and of the shuffle; the global generator is left alone.
            shuffle_ends: a control: each word gets the end point of another, by one permutation.
            fit: False is a control: g stays as random as it is, and `fit` refuses to change it.
            reads: which state predicts a label: "same", the one at its own position, as in masked LMs,
                or "next", the one before it, as in most causal ones. By default the model is asked: it
                runs once on a few tokens.

        Raises:
            BadInput: for an unknown bridge, sizes out of range, or a model that cannot carry a cost or
                cannot be asked.
        """
        spec = ModelSpec.of(model, reads)
        check_seeds(seed=seed)
        if not isinstance(bridge, Cost):
            bridge = catalogue.parse(bridge)
        if widths is None:
            widths = default_widths(spec.hidden_size, latent_dim)
        elif not isinstance(widths, Sequence) or not widths:
            raise BadInput("widths is empty: expected the widths of g's layers, the last one d")
        elif latent_dim is not None and latent_dim != widths[-1]:
            raise BadInput(f"latent_dim={latent_dim} but widths end in {widths[-1]}: give one of them")
        with unsharded(plm := pretrained_model(model)):
            embeddings = predicting_table(plm)
        end_points = EndPoints.from_embeddings(embeddings, widths[-1])
        if shuffle_ends:
            end_points = end_points.shuffled(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            latent_map = bridge.make_map(spec.hidden_size, widths)
        cost = cls(spec, bridge, latent_map, end_points).to(embeddings.device)
        cost.options = {"shuffle_ends": shuffle_ends, "fit": fit}
        return cost

    @property
    def reads(self) -> Reads:
        """Which state predicts a label: "same", at its own position, or "next", the one before it."""
        return self.spec.reads

    def check_model(self, model: nn.Module, *, same_weights: bool = True) -> None:
        """Refuse any other model than the one the cost was made for.

        A PET on the model, another head, dtype or device, quantised or sharded weights make no other.

        Args:
            model: the one at hand.
            same_weights: False for a model that was trained further since, on purpose: only the
                architecture is compared.

        Raises:
            BadInput: naming everything that differs.
        """
        self.spec.check(model, same_weights=same_weights)

    def forward(
        self,
        hidden_states: Sequence[Tensor],
        targets: Tensor,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """The mean of `costs`, which has all arguments: a scalar; 0 where there is no target."""
        costs = self.costs(hidden_states, targets, attention_mask, **options)
        return costs.mean() if len(costs) else costs.sum()

    def costs(
        self,
        hidden_states: Sequence[Tensor],
        targets: Tensor,
        attention_mask: Tensor | None = None,
        *,
        labels: LabelEnds | None = None,
        in_place: bool = False,
        layout: Layout | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The running cost of each target token, mean over layers: [N].

        A masked LM is read at the target's own position; a causal LM at the position before it, as
        transformers shifts its labels; a decoder beside an encoder at the target's own position, which
        transformers gives the token before it. The context is the mean state over attended positions;
        in a causal LM and in a decoder only over those up to the first one that is read, else the
        answer would be part of it. Documents packed into one row are read as rows of their own.

        Args:
            hidden_states: L+1 tensors [B, S, H], as transformers returns them; of an encoder-decoder
                its decoder's.
            targets: token ids [B, S], -100 where there is no target.
            attention_mask: [B, S], 0 at padding; default all attended. See `Layout.of` for more.
            labels: end points of labels; ``targets`` are then indices into them. A label with several
                words is a mixture: with c_k the cost towards word k and n layers in its mean, the cost
                is ``-log(sum_k weight_k exp(-n c_k)) / n``. A bridge may mix in other labels' words, see
                `Cost.ends`.
            in_place: the targets are not predicted but read where they stand, with all that is attended
                as context, in any model: so it is with the label of a sequence at its pooled position.
            layout: instead of a mask: which positions there are, and which are one document.
            generator: of the noise of a cost that draws any; default torch's global one.

        Raises:
            BadInput: for states that are not this model's, a mask that does not fit, a target at a
                position that is not attended, or a target outside the vocabulary or the labels.
        """
        classes = None if labels is None else len(labels)
        trajectory, answers = self.trajectory(
            hidden_states, targets, attention_mask, classes=classes, in_place=in_place, layout=layout
        )
        if not len(answers):
            return trajectory.states.sum((0, 2))  # [0], and part of the states' graph
        if labels is None:
            ends, log_weights = self.end_points(answers), None
        else:
            ends, log_weights = self.bridge.ends(labels)(answers)
        costs = self.bridge.cost(self.latent_map, trajectory, ends, generator=generator)
        if log_weights is not None:
            count = self.bridge.terms(trajectory)
            costs = -torch.logsumexp(log_weights.to(costs) - count * costs, 0) / count
        return costs

    def trajectory(
        self,
        hidden_states: Sequence[Tensor],
        targets: Tensor,
        attention_mask: Tensor | None = None,
        *,
        classes: int | None = None,
        in_place: bool = False,
        layout: Layout | None = None,
    ) -> tuple[Trajectory, Tensor]:
        """The targets' trajectories and their tokens or labels [N].

        Arguments and errors as `costs`; ``classes`` is the number of labels where they are such.
        """
        return gather(
            self.spec,
            hidden_states,
            targets,
            attention_mask,
            layout,
            classes=classes,
            in_place=in_place,
        )

    def fit(self, model: nn.Module, tokenizer: Any, texts: Iterable[str], **options: Any) -> FitResult:
        """Fit the latent map on text with the model frozen; see `bridges.fitting.together.fit`."""
        return fit(self, model, tokenizer, texts, **options)

    def config(self) -> dict[str, Any]:
        """Everything but the weights, JSON-able."""
        return {
            "format": FORMAT,
            "model": dataclasses.asdict(self.spec),
            "bridge": self._process(),
            "widths": [len(bias) for bias in self.latent_map.biases],
            "fit": self.fit_record,
            "options": self.options,
            "versions": versions(),
            "weights_sha256": tensors_sha256(self.state_dict()),
        }

    def _process(self) -> dict[str, Any]:
        return {"name": self.bridge.registered_name, "parameters": self.bridge.hyperparameters}

    def digest(self) -> str:
        """A hash of everything the value depends on: bridge, latent map and end points."""
        digest = hashlib.sha256(json.dumps(self._process(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor_bytes(tensor))
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
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> RunningCost:
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
                latent_map = bridge.make_map(spec.hidden_size, config["widths"])
                cost = cls(spec, bridge, latent_map, end_points)
            for tensor in tensors.values():
                cost.to(tensor.dtype)  # as it was saved; otherwise loading would cast
            cost.load_state_dict(tensors, strict=True)
            check_tensors(folder, config, tensors)
            cost.fit_record = config["fit"]
            cost.options = DEFAULT_OPTIONS | config.get("options", {})
        return cost
