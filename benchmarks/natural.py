"""Tasks in natural prompts, for masked and causal language models: where the label word is predicted.

``TEXT It was [MASK].`` in a masked LM, ``TEXT It was`` in a causal one. `benchmarks.reader` and
`benchmarks.label_costs` measure on these.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridges import LabelEnds, RunningCost, Trajectory
from bridges.model.spec import encoder_of, pretrained_model
from pets import tasks
from pets.tasks.verbalizer import Verbalizer

_TEXT_TOKENS = 64  # a longer text loses its end
_BATCH = 32


@dataclass(frozen=True)
class Template:
    """How a task is asked.

    Attributes:
        before: between the text and the label word.
        after: behind it, in a masked LM.
        words: one for each class.
    """

    before: str
    after: str
    words: tuple[str, ...]


TEMPLATES = {
    "sst2": Template(" It was", ".", ("terrible", "great")),
    "cola": Template(" This is", ".", ("wrong", "correct")),
    "ag_news": Template(" This is about", ".", ("world", "sports", "business", "technology")),
}
_TOPICS = {"World": 0, "Sports": 1, "Business": 2, "Sci/Tech": 3}


@dataclass(frozen=True)
class Prompts:
    """Encoded examples of one split.

    Attributes:
        ids: token ids of each, without padding.
        places: where the label word stands: the mask, or in a causal LM behind the last token.
        labels: classes.
    """

    ids: list[list[int]]
    places: list[int]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, which: Sequence[int]) -> Prompts:
        """Some of them."""
        return Prompts(
            [self.ids[i] for i in which], [self.places[i] for i in which], self.labels[list(which)]
        )

    def batches(self, size: int = _BATCH) -> Iterator[list[int]]:
        """Indices of batches of like length."""
        order = sorted(range(len(self.ids)), key=lambda i: len(self.ids[i]))
        for start in range(0, len(order), size):
            yield order[start : start + size]


class Asked:
    """A task asked of a model.

    Args:
        name: one of `TEMPLATES`.
        folder: holds ``glue`` and ``ag_news``.
        tokenizer: of the model.
        seed: of which examples are taken where there are more.
        train, test: how many at most.
    """

    def __init__(
        self, name: str, folder: Path, tokenizer: Any, *, seed: int = 0, train: int, test: int
    ) -> None:
        self.name, self.template, self.tokenizer = name, TEMPLATES[name], tokenizer
        self.causal = tokenizer.mask_token_id is None
        splits = _read(name, folder)
        rng = random.Random(seed)
        self.train, self.test = (
            self._encoded(rng.sample(split, min(most, len(split))))
            for split, most in zip(splits, (train, test), strict=True)
        )
        words = Verbalizer.of_words(tokenizer, list(self.template.words))
        self.words = torch.tensor([own[0][0] for own in words.tokens])

    def _encoded(self, examples: Sequence[tuple[str, int]]) -> Prompts:
        plain = {"add_special_tokens": False}
        texts = self.tokenizer([text for text, _ in examples], **plain)["input_ids"]
        before = self.tokenizer(self.template.before, **plain)["input_ids"]
        rows, places = [], []
        for text in texts:
            row = text[:_TEXT_TOKENS] + before
            if not self.causal:
                after = self.tokenizer(self.template.after, **plain)["input_ids"]
                row = [self.tokenizer.cls_token_id, *row]
                places.append(len(row))
                row += [self.tokenizer.mask_token_id, *after, self.tokenizer.sep_token_id]
            else:
                places.append(len(row))
            rows.append(row)
        return Prompts(rows, places, torch.tensor([label for _, label in examples]))

    def batch(self, prompts: Prompts, which: Sequence[int]) -> dict[str, Tensor]:
        """Inputs and labels, [B, S] each, as transformers has them; labels are the label words.

        A causal LM gets the label word too, whose logits and states nobody reads.
        """
        rows = [list(prompts.ids[i]) for i in which]
        if self.causal:
            for row, i in zip(rows, which, strict=True):
                row.append(int(self.words[prompts.labels[i]]))
        length = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        labels = torch.full_like(ids, -100)
        for k, i in enumerate(which):
            labels[k, prompts.places[i]] = self.words[prompts.labels[i]]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def ends(self, cost: RunningCost) -> LabelEnds:
        """The label words' end points."""
        return LabelEnds.of_words(cost.end_points, [[[int(word)]] for word in self.words])


def head(model: Any, states: Tensor) -> Tensor:
    """The language-model head's logits of last states [N, H]: [N, V]."""
    plm: Any = pretrained_model(model)
    states = states.to(next(plm.parameters()).dtype)
    part = plm.cls if hasattr(plm, "cls") else plm.get_output_embeddings()
    logits: Tensor = part(states).float()
    return logits


def forward(
    model: Any, asked: Asked, prompts: Prompts, which: Sequence[int]
) -> tuple[tuple[Tensor, ...], Tensor, dict[str, Tensor]]:
    """Hidden states [B, S, H] of every layer, the label words' logits [B, C], and the batch.

    The head reads the states that predict the label words, and no others.
    """
    batch = asked.batch(prompts, which)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    hidden = encoder_of(model)(**inputs, output_hidden_states=True).hidden_states
    at = torch.tensor([prompts.places[i] - asked.causal for i in which])
    logits = head(model, hidden[-1][torch.arange(len(which)), at])
    return hidden, logits[:, asked.words], batch


@torch.no_grad()
def look(model: Any, asked: Asked, prompts: Prompts, cost: RunningCost) -> tuple[Trajectory, Tensor]:
    """Trajectories of the label words, and the head's logits of them [N, C], in the prompts' order."""
    states, context, logits, order = [], [], [], []
    for which in prompts.batches():
        hidden, scores, batch = forward(model, asked, prompts, which)
        path, _ = cost.trajectory(hidden, batch["labels"], batch["attention_mask"])
        states.append(path.states)
        context.append(path.context)
        logits.append(scores)
        order += which
    back = torch.tensor(order).argsort()
    whole = torch.cat(context, 1)
    if whole.shape[1]:
        whole = whole[:, back]
    path = Trajectory(torch.cat(states, 1)[:, back], whole, torch.arange(len(order)))
    return path, torch.cat(logits)[back]


def one_against_rest(scores: Tensor, labels: Tensor) -> float:
    """Mean over classes of the AUC of telling a class from the others, for scores [N, C]."""
    from sklearn.metrics import roc_auc_score

    found = []
    for c in range(scores.shape[1]):
        others = (scores.sum(1) - scores[:, c]) / (scores.shape[1] - 1)
        found.append(roc_auc_score((labels == c).numpy(), (scores[:, c] - others).numpy()))
    return float(sum(found) / len(found))


def few_shot(labels: Tensor, shots: int, seed: int) -> list[int]:
    """Indices of so many examples of each class."""
    rng = torch.Generator().manual_seed(seed)
    chosen: list[int] = []
    for c in range(int(labels.max()) + 1):
        mine = (labels == c).nonzero().flatten()
        chosen += mine[torch.randperm(len(mine), generator=rng)[:shots]].tolist()
    return chosen


def _read(name: str, folder: Path) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Texts and classes to train on and to test on."""
    if name == "ag_news":
        train, test = (_topics(folder / name / f"{split}.tsv") for split in ("train", "dev"))
        return train, test
    data = tasks.get(name).load(folder / "glue")
    train, test = ([(e.text, e.label) for e in part] for part in (data.train, data.reported))
    return train, test


def _topics(path: Path) -> list[tuple[str, int]]:
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [(row[0].strip(), _TOPICS[row[1]]) for row in rows[1:]]
