"""Prompt-based classification: a masked LM read at [MASK], its answer one of the label words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from bridges.errors import BadInput
from bridges.model.positions import IGNORED
from bridges.model.spec import pretrained_model
from pets.tasks.layout import MaskFirst
from pets.tasks.verbalizer import Verbalizer


@dataclass
class PromptOutput(ModelOutput):  # type: ignore[misc]
    """Output of `PromptClassifier`.

    Attributes:
        loss: negative log-probability of the labels' words at the targets, mean.
        logits: [N, C], log-probabilities of the labels' words at the targets.
        running_cost: where one is plugged in.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    running_cost: Tensor | None = None


class PromptClassifier(nn.Module):
    """A masked LM that answers at its target positions, with the head evaluated only there.

    The head over all positions is most of a small model's step; here its input is narrowed to the
    targets. The language model stays in eval mode in training too: the published protocol tunes
    without dropout.

    Args:
        model: a masked LM, plain or with a PET.
        verbalizer: the C labels' words; `pets.regularize` takes them from here.
        mask_first: prompts begin with [MASK], the published layout: see `pets.tasks.layout.MaskFirst`.

    Raises:
        BadInput: if the model has no vocabulary head, or not all tokens of the words, or cannot be given
            the published layout.
    """

    def __init__(self, model: nn.Module, verbalizer: Verbalizer, *, mask_first: bool = False) -> None:
        super().__init__()
        plm = pretrained_model(model)
        head = plm.get_output_embeddings()
        if head is None:
            raise BadInput(f"{type(plm).__name__} has no vocabulary head to read label words from")
        verbalizer.check_tokens(int(head.weight.shape[0]))
        self.model = model
        self.verbalizer = verbalizer
        self._targets: tuple[Tensor, ...] | None = None
        self._length = 0
        self._layout = MaskFirst(model) if mask_first else None
        self._hook = head.register_forward_pre_hook(self._narrow)
        self.train(self.training)

    def remove(self) -> None:
        """Give the model back without the narrowed head."""
        self._hook.remove()
        if self._layout is not None:
            self._layout.remove()

    @property
    def mask_first(self) -> bool:
        """Whether [MASK] stands before a soft prompt."""
        return self._layout is not None

    def train(self, mode: bool = True) -> PromptClassifier:
        super().train(mode)
        self.model.eval()
        return self

    def _narrow(self, head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._targets is None:
            return None
        hidden, *rest = args
        return hidden[self._behind_prompt(hidden)], *rest

    def _behind_prompt(self, sequence: Tensor) -> tuple[Tensor, ...]:
        """The targets in a sequence [B, S', *] that a soft prompt has lengthened."""
        assert self._targets is not None
        rows, columns = self._targets
        soft = sequence.shape[1] - self._length
        return rows, columns + (soft * (columns > 0) if self.mask_first else soft)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> PromptOutput:
        """Loss and scores of prompts [B, S]; labels [B, S] are class indices at N targets, else -100."""
        self._targets = (labels != IGNORED).nonzero(as_tuple=True)
        self._length = labels.shape[1]
        if self._layout is not None:
            self._layout.read(attention_mask)
        try:
            scores = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
            if scores.dim() == 3:  # a head that does not end in its output embeddings
                scores = scores[self._behind_prompt(scores)]
            scores = self.verbalizer.score(scores.float())
            loss = F.nll_loss(scores, labels[self._targets])
        finally:
            self._targets = None
            if self._layout is not None:
                self._layout.read(None)
        return PromptOutput(loss=loss, logits=scores)
