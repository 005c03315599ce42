"""The running cost: what the hidden states of a model pay, given where their labels end."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bridges.cost.batch import costs_and_first
from bridges.cost.documents import Layout
from bridges.cost.graphed import replayed
from bridges.cost.parts import CostParts
from bridges.cost.targets import gather, read_near
from bridges.errors import BadInput
from bridges.fitting.adapting import adapt
from bridges.fitting.arguments import takes_settings
from bridges.fitting.settings import FitResult
from bridges.fitting.together import fit
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import Reader
from bridges.latent.lens import Lens
from bridges.latent.trajectory import Trajectory
from bridges.model.probe import Reads


class RunningCost(CostParts):
    """How far the output tokens' path through depth is from a bridge that ends at their label.

    Build one with `for_model`, fit its latent map with `fit`, keep it with `save_pretrained`. All its
    parameters are frozen outside `fit`: gradients pass through it to the hidden states.
    """

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
            labels: end points of labels; ``targets`` are then indices into them. See
                `bridges.processes.base.Cost.of_labels` for several words of a label.
            in_place: the targets are not predicted but read where they stand, with all that is attended
                as context, in any model: so it is with the label of a sequence at its pooled position.
            layout: instead of a mask: which positions there are, and which are one document.
            generator: of the noise of a cost that draws any; default torch's global one.

        Raises:
            BadInput: for states that are not this model's, a mask that does not fit, a target at a
                position that is not attended, or a target outside the vocabulary or the labels.
        """
        classes = None if labels is None else len(labels)
        told: dict[str, Any] = {"classes": classes, "in_place": in_place, "layout": layout}
        given = hidden_states, targets, attention_mask
        return costs_and_first(self, *given, **told, labels=labels, generator=generator)[0]

    @property
    def reads_in_parts(self) -> bool:
        """Whether a batch may be read a few sequences at a time: a subclass may want it whole."""
        kind = type(self)
        if {"trajectory", "of_trajectory"} & vars(self).keys():
            return False
        own = kind.trajectory, kind.of_trajectory
        return own == (RunningCost.trajectory, RunningCost.of_trajectory)

    def of_trajectory(
        self,
        trajectory: Trajectory,
        answers: Tensor,
        *,
        labels: LabelEnds | None = None,
        reader: Reader | None = None,
        generator: torch.Generator | None = None,
        graph: bool = True,
    ) -> Tensor:
        """The running cost of trajectories that are known already: [N].

        Args:
            trajectory: of N tokens.
            answers: int64 [N], their token ids, or labels.
            labels: as `costs`. Without any, a cost that holds a label against others holds a token
                against the batch's other ones.
            reader: in the place of the cost's own.
            generator: as `costs`.
            graph: whether it may be replayed as a CUDA graph, on the GPU and of few tokens; see
                `kernels.cuda_graphs`.
        """
        reader = reader or self.latent_map
        if labels is None and self.bridge.contrasts:
            labels, answers = LabelEnds.of_batch(self.end_points, answers)
        elif graph and generator is None:
            ends = self.end_points if labels is None else labels
            found = replayed(self._graphs, self.bridge, reader, trajectory, answers, ends)
            if found is not None:
                return found
        if labels is None:
            end = self.end_points(answers)
            return self.bridge.cost(reader, trajectory, end, generator=generator)
        return self.bridge.of_labels(reader, trajectory, answers, labels, generator=generator)

    def by_layer(
        self, trajectory: Trajectory, answers: Tensor, *, labels: LabelEnds | None = None
    ) -> list[float] | None:
        """The cost at each of the L+1 layers, mean over targets, without gradient.

        Towards a label's nearest word where it has several. None for a cost that is no mean over layers.

        Args:
            trajectory: of N tokens.
            answers: int64 [N], their token ids, or labels.
            labels: as `of_trajectory`.
        """
        given = (self.latent_map, trajectory)
        with torch.no_grad():
            if labels is None:
                found = self.bridge.by_layer(*given, self.end_points(answers))
            else:
                ends, log_weights = self.bridge.ends(labels)(answers)
                each = [self.bridge.by_layer(*given, end) for end in ends]
                if any(costs is None for costs in each):
                    return None
                stacked = torch.stack([costs for costs in each if costs is not None])  # [K, L+1, N]
                away = stacked.mean(1).where(log_weights > -torch.inf, torch.inf)
                nearest = away.argmin(0).expand(1, stacked.shape[1], -1)
                found = stacked.gather(0, nearest)[0]
            return None if found is None else found.double().mean(1).tolist()

    def posterior(self, trajectory: Trajectory, labels: LabelEnds) -> Tensor:
        """The labels' log-probabilities given the states up to each layer, all as likely before.

        Bayes' rule under the bridge. With ``likelihood=path`` it is filtering through depth, of all the
        layers so far; of a Markov process conditioned on its end, of which the last of them tells all,
        and with "marginal" that of the layer.

        Args:
            trajectory: of N tokens, through all L+1 layers.
            labels: C of them.

        Returns:
            float64 [L+1, N, C].

        Raises:
            BadInput: for a cost without latents, or whose bridge has no Gaussian law.
        """
        evidence = self.bridge.evidence(trajectory.times())
        odds = evidence.log_odds(self.latents(trajectory), self.bridge.ends(labels))
        return odds.log_softmax(-1)

    def latents(self, trajectory: Trajectory) -> Tensor:
        """The latent trajectory z [L+1, N, d], that the bridge is asked about.

        Raises:
            BadInput: for a bridge whose map makes none.
        """
        if not self.latent_map.makes_latents:
            raise BadInput(f"{self.bridge.registered_name!r} reads the states without latents")
        factor = self.bridge.mean_factor(trajectory.times())
        latent: Tensor = self.latent_map(trajectory, factor)
        return latent

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
            context=self.latent_map.reads_context,
        )

    @property
    def lens(self) -> Lens:
        """What a cost is adapted by.

        Raises:
            BadInput: for a cost without one.
        """
        if not isinstance(self.latent_map, Lens):
            raise BadInput("only a lens can be adapted in closed form: make the cost with map='lens'")
        return self.latent_map

    def adapted(self, trajectory: Trajectory, answers: Tensor, labels: LabelEnds) -> RunningCost:
        """A cost whose lens has also learned from labelled examples, in closed form.

        What of the lens tells these labels apart is fitted anew, the rest stays; see
        `bridges.fitting.adapting`. `pets.adapt` gathers the trajectories from a model.

        Args:
            trajectory: of N examples, of the model as it is before tuning; training examples alone.
            answers: int64 [N], their labels.
            labels: where trajectories of the labels end.

        Raises:
            BadInput: for a cost without a lens, or a label with fewer than two examples.
        """
        return self.adapted_leaving_out(trajectory, answers, labels)[0]

    def adapted_leaving_out(
        self, trajectory: Trajectory, answers: Tensor, labels: LabelEnds
    ) -> tuple[RunningCost, Tensor]:
        """As `adapted`, and what each example's guesses are without having learned from it.

        Returns:
            The cost, and float64 [L+1, N, d]: the guesses of the lens, which knows of each example all
            others, with the same strengths.
        """
        lens = self.lens
        found = adapt(lens.weight, lens.bias, trajectory.states, answers, labels.means(), lens.damped)
        cost = copy.deepcopy(self)
        mine = cost.lens
        with torch.no_grad():
            mine.weight.copy_(found.weight)
            mine.bias.copy_(found.bias)
            guesses = mine(trajectory)
            by_label = [guesses[:, answers == label].mean(1) for label in answers.unique().tolist()]
            mine.centre.copy_(torch.stack(by_label).mean(0))
        cost.options = {**self.options, "adapted": f"{len(answers)} examples"}
        return cost, found.left_out_guesses(trajectory.states)

    def positions(self, targets: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns [N] of a batch whose states are the targets' trajectories, in their order."""
        shape = (len(targets), targets.shape[1])
        layout = Layout.of(shape, attention_mask, device=targets.device)
        where = read_near(self.spec, targets, layout).to(targets.device)
        return where.rows, where.columns

    @takes_settings
    def fit(
        self,
        model: nn.Module,
        tokenizer: Any,
        texts: Iterable[str],
        *,
        folder: str | os.PathLike[str] | None = None,
        progress: bool = True,
        distributed: bool = False,
        **settings: Any,
    ) -> FitResult:
        """Fit the map that reads the states on text; see `bridges.fitting.together.fit` for the rest.

        Args:
            model: frozen and in eval mode throughout; left as it was.
            tokenizer: a fast tokenizer of the model.
            texts: one text an item; blank ones are left out.
            folder: where the state of the fit is kept; an interrupted one goes on from there.
            progress: show a progress bar.
            distributed: the processes of torch.distributed share the reading, of a lens alone.
            **settings: those of `FitSettings`, or of `LensSettings` where the map is a lens.
        """
        options = {"folder": folder, "progress": progress, "distributed": distributed, **settings}
        return fit(self, model, tokenizer, texts, **options)
