"""The logit lens: a language model's own head, read at every layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bridges.model.head import ModelHead
from bridges.model.spec import pretrained_model
from pets.tasks.verbalizer import Verbalizer

_ROWS = 128  # states the head is evaluated at together: its output is as wide as the vocabulary


def lens(model: nn.Module, states: Tensor, verbalizer: Verbalizer) -> Tensor:
    """Log-probabilities of the C labels' words, had the model stopped at each layer: [L+1, N, C].

    Args:
        model: a language model, plain or with a PET.
        states: [L+1, N, H], as `transformers` returns them, at N positions.
        verbalizer: words of the labels.

    Raises:
        BadInput: if the model's head cannot be read at other layers, see `bridges.model.head.ModelHead`.
    """
    plm = pretrained_model(model)
    mode = plm.training
    plm.eval()
    try:
        head = ModelHead(plm)
        with torch.no_grad():
            return torch.stack(
                [
                    torch.cat(
                        [
                            verbalizer.score(head(part.to(plm.device)[None], [i])[0].float()).cpu()
                            for part in layer.split(_ROWS)
                        ]
                    )
                    for i, layer in enumerate(states)
                ]
            )
    finally:
        plm.train(mode)
