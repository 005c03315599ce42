"""A model's layers one by one: what is visited, who stays, what really runs, and what stays behind."""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from tiny import ARCHITECTURES, tiny_model
from torch import Tensor, nn

import pets
from bridges import BadInput, RunningCost
from bridges.model.spec import pretrained_model
from pets.anytime.stack import AllLeft, Stack

pytestmark = pytest.mark.slow

KINDS = [name for name in sorted(ARCHITECTURES) if name != "t5"]
LAYERS = 4
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SETTINGS = {"deadline": None, "derandomize": True}


def made(name: str, *, head: str | None = None, layers: int = LAYERS, **changes: Any) -> Any:
    depth = {"gpt2": "n_layer", "distilbert": "n_layers"}.get(name, "num_hidden_layers")
    return tiny_model(name, head=head, **{depth: layers, **changes})


@cache
def model_of(name: str, head: str | None = None) -> tuple[Any, Stack]:
    plm = made(name, head=head)
    return plm, Stack.of(plm)


def batch(rows: int, length: int = 7, *, side: str = "right", seed: int = 0) -> dict[str, Tensor]:
    """Rows of several lengths, padded on a side; the first is whole."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (rows, length), generator=rng)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        pad = int(torch.randint(0, length - 2, (1,), generator=rng))
        where = slice(length - pad, None) if side == "right" else slice(0, pad)
        mask[row, where], ids[row, where] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


class Leaving:
    """Rows leave at layers that are given; what was visited is kept."""

    def __init__(self, at: list[int]) -> None:
        self.at = torch.tensor(at)
        self.states: dict[int, Tensor] = {}
        self.rows: dict[int, list[int]] = {}

    def __call__(self, layer: int, states: Tensor, rows: Tensor) -> Tensor | None:
        self.states[layer], self.rows[layer] = states.clone(), rows.tolist()
        stay = (self.at[rows] > layer).nonzero().flatten()
        return None if len(stay) == len(rows) else stay


@contextmanager
def counted(stack: Stack, plm: nn.Module) -> Any:
    """How many rows each block ran on, in their order."""
    ran: dict[str, list[int]] = defaultdict(list)
    hooks = []
    for path in dict.fromkeys(path for path, _ in stack.blocks):

        def note(module: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
            states = args[0] if args else kwargs["hidden_states"]
            ran[path].append(len(states))

        # Behind the stack's own, which are there already.
        hooks.append(plm.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True))
    yield ran
    for hook in hooks:
        hook.remove()


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def check(
    model: nn.Module, stack: Stack, inputs: dict[str, Any], at: list[int], **close: float
) -> dict[int, Tensor]:
    """Of rows that leave where they are told to: all that this file is about."""
    plm = pretrained_model(model)
    close = close or CLOSE
    with torch.no_grad():
        full = model(**inputs, output_hidden_states=True)
    before = hooks_of(model)  # transformers leaves some where states were asked for
    leaving = Leaving(at)
    logits = None
    with torch.no_grad(), stack.visited(plm, leaving), counted(stack, plm) as ran:
        try:
            logits = model(**inputs).logits
        except AllLeft:
            assert max(at) < len(stack)
    assert hooks_of(model) == before
    count = len(at)
    for layer in range(len(stack)):
        staying = [row for row in range(count) if at[row] >= layer]
        assert leaving.rows.get(layer, []) == staying
        if staying:
            expected = full.hidden_states[layer][staying]
            torch.testing.assert_close(leaving.states[layer], expected, **close)
    numbers = [n for path in dict.fromkeys(p for p, _ in stack.blocks) for n in ran[path]]
    expected_numbers = [sum(leave >= k for leave in at) for k in range(1, len(stack) + 1)]
    assert numbers == [n for n in expected_numbers if n]
    stayed = [row for row in range(count) if at[row] >= len(stack)]
    if stayed:
        assert logits is not None
        assert len(logits) == count
        torch.testing.assert_close(logits[stayed], full.logits[stayed], **close)
    else:
        assert logits is None
    return leaving.states


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", KINDS)
def test_rows_leave_any_language_model(name: str, side: str) -> None:
    plm, stack = model_of(name)
    assert len(stack) == LAYERS
    for at in ([1, 4, 2, 4, 3], [4, 3, 3, 1, 4], [2, 2, 4, 2, 2], [4] * 5, [1] * 5):
        check(plm, stack, batch(5, side=side), at)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", KINDS)
def test_rows_leave_any_classifier(name: str, side: str) -> None:
    plm, stack = model_of(name, "ForSequenceClassification")
    check(plm, stack, batch(5, side=side), [4, 1, 4, 3, 2])
    check(plm, stack, batch(5, side=side), [2, 4, 1, 1, 4])


@settings(max_examples=40, **SETTINGS)
@given(
    st.sampled_from(["bert", "albert", "gpt2", "llama", "deberta-v2", "modernbert"]),
    st.lists(st.integers(1, LAYERS), min_size=1, max_size=9),
    st.integers(3, 9),
    st.sampled_from(["right", "left"]),
)
def test_in_every_pattern(name: str, at: list[int], length: int, side: str) -> None:
    """Batches of one, of as many rows as there are tokens or heads among them."""
    check(*model_of(name), batch(len(at), length, side=side), at)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "bert", "roberta"])
@pytest.mark.parametrize("rows", [2, 4, 7])
def test_positions_that_are_given_go_with_their_rows(name: str, rows: int) -> None:
    """Each row its own, as left padding wants; down to one row that stays."""
    plm, stack = model_of(name)
    inputs = batch(rows, side="left")
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0) + 3
    inputs["position_ids"][1:] += torch.arange(1, rows)[:, None]
    check(plm, stack, inputs, [4] + [1] * (rows - 1))
    check(plm, stack, inputs, [2] * (rows - 1) + [4])
    one = inputs["position_ids"][:1]  # for all rows the same
    check(plm, stack, {**inputs, "position_ids": one}, [1] + [4] * (rows - 1))


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_a_mask_without_padding_or_none_at_all(name: str) -> None:
    plm, stack = model_of(name)
    ids = batch(4)["input_ids"].clamp(min=5)
    for more in ({}, {"attention_mask": torch.ones_like(ids)}):
        check(plm, stack, {"input_ids": ids, **more}, [4, 2, 1, 4])


@pytest.mark.parametrize("name", ["bert", "deberta", "albert"])
def test_segments_go_with_their_rows(name: str) -> None:
    plm = made(name, type_vocab_size=2)
    inputs = batch(4)
    inputs["token_type_ids"] = torch.randint(0, 2, inputs["input_ids"].shape)
    check(plm, Stack.of(plm), inputs, [4, 2, 1, 4])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_either_attention_in_bf16(name: str, attention: str) -> None:
    plm = made(name).to(torch.bfloat16)
    plm.set_attn_implementation(attention)
    check(plm, Stack.of(plm), batch(5, side="left"), [4, 1, 3, 4, 2], rtol=0.05, atol=0.05)


def test_a_masked_row_of_one_mask_for_all() -> None:
    """A mask [1, 1, S, S] is broadcast over whatever rows there are."""
    plm, stack = model_of("llama")
    inputs = batch(5)
    size = inputs["input_ids"].shape[1]
    mask = torch.zeros(1, 1, size, size).masked_fill(torch.ones(size, size).triu(1).bool(), -1e30)
    whole = {"input_ids": inputs["input_ids"], "attention_mask": mask}
    check(plm, stack, whole, [4, 1, 2, 4, 2])


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    plm = made(name)
    plm.gradient_checkpointing_enable()
    check(plm, Stack.of(plm), batch(4), [4, 1, 3, 4])


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("pet", ["lora", "adapter", "bitfit", "prefix", "prompt"])
def test_a_pet_goes_along(pet: str, name: str) -> None:
    """The cache of a prefix has its rows taken out too."""
    if (pet, name) == ("bitfit", "llama"):
        pytest.skip("has no biases")
    plm = made(name)
    model = get_peft_model(plm, pets.get(pet, model=plm)).eval()
    for p in model.parameters():
        if p.requires_grad:
            p.data = 0.3 * torch.randn_like(p)
    stack = Stack.of(pretrained_model(model))
    for at in ([4, 1, 3, 4, 2], [1, 1, 4, 1, 1], [2, 4, 4, 4, 2]):
        check(model, stack, batch(5), at)


def test_a_plugged_cost_takes_no_part_in_eval() -> None:
    plm = made("bert")
    handle = pets.regularize(plm, RunningCost.for_model(plm, map="lens", latent_dim=4), 0.5)
    check(plm, Stack.of(plm), batch(4), [4, 1, 3, 4])
    handle.remove()
    check(plm, Stack.of(plm), batch(4), [4, 1, 3, 4])


def test_a_model_whose_weights_are_offloaded() -> None:
    accelerate = pytest.importorskip("accelerate")
    plm = made("llama")
    stack = Stack.of(plm)
    with torch.no_grad():
        expected = plm(**batch(4)).logits
    accelerate.cpu_offload(plm, execution_device=torch.device("cpu"))
    assert Stack.of(plm).blocks == stack.blocks
    check(plm, stack, batch(4), [4, 1, 3, 4])
    with torch.no_grad():
        assert torch.equal(plm(**batch(4)).logits, expected)


@pytest.mark.parametrize("name", ["albert", "bert"])
def test_nothing_stays_after_an_exception_and_the_next_forward_begins_anew(name: str) -> None:
    plm, stack = model_of(name)
    before, inputs = hooks_of(plm), batch(3)
    layers: list[int] = []

    def visit(layer: int, states: Tensor, rows: Tensor) -> Tensor | None:
        layers.append(layer)
        if len(layers) == 3:
            raise KeyboardInterrupt
        return rows[:0] if len(layers) == 6 else None

    with torch.no_grad():
        expected = plm(**inputs).logits
        with stack.visited(plm, visit):
            with pytest.raises(KeyboardInterrupt):
                plm(**inputs)
            with pytest.raises(AllLeft):
                plm(**inputs)
            assert torch.equal(plm(**inputs).logits, expected)
        assert layers == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3]
        assert hooks_of(plm) == before
        assert torch.equal(plm(**inputs).logits, expected)


def test_looking_at_a_model_leaves_it_as_it_was() -> None:
    plm = made("bert").train()
    before, state = hooks_of(plm), torch.get_rng_state()
    weights = {k: v.clone() for k, v in plm.state_dict().items()}
    Stack.of(plm)
    assert hooks_of(plm) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert plm.training
    assert all(torch.equal(v, weights[k]) for k, v in plm.state_dict().items())


def test_who_stays_is_theirs_to_the_bit_where_rows_are_computed_alike() -> None:
    """Eager attention, rows without padding: a row's numbers do not depend on the others here."""
    plm = made("llama").double()
    stack, inputs = Stack.of(plm), {"input_ids": batch(4)["input_ids"].clamp(min=5)}
    check(plm, stack, inputs, [4, 2, 1, 4], rtol=1e-12, atol=1e-12)


def test_rows_that_are_not_known_are_refused() -> None:
    """Bloom gives each layer a bias of as many rows as there are heads in the batch."""
    from transformers import BloomConfig, BloomForCausalLM

    plm = BloomForCausalLM(BloomConfig(vocab_size=63, hidden_size=32, n_layer=3, n_head=4)).eval()
    stack, inputs = Stack.of(plm), {"input_ids": batch(4)["input_ids"].clamp(min=5)}
    with torch.no_grad(), stack.visited(plm, Leaving([3, 1, 3, 3])):
        with pytest.raises(BadInput, match="rows cannot leave it one by one; take together=True"):
            plm(**inputs)
        with stack.visited(plm, Leaving([1, 1, 1, 1])), pytest.raises(AllLeft):
            plm(**inputs)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("t5", {}, "has an encoder and a decoder"),
        ("bert", {"layers": 1}, "has 1 layer: there is none before the last"),
        ("albert", {"num_hidden_groups": 2}, "the layers of Albert.* are not called one after another"),
        ("deberta-v2", {"conv_kernel_size": 3}, "the layers of Deberta.*"),
    ],
)
def test_models_without_one_stack_of_layers_are_refused(
    name: str, changes: dict[str, Any], message: str
) -> None:
    plm = tiny_model(name) if name == "t5" else made(name, **changes)
    with pytest.raises(BadInput, match=message):
        Stack.of(plm)
