"""A battery of tests that every regularizer passes: subclass it, name your regularizer, run pytest.

    from pets.testing import ObjectiveCase

    class TestConfidence(ObjectiveCase):
        name = "confidence"
        weight = 0.1

It makes its own tiny language model. What a regularizer is not is declared: ``neutral = False`` for one
that changes training at strength 0 too, as R-Drop's dropout does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar
from unittest import SkipTest

import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

from bridges import ModelSpec, Trajectory
from bridges.model.head import ModelHead
from pets import methods, regularizers
from pets.regularizers import Objective
from pets.regularizers.passes import Pass, Read

__all__ = ["ObjectiveCase"]

_WORDS, _MASK = 40, 4
_IDS = torch.tensor([[2, 9, 20, _MASK, 11, 3], [2, _MASK, 7, 18, 3, 0], [2, 8, 8, 30, _MASK, 3]])
_ANSWERS = torch.tensor([12, 13, 12])


class ObjectiveCase:
    """The tests of one regularizer.

    Attributes:
        name: as in `pets.regularizers.get`.
        weight: a strength at which it acts.
        parameters: further constructor arguments.
        neutral: whether at strength 0 a step is what it is without the regularizer.
    """

    name: ClassVar[str]
    weight: ClassVar[float]
    parameters: ClassVar[Mapping[str, Any]] = {}
    neutral: ClassVar[bool] = True

    def objective(self, weight: float | None = None) -> Objective:
        """A fresh one."""
        strength = self.weight if weight is None else weight
        return regularizers.get(self.name, weight=strength, **self.parameters)

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Four layers, H 16, dropout of its own, in eval mode, with a LoRA that has moved."""
        config = BertConfig(
            vocab_size=_WORDS,
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=16,
            initializer_range=0.3,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            plm = BertForMaskedLM(config).eval()
            model: nn.Module = get_peft_model(plm, methods.get("lora", model=plm, lora_dropout=0.0))
            for parameter in _trained(model):
                parameter.data.normal_(std=0.1)
        return model.eval().to(dtype)

    def forward(self, model: Any, objective: Objective | None = None) -> Pass:
        """A training forward of three texts with a masked word each, in the objective's `around`."""
        rows, columns = (_IDS == _MASK).nonzero().T
        inputs: dict[str, Tensor] = {"input_ids": _IDS, "attention_mask": (_IDS > 0).long()}
        inputs["labels"] = torch.full_like(_IDS, -100).index_put((rows, columns), _ANSWERS)

        def run() -> Any:
            return model(**inputs, output_hidden_states=True)

        def read(output: Any) -> Read:
            path = Trajectory.gather(output.hidden_states, _IDS > 0, rows, columns)
            return Read(path, _ANSWERS, None, None, ModelSpec.of(model, "same"))

        def frozen() -> Read:
            with torch.no_grad(), model.disable_adapter():
                return read(run())

        if objective is None:
            output = run()
        else:
            with objective.around(inputs):
                output = run()
        return Pass(
            output.loss,
            lambda: output.logits[rows, columns].log_softmax(-1),
            mean=Tensor.mean,
            again=lambda: self.forward(model, objective),
            read=lambda: read(output),
            head=lambda states: ModelHead(model)(states).log_softmax(-1),
            frozen=frozen,
        )

    def step(self, model: nn.Module, objective: Objective | None) -> tuple[Tensor, list[Tensor]]:
        """The loss of a training step, detached, and its gradients, under the seed 0."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            seen = self.forward(model, objective)
            loss = seen.loss if objective is None else objective.loss(seen)
            term = None if objective is None else objective.term(seen)
            if objective is not None and term is not None:
                loss = loss + objective.weight * term
            gradients = torch.autograd.grad(loss, _trained(model))
        return loss.detach(), list(gradients)

    def attached(self, model: nn.Module, weight: float | None = None) -> Objective:
        """A fresh one on the model."""
        objective = self.objective(weight)
        objective.attach(model)
        return objective

    def test_it_is_registered_and_described(self) -> None:
        record = regularizers.info(self.name)
        assert self.name in regularizers.available()
        assert record.cls.name == self.name
        assert len(record.description) > 10, "the class needs a docstring"

    def test_its_strengths_are_allowed_and_grow(self) -> None:
        found = regularizers.strengths(self.name, 5)
        assert all(a < b for a, b in pairwise(found))
        assert [self.objective(strength).weight for strength in found] == found

    def test_it_is_rebuilt_from_its_text(self) -> None:
        given = {"weight": self.weight, **self.parameters}
        text = ",".join(f"{key}={value}" for key, value in given.items())
        again = regularizers.parse(f"{self.name}:{text}")
        assert type(again) is type(self.objective())
        assert again.weight == self.weight
        for key, value in self.parameters.items():
            assert getattr(again, key, value) == value

    def test_at_strength_0_it_is_nothing(self) -> None:
        if not self.neutral:
            raise SkipTest(f"{self.name} is declared to act at strength 0 too")
        model = self.model()
        plain = self.step(model, None)
        objective = self.attached(model, 0.0)
        _check_same(self.step(model, objective), plain)

    def test_at_its_strength_it_acts(self) -> None:
        """On the gradient, or on parameters as the optimiser steps."""
        model = self.model()
        _, plain = self.step(model, None)
        objective = self.attached(model)
        _, found = self.step(model, objective)
        before = [p.detach().clone() for p in _trained(model)]
        for parameter, gradient in zip(_trained(model), found, strict=True):
            parameter.grad = gradient
        objective.before_step(torch.optim.SGD(_trained(model), lr=0.1))
        objective.detach()
        moved = any(not torch.equal(p, b) for p, b in zip(_trained(model), before, strict=True))
        assert moved or any(not torch.equal(a, b) for a, b in zip(plain, found, strict=True))

    def test_what_it_adds_is_finite_and_so_are_its_gradients(self) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            model = self.model(dtype)
            objective = self.attached(model)
            loss, gradients = self.step(model, objective)
            assert loss.dim() == 0
            assert loss.isfinite(), dtype
            assert all(g.isfinite().all() for g in gradients), dtype
            term = objective.term(self.forward(model, objective))
            if term is not None:
                assert term.dim() == 0
                assert term.requires_grad
                assert math.isfinite(term.item())

    def test_an_added_term_leaves_the_tasks_loss(self) -> None:
        model = self.model()
        objective = self.attached(model)
        if not objective.is_additive:
            raise SkipTest(f"{self.name} does more than to add a term")
        seen = self.forward(model, objective)
        assert torch.equal(objective.loss(seen), self.forward(model).loss)

    def test_a_step_follows_the_seed_and_leaves_the_model(self) -> None:
        model = self.model()
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        plain = self.step(model, None)
        marks = _marks(model)  # transformers leaves hooks of its own in a first forward
        objective = self.attached(model)
        _check_same(self.step(model, objective), self.step(model, objective))
        objective.detach()
        assert _marks(model) == marks, "modes, hooks or attributes of the model have changed"
        after = model.state_dict()
        assert after.keys() == weights.keys()
        assert all(torch.equal(after[key], value) for key, value in weights.items())
        _check_same(self.step(model, None), plain)

    def test_a_copy_of_it_does_the_same(self) -> None:
        model, other = self.model(), self.model()
        objective = self.objective()
        twin = copy.deepcopy(objective)
        for one, its in ((objective, model), (twin, other)):
            one.attach(its)
        _check_same(self.step(model, objective), self.step(other, twin))


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _check_same(mine: tuple[Tensor, list[Tensor]], theirs: tuple[Tensor, list[Tensor]]) -> None:
    """To the bit."""
    assert torch.equal(mine[0], theirs[0])
    assert all(torch.equal(a, b) for a, b in zip(mine[1], theirs[1], strict=True))


def _marks(model: nn.Module) -> list[tuple[Any, ...]]:
    """Of each module what a regularizer could leave there: mode, number of hooks, plain attributes."""
    marks = []
    for module in model.modules():
        hooks = [len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)]
        plain = {k: v for k, v in vars(module).items() if isinstance(v, (int, float, str, type(None)))}
        marks.append((type(module).__name__, module.training, *hooks, "forward" in vars(module), plain))
    return marks
