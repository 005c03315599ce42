"""Early answers: of rows that left the exit's, of those that stayed the model's own."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from anytime_cases import (
    CLASSIFIER,
    LAYERS,
    MASK,
    WORDS,
    batch,
    cost_of,
    labelled,
    plm_of,
    with_pet,
)
from tiny import tiny_model, tiny_tokenizer
from torch import Tensor, nn
from torch.testing import assert_close

from bridges import BadInput, RunningCost, Trajectory
from bridges.latent.trajectory import normalised
from bridges.model.spec import pretrained_model
from pets import AnytimeClassifier, Verbalizer

pytestmark = pytest.mark.slow

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
PETS = ["none", "lora", "prefix", "prompt", "adapter", "bitfit", "ia3", "p-tuning"]


def full(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    with torch.no_grad():
        return model(**inputs, output_hidden_states=True)


def places(name: str, inputs: dict[str, Tensor], length: int) -> Tensor:
    """Of language models, found row by row."""
    found = []
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        told = (ids == MASK) if name == "bert" else mask.bool()
        found.append(int(told.nonzero()[-1]) + length - len(ids))
    return torch.tensor(found)


def read_by_hand(anytime: AnytimeClassifier, states: list[Tensor], at: Tensor, layer: int) -> Tensor:
    """The posterior after a layer by the cost itself, calibrated, of [B, S, H] states of all layers."""
    rows = torch.arange(len(at))
    stacked = torch.stack([h[rows, at].float() for h in states])
    cost = anytime._exits.cost
    odds = cost.posterior(Trajectory(stacked, stacked[:, :0], rows), WORDS.ends(cost))
    return anytime._exits[layer].calibration(odds[layer]).exp().float()


def own_answer(name: str, output: Any, at: Tensor) -> Tensor:
    if output.logits.dim() == 2:
        return output.logits.softmax(-1)
    logits = output.logits[torch.arange(len(at)), at]
    return WORDS.score(logits).softmax(-1)


def check(anytime: AnytimeClassifier, model: nn.Module, inputs: dict[str, Tensor], at: Any) -> set[int]:
    """Each row by itself: where it left, nothing before was sure, and the answer is that layer's."""
    output = full(model, inputs)
    found = anytime(**inputs)
    count = len(inputs["input_ids"])
    where = at(output.hidden_states[0].shape[1]) if callable(at) else at
    sure = {k: read_by_hand(anytime, output.hidden_states, where, k) for k in anytime.layers}
    assert found.labels.shape == found.layers.shape == (count,)
    assert found.labels.dtype == found.layers.dtype == torch.int64
    assert torch.equal(found.labels, found.probabilities.argmax(1))
    for row in range(count):
        near = 1e-4
        layer = int(found.layers[row])
        before = [k for k in anytime.layers if k < layer]
        assert all(sure[k][row].max() < anytime.threshold + near for k in before)
        if layer < LAYERS:
            assert sure[layer][row].max() > anytime.threshold - near
            assert_close(found.probabilities[row], sure[layer][row], **CLOSE)
        else:
            own = own_answer("", output, where)[row]
            assert_close(found.probabilities[row], own, **CLOSE)
    return set(found.layers.tolist())


def at_the_median(
    anytime: AnytimeClassifier, model: nn.Module, inputs: Any, where: Any, layer: int
) -> None:
    """Half of the rows are sure at a layer."""
    output = full(model, inputs)
    at = where(output.hidden_states[0].shape[1])
    sure = read_by_hand(anytime, output.hidden_states, at, layer).amax(1)
    anytime.threshold = min(0.999, float(sure.median()) + 1e-6)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("pet", PETS)
def test_a_language_model_with_any_pet(pet: str, name: str) -> None:
    if (pet, name) == ("bitfit", "llama"):
        pytest.skip("has no biases")
    plm = plm_of(name)
    model = with_pet(plm, pet)
    masked = name == "bert"
    anytime = AnytimeClassifier(model, cost_of(name), WORDS)
    anytime.fit(labelled(3, masked=masked))
    seen: set[int] = set()
    for side, layer in (("right", 1), ("left", 2), ("right", 3)):
        inputs = batch(9, masked=masked, side=side, seed=layer)
        where = lambda length, inputs=inputs: places(name, inputs, length)  # noqa: E731
        at_the_median(anytime, model, inputs, where, layer)
        seen |= check(anytime, model, inputs, where)
    assert len(seen) > 1


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pet", ["none", "lora", "prefix", "adapter", "prompt"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_a_classifier_with_any_pet(name: str, pet: str, side: str) -> None:
    """A causal one is read at its last token that is no padding, as transformers pools it."""
    if side == "left" and name == "bert":
        pytest.skip("its first position is read")
    plm = plm_of(name, CLASSIFIER)
    model = with_pet(plm, pet)
    causal_prompt = pet == "prompt" and name != "bert"
    anytime = AnytimeClassifier(model, cost_of(name, CLASSIFIER), WORDS)
    examples = labelled(3, masked=False, side=side)
    if causal_prompt and side == "right":  # then the last position is read, whatever it is
        with pytest.raises(BadInput, match=r"reads padding.*pad on the left"):
            anytime.fit(examples)
        return
    anytime.fit(examples)
    inputs = batch(9, masked=False, side=side, seed=5)

    def where(length: int) -> Tensor:
        if name == "bert":
            return torch.zeros(9, dtype=torch.long)
        last = (inputs["input_ids"] != 0) * torch.arange(inputs["input_ids"].shape[1])
        return last.amax(1) + length - inputs["input_ids"].shape[1]

    for layer in (1, 2, 3):
        at_the_median(anytime, model, inputs, where, layer)
        check(anytime, model, inputs, where)


@pytest.mark.parametrize(
    "bridge", ["fractional:hurst=0.3,likelihood=path", "alpha:alpha=2,likelihood=path"]
)
def test_a_process_that_remembers_reads_all_layers_from_the_embeddings_on(bridge: str) -> None:
    model = plm_of("bert")
    anytime = AnytimeClassifier(model, cost_of("bert", None, bridge), WORDS, layers=[2, 3])
    anytime.fit(labelled(3, masked=True))
    assert anytime._exits[3].reads == (0, 1, 2, 3)
    inputs = batch(9, masked=True, seed=3)
    where = lambda length: places("bert", inputs, length)  # noqa: E731
    at_the_median(anytime, model, inputs, where, 2)
    assert 2 in check(anytime, model, inputs, where)


def fitted(name: str = "bert", **options: Any) -> tuple[AnytimeClassifier, nn.Module]:
    model = plm_of(name)
    anytime = AnytimeClassifier(model, cost_of(name), WORDS, **options)
    return anytime.fit(labelled(3, masked=name == "bert")), model


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_each_row_is_answered_as_by_itself(name: str) -> None:
    anytime, model = fitted(name)
    inputs = batch(7, masked=name == "bert", seed=4)
    where = lambda length: places(name, inputs, length)  # noqa: E731
    at_the_median(anytime, model, inputs, where, 2)
    whole = anytime(**inputs)
    for row in range(7):
        one = anytime(**{k: x[row : row + 1] for k, x in inputs.items()})
        assert int(one.layers) == int(whole.layers[row])
        assert_close(one.probabilities[0], whole.probabilities[row], **CLOSE)


def test_together_the_batch_leaves_where_all_rows_are_sure() -> None:
    apart, model = fitted()
    inputs = batch(7, masked=True, seed=4)
    states = full(model, inputs).hidden_states
    at = places("bert", inputs, 8)
    together, _ = fitted(together=True)
    sure = {k: read_by_hand(together, states, at, k).amax(1).min() for k in together.layers}
    for threshold in (*(float(x) - 1e-5 for x in sure.values()), 0.999):
        together.threshold = threshold
        found = together(**inputs)
        expected = next((k for k in together.layers if sure[k] >= threshold), LAYERS)
        assert found.layers.tolist() == [expected] * 7
    del apart


def test_only_at_some_layers() -> None:
    anytime, model = fitted(layers=(3, 1, 3), threshold=0.5)
    assert anytime.layers == (1, 3)
    inputs = batch(6, masked=True)
    assert check(anytime, model, inputs, places("bert", inputs, 8)) == {1}
    one, _ = fitted(layers=2, threshold=0.5)
    assert one(**inputs).layers.tolist() == [2] * 6


def test_layers_behind_an_exit_are_not_run() -> None:
    anytime, model = fitted(threshold=0.5, layers=[2])
    ran: list[int] = []
    for layer in pretrained_model(model).bert.encoder.layer:
        layer.register_forward_hook(lambda m, args, out: ran.append(1))
    anytime(**batch(6, masked=True))
    assert len(ran) == 2


def test_token_labels_and_class_labels_are_the_same() -> None:
    for name in ("bert", "llama"):
        masked, classes = name == "bert", labelled(3, masked=name == "bert")
        tokens = []
        for given in classes:
            ids, mask, labels = (given[k].clone() for k in ("input_ids", "attention_mask", "labels"))
            words = torch.tensor([WORDS.tokens[0][0][0], WORDS.tokens[1][1][0]])[labels]
            if masked:
                told = torch.full_like(ids, -100)
                told[ids == MASK] = words
            else:  # the answer stands behind the prompt
                ids, mask = (torch.cat([x, x.new_zeros(len(x), 1)], 1) for x in (ids, mask))
                told = torch.full_like(ids, -100)
                rows, at = torch.arange(len(ids)), mask.sum(1)
                ids[rows, at], mask[rows, at], told[rows, at] = words, 1, words
            tokens.append({"input_ids": ids, "attention_mask": mask, "labels": told})
        one = AnytimeClassifier(plm_of(name), cost_of(name), WORDS).fit(classes)
        other = AnytimeClassifier(plm_of(name), cost_of(name), WORDS).fit(tokens)
        for k in one.layers:
            assert_close(other._exits[k].weight, one._exits[k].weight, rtol=1e-3, atol=1e-3)
            assert_close(
                other._exits[k].calibration.scale, one._exits[k].calibration.scale, rtol=1e-3, atol=1e-3
            )


def test_a_second_fit_forgets_the_first() -> None:
    once, _ = fitted()
    twice, _ = fitted()
    twice.fit(labelled(4, masked=True)).fit(labelled(3, masked=True))
    for k in once.layers:
        assert torch.equal(once._exits[k].weight, twice._exits[k].weight)
        assert torch.equal(once._exits[k].calibration.bias, twice._exits[k].calibration.bias)


def test_without_labels_the_labels_become_as_likely() -> None:
    anytime = AnytimeClassifier(plm_of("bert"), cost_of("bert"), WORDS)
    examples = [{k: x for k, x in b.items() if k != "labels"} for b in labelled(4, masked=True)]
    anytime.calibrate(examples)
    for k in anytime.layers:
        assert anytime._exits[k].calibration.scale == 1
        anytime.threshold = 1e-9 + 0.5
    one = AnytimeClassifier(plm_of("bert"), cost_of("bert"), WORDS, 0.5, layers=[2])
    one.calibrate(examples)
    mean = torch.cat([one(**b).probabilities for b in examples]).mean(0)
    assert_close(mean, torch.full((2,), 0.5), rtol=1e-4, atol=1e-4)


def test_accuracies_are_those_of_each_layers_answers() -> None:
    anytime, model = fitted()
    examples = labelled(3, masked=True, rows=5)
    found = anytime.accuracies(examples)
    assert list(found) == [1, 2, 3, LAYERS]
    for k in found:
        right = []
        for given in examples:
            inputs = {n: x for n, x in given.items() if n != "labels"}
            output, at = full(model, inputs), places("bert", inputs, 8)
            by_layer = read_by_hand(anytime, output.hidden_states, at, k) if k < LAYERS else None
            answer = own_answer("bert", output, at) if by_layer is None else by_layer
            right.append((answer.argmax(1) == given["labels"]).double())
        assert found[k] == pytest.approx(float(torch.cat(right).mean()))


def test_the_model_is_left_as_it_was() -> None:
    model = plm_of("bert").train()
    model.bert.embeddings.eval()
    full(model, batch(2, masked=True))
    modes = {n: m.training for n, m in model.named_modules()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    anytime = AnytimeClassifier(model, cost_of("bert"), WORDS).fit(labelled(2, masked=True))
    output = anytime(**batch(3, masked=True))
    assert not output.probabilities.requires_grad
    with pytest.raises(BadInput):
        anytime(input_ids=torch.full((2, 5), 9))
    assert {n: m.training for n, m in model.named_modules()} == modes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_in_bf16_and_under_autocast(name: str) -> None:
    """An exit reads in float32 whatever is around it."""
    anytime, model = fitted(name, threshold=0.5, layers=[2])
    inputs = batch(5, masked=name == "bert")
    where = lambda length: places(name, inputs, length)  # noqa: E731
    states = torch.randn(5, 32)
    plain = anytime._exits[2]({2: states})
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(anytime._exits[2]({2: states}), plain)
        assert check(anytime, model, inputs, where) == {2}
    model.to(torch.bfloat16)
    assert check(anytime, model, inputs, where) == {2}
    assert anytime(**inputs).probabilities.dtype == torch.float32


def test_states_that_overflow_are_never_sure() -> None:
    anytime, model = fitted(threshold=0.5)
    for value in (float("inf"), float("nan")):
        states = torch.randn(3, 32)
        states[1] = value
        assert anytime._exits[2]({2: states})[1].isnan().all()
        with torch.no_grad():
            here = torch.tensor([0, 1, 0]).bool()[:, None, None]
            layer = pretrained_model(model).bert.encoder.layer[0]
            hook = layer.register_forward_hook(
                lambda m, a, out, here=here, value=value: out.masked_fill(here, value)
            )
            found = anytime(**batch(3, masked=True))
            hook.remove()
        assert found.layers.tolist() == [1, LAYERS, 1]
        assert found.probabilities[1].isnan().all()  # as the model's own answer
        assert found.probabilities[[0, 2]].isfinite().all()


def test_large_states_are_read_as_small_ones() -> None:
    anytime, _ = fitted()
    states = torch.randn(4, 32)
    expected = anytime._exits[2]({2: states})
    assert_close(anytime._exits[2]({2: (states * 1e4).half()}), expected, rtol=0.02, atol=0.02)
    assert normalised((states * 1e4).half()).dtype == torch.float32


def test_logits_to_keep_and_output_options_change_nothing() -> None:
    anytime, _ = fitted("llama", threshold=0.7)
    inputs = batch(5, masked=False)
    expected = anytime(**inputs)
    more = {"logits_to_keep": 1, "use_cache": True, "output_hidden_states": True, "return_dict": False}
    assert torch.equal(anytime(**inputs, **more).probabilities, expected.probabilities)
    labels = torch.zeros(5, dtype=torch.long)
    assert torch.equal(anytime(**inputs, labels=labels).probabilities, expected.probabilities)


def test_threads_predict_one_after_another() -> None:
    """Modes and hooks are the model's: several threads, and forwards of others, do not meet in them."""
    plm = tiny_model("bert", num_hidden_layers=4)
    cost = RunningCost.for_model(plm, "brownian", map="lens")
    words = Verbalizer.of_words(tiny_tokenizer(), ["good", "bad"])
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(7, 40, (12, 9), generator=rng)
    ids[:, 4] = tiny_tokenizer().mask_token_id
    made = [AnytimeClassifier(plm, cost, words, threshold) for threshold in (0.501, 0.6)]
    given = [ids, ids[:7]]
    alone = [one(input_ids=rows) for one, rows in zip(made, given, strict=True)]
    with torch.no_grad():
        whole = plm(input_ids=ids).logits
    wrong: list[object] = []

    def predict(k: int) -> None:
        try:
            for _ in range(10):
                found = made[k](input_ids=given[k])
                if not torch.equal(found.probabilities, alone[k].probabilities):
                    wrong.append((k, "another answer"))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=predict, args=(k,)) for k in (0, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    with torch.no_grad():
        assert torch.equal(plm(input_ids=ids).logits, whole)


def test_fitted_in_inference_mode_and_by_short_labels() -> None:
    plm = tiny_model("bert", num_hidden_layers=4)
    cost = RunningCost.for_model(plm, "brownian", map="lens")
    words = Verbalizer.of_words(tiny_tokenizer(), ["good", "bad"])
    ids = torch.randint(7, 40, (12, 9), generator=torch.Generator().manual_seed(0))
    ids[:, 4] = tiny_tokenizer().mask_token_id
    labels = torch.arange(12) % 2
    plain = AnytimeClassifier(plm, cost, words).fit([{"input_ids": ids, "labels": labels}])
    for dtype in (torch.int16, torch.uint8, torch.int32):
        with torch.inference_mode():
            batches = [{"input_ids": ids, "labels": labels.to(dtype)}]
            other = AnytimeClassifier(plm, cost, words).fit(batches)
        found = other(input_ids=ids).probabilities
        assert torch.equal(found, plain(input_ids=ids).probabilities)
