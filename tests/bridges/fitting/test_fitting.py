"""Fitting the latent map: what it changes, that it can be interrupted, its text, its files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import TEXTS, VOCABULARY, WORDS, tiny_bert, tiny_llama, tiny_tokenizer
from torch import Tensor, nn
from transformers import BertConfig, GPT2Config, PretrainedConfig, RobertaConfig

from bridges import BadInput, FitResult, FitSettings, RunningCost
from bridges.fitting.batches import (
    batches,
    causal_batch,
    encoder_decoder_batch,
    masked_batch,
    token_rows,
)
from bridges.fitting.loop import FitLoop
from bridges.fitting.text import ReadBatch
from bridges.model.autocast import chosen_dtype
from bridges.model.positions import max_positions
from bridges.seeds import generator
from bridges.storage import checkpoint as storage
from bridges.storage.checkpoint import Snapshot
from bridges.storage.files import new_folder, write_text

pytestmark = pytest.mark.slow

SHORT = {
    "max_steps": 30,
    "batch_size": 8,
    "held_out": 12,
    "eval_every": 10,
    "patience": 99,
    "learning_rate": 0.01,
}
TOKENIZER = tiny_tokenizer()
MASK, PAD = TOKENIZER.mask_token_id, TOKENIZER.pad_token_id


def new_cost(model: nn.Module, bridge: str = "brownian") -> RunningCost:
    return RunningCost.for_model(model, bridge, widths=(16, 8))


def fit(cost: RunningCost, model: nn.Module, texts: list[str] = TEXTS, **changes: Any) -> FitResult:
    return cost.fit(model, TOKENIZER, texts, progress=False, **{**SHORT, **changes})


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C in the middle of this step."""
    original = FitLoop.step

    def interrupted(self: FitLoop, reading: ReadBatch) -> None:
        if reading.number == step:
            raise KeyboardInterrupt
        original(self, reading)

    monkeypatch.setattr(FitLoop, "step", interrupted)


# The fit


@pytest.mark.parametrize("make", [tiny_bert, tiny_llama])
@pytest.mark.parametrize("bridge", ["brownian", "ou:theta=2"])
def test_held_out_cost_falls(make: Any, bridge: str) -> None:
    """By a fifth at least; a fit that learned nothing would stay within a percent."""
    model = make()
    result = fit(new_cost(model, bridge), model)
    assert [step for step, _ in result.held_out] == [0, 10, 20, 30]
    assert [step for step, _ in result.training] == [10, 20, 30]
    assert result.best < 0.8 * result.held_out[0][1]
    assert dict(result.held_out)[result.best_step] == result.best
    assert (result.steps, result.stopped_early) == (30, False)


def test_the_best_map_on_held_out_text_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a learning rate so high that the cost rises again."""
    maps: dict[int, dict[str, Tensor]] = {}
    original = FitLoop.look

    def watched(self: FitLoop, held_out: float) -> None:
        maps[self.steps] = {k: v.clone() for k, v in self.cost.latent_map.state_dict().items()}
        original(self, held_out)

    monkeypatch.setattr(FitLoop, "look", watched)
    model = tiny_bert()
    cost = new_cost(model)
    result = fit(cost, model, learning_rate=0.9, eval_every=2)
    assert result.best_step < result.steps
    kept = cost.latent_map.state_dict()
    assert [s for s in maps if all(torch.equal(maps[s][k], kept[k]) for k in kept)] == [result.best_step]


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_bert().train()
    model.bert.encoder.layer[1].eval()
    model.bert.embeddings.requires_grad_(False)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    trainable = [p.requires_grad for p in model.parameters()]
    cost = new_cost(model)
    before = cost.digest()
    fit(cost, model)
    assert cost.digest() != before
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert all(p.grad is None for p in model.parameters())
    assert not any(p.requires_grad for p in cost.parameters())


def test_an_interrupted_fit_restores_modes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert().train()
    cost = new_cost(model)
    stop_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        fit(cost, model)
    assert all(m.training for m in model.modules())
    assert not any(p.requires_grad for p in cost.parameters())


def test_dropout_is_off() -> None:
    first, second = tiny_bert().eval(), tiny_bert().train()
    assert fit(new_cost(first), first, max_steps=10) == fit(new_cost(second), second, max_steps=10)


def test_a_fit_is_a_function_of_its_seed_alone() -> None:
    model, digests, results = tiny_bert(), [], []
    for noise, seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(noise)
        cost = new_cost(model)
        results.append(fit(cost, model, seed=seed))
        digests.append(cost.digest())
    assert digests[0] == digests[1] != digests[2]
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("make", [tiny_bert, tiny_llama])
@pytest.mark.parametrize("step", [4, 10, 25])
def test_interrupted_and_resumed_is_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, step: int
) -> None:
    """Bit for bit; the state is written every ten steps."""
    model = make()
    straight = new_cost(model)
    expected = fit(straight, model)
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            fit(new_cost(model), model, folder=tmp_path / "state")
    numbers: list[int] = []
    original = FitLoop.step

    def counted(self: FitLoop, reading: ReadBatch) -> None:
        numbers.append(reading.number)
        original(self, reading)

    monkeypatch.setattr(FitLoop, "step", counted)
    resumed = new_cost(model)
    result = fit(resumed, model, folder=tmp_path / "state")
    assert numbers == list(range(step // 10 * 10, 30))
    assert result == expected
    assert resumed.digest() == straight.digest()
    assert resumed.fit_record == straight.fit_record


def test_a_finished_fit_is_read_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert()
    cost, again = new_cost(model), new_cost(model)
    expected = fit(cost, model, folder=tmp_path)
    stop_at(monkeypatch, 0)
    assert fit(again, model, folder=tmp_path) == expected
    assert again.digest() == cost.digest()


def test_a_state_of_another_fit_is_refused_naming_what_differs(tmp_path: Path) -> None:
    model = tiny_bert()
    fit(new_cost(model), model, folder=tmp_path, max_steps=10)
    for changes, name in (({"seed": 1}, "seed 0 there, 1 here"), ({"texts": TEXTS[1:]}, "other text")):
        with pytest.raises(
            BadInput, match=rf"is from another run \({name}\): give what it was made with"
        ):
            fit(new_cost(model), model, folder=tmp_path, **{"max_steps": 10, **changes})
    with pytest.raises(BadInput, match=r"is from another run \(another cost\)"):
        fit(new_cost(model, "ou"), model, folder=tmp_path, max_steps=10)
    with pytest.raises(BadInput, match=r"another cost; max_steps 10 there, 20 here"):
        fit(new_cost(model, "ou"), model, folder=tmp_path, max_steps=20)


@pytest.mark.parametrize("patience", [1, 2])
def test_it_stops_when_nothing_is_gained(patience: int) -> None:
    """At this learning rate no look brings the 0.1 % that counts as a gain."""
    model = tiny_bert()
    result = fit(new_cost(model), model, learning_rate=1e-9, patience=patience, eval_every=3)
    assert (result.steps, result.stopped_early) == (3 * patience, True)


def test_learning_rate_rises_to_its_peak_and_falls_in_straight_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates: list[float] = []
    original = FitLoop.step

    def watched(self: FitLoop, reading: ReadBatch) -> None:
        original(self, reading)
        rates.append(self.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(FitLoop, "step", watched)
    model = tiny_bert()
    fit(new_cost(model), model, warmup=0.2, max_steps=20)
    up = [0.01 * k / 4 for k in (1, 2, 3, 4)]
    down = [0.01 * k / 17 for k in range(16, 0, -1)]
    assert rates == pytest.approx(up + down, rel=1e-12)


def test_gradients_are_clipped_to_norm_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small sigma makes them thousands; 1e-4 is what float32 leaves of the norm."""
    norms: list[float] = []
    original = FitLoop.step

    def watched(self: FitLoop, reading: ReadBatch) -> None:
        original(self, reading)
        grads = [p.grad for p in self.cost.latent_map.parameters() if p.grad is not None]
        norms.append(torch.cat([g.flatten() for g in grads]).norm().item())

    monkeypatch.setattr(FitLoop, "step", watched)
    model = tiny_bert()
    fit(new_cost(model, "brownian:sigma=0.01"), model, max_steps=3)
    assert norms == pytest.approx([1.0] * 3, abs=1e-4)


def test_the_record_says_what_was_done_and_survives_saving(tmp_path: Path) -> None:
    model = tiny_bert()
    cost = new_cost(model)
    result = fit(cost, model, seed=7)
    dtype = chosen_dtype("auto", model)  # of this machine
    assert cost.fit_record is not None
    assert cost.fit_record["settings"] == {**vars(FitSettings(dtype=dtype)), **SHORT, "seed": 7}
    assert cost.fit_record["steps"] == result.steps
    assert cost.fit_record["held_out"] == [list(pair) for pair in result.held_out]
    cost.save_pretrained(tmp_path / "cost")
    loaded = RunningCost.from_pretrained(tmp_path / "cost")
    assert loaded.fit_record == cost.fit_record
    assert loaded.digest() == cost.digest()


def test_long_text_is_cut_to_the_models_positions() -> None:
    model = tiny_bert()  # 40 positions
    result = fit(new_cost(model), model, [" ".join(WORDS * 4)] * 3, max_length=128, max_steps=2)
    assert result.steps == 2


@pytest.mark.parametrize(
    ("texts", "changes", "message"),
    [
        ([], {}, "the text is empty: give at least one non-blank line"),
        (["", "  \n"], {}, "the text is empty"),
        (["a b", "good film was"], {}, "none of the 2 texts has 4 tokens: fitting needs longer text"),
        (["[MASK] [SEP] zzz yyy xxx www"], {}, "none of the 1 texts has 4 tokens"),
        (TEXTS[:1], {}, "the text makes a single row of tokens: fitting needs at least two"),
        (
            TEXTS,
            {"epochs": 3, "lr": 1},
            r"takes no epochs, lr; it takes batch_size, .* steps \(or max_s",
        ),
        (TEXTS, {"max_steps": 0}, "max_steps=0: expected a whole number above 0"),
        (TEXTS, {"batch_size": -1}, "batch_size=-1: expected a whole number above 0"),
        (TEXTS, {"held_out": 0}, "held_out=0: expected"),
        (TEXTS, {"eval_every": 0}, "eval_every=0: expected"),
        (TEXTS, {"patience": 0}, "patience=0: expected"),
        (TEXTS, {"max_length": 7}, "max_length=7: expected at least 8 tokens"),
        (TEXTS, {"learning_rate": 1.0}, r"learning_rate=1.0: expected a number in \(0, 1\)"),
        (TEXTS, {"learning_rate": float("nan")}, r"learning_rate=nan: expected a number in \(0, 1\)"),
        (TEXTS, {"warmup": 0}, r"warmup=0: expected a share in \(0, 1\)"),
        (TEXTS, {"mask_share": 1.0}, r"mask_share=1.0: expected a share in \(0, 1\)"),
    ],
)
def test_bad_text_and_settings_are_refused(
    texts: list[str], changes: dict[str, Any], message: str
) -> None:
    model = tiny_bert()
    with pytest.raises(BadInput, match=message):
        fit(new_cost(model), model, texts, **changes)


def test_another_model_is_refused() -> None:
    with pytest.raises(BadInput, match="other weights"):
        fit(new_cost(tiny_bert()), tiny_bert(seed=1))


def test_a_masked_model_needs_a_mask_token() -> None:
    model, bare = tiny_bert(), tiny_tokenizer()
    bare.mask_token = None
    with pytest.raises(BadInput, match="has no mask token: fitting a masked LM needs one"):
        new_cost(model).fit(model, bare, TEXTS, progress=False)


def test_a_cost_that_is_not_finite_stops_the_fit() -> None:
    model = tiny_bert()
    cost = new_cost(model)
    with torch.no_grad():
        model.bert.encoder.layer[2].output.LayerNorm.bias[0] = float("nan")
    with pytest.raises(
        BadInput,
        match=r"the running cost of 'brownian' became nan at step 0: lower learning_rate \(0.01\)",
    ):
        fit(cost, model)


# Rows and batches

tokens = st.lists(st.integers(5, len(VOCABULARY) - 1), min_size=4, max_size=30)
row_lists = st.lists(tokens.map(lambda row: [2, *row, 3]), min_size=1, max_size=12)


def numbered_rows(count: int) -> list[list[int]]:
    """Rows of different lengths that can be told apart by their first token."""
    return [[i] * (4 + (i * 37) % 29) for i in range(count)]


@given(
    count=st.integers(1, 200),
    size=st.integers(1, 9),
    start=st.integers(0, 60),
    seed=st.integers(0, 2**40),
)
@settings(deadline=None, max_examples=40)
def test_every_row_comes_once_an_epoch_and_the_stream_goes_on_from_anywhere(
    count: int, size: int, start: int, seed: int
) -> None:
    rows = numbered_rows(count)
    per_epoch = -(-count // size)
    stream = list(itertools.islice(batches(rows, size, seed=seed), start + 2 * per_epoch))
    assert [number for number, _ in stream] == list(range(len(stream)))
    for epoch in range(2):
        seen = [
            row[0] for _, batch in stream[epoch * per_epoch : (epoch + 1) * per_epoch] for row in batch
        ]
        assert sorted(seen) == list(range(count))
    assert all(1 <= len(batch) <= size for _, batch in stream)
    later = itertools.islice(batches(rows, size, seed=seed, start=start), 2 * per_epoch)
    assert list(later) == stream[start:]


def test_epochs_and_seeds_differ_in_order() -> None:
    rows = numbered_rows(64)

    def order(seed: int, epoch: int) -> list[int]:
        stream = itertools.islice(batches(rows, 8, seed=seed), 8 * epoch, 8 * (epoch + 1))
        return [row[0] for _, batch in stream for row in batch]

    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_rows_of_like_length_are_batched_together() -> None:
    """Lengths run evenly from 4 to 32: unsorted batches of 8 would be about 40 % padding."""
    rows = numbered_rows(512)

    def padding(batch: list[list[int]]) -> int:
        return sum(max(map(len, batch)) - len(row) for row in batch)

    stream = [batch for _, batch in itertools.islice(batches(rows, 8, seed=0), 64)]
    unsorted = [rows[i : i + 8] for i in range(0, 512, 8)]
    assert sum(map(padding, stream)) < 0.2 * sum(map(padding, unsorted))
    # The batches themselves are shuffled: their lengths do not rise through the epoch.
    lengths = [max(map(len, batch)) for batch in stream]
    assert lengths != sorted(lengths)


@given(rows=row_lists, share=st.sampled_from([0.01, 0.15, 0.5, 0.99]), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_masked_targets_are_a_share_of_each_rows_words(
    rows: list[list[int]], share: float, seed: int
) -> None:
    batch = masked_batch(rows, TOKENIZER, share=share, rng=generator(seed))
    for i, row in enumerate(rows):
        n, words = len(row), len(row) - 2
        assert batch.attention_mask[i].tolist() == [1] * n + [0] * (batch.input_ids.shape[1] - n)
        assert (batch.input_ids[i, n:] == PAD).all()
        chosen = batch.targets[i] != -100
        assert not chosen[0]
        assert not chosen[n - 1 :].any()
        count = int(chosen.sum())
        assert 1 <= count <= words
        assert count == 1 or abs(count - share * words) <= 0.5 + 1e-5
        original = torch.tensor(row)
        assert (batch.targets[i, :n][chosen[:n]] == original[chosen[:n]]).all()
        assert (batch.input_ids[i, :n][~chosen[:n]] == original[~chosen[:n]]).all()


def test_masked_targets_are_shown_80_10_10() -> None:
    """20 000 targets, five binomial standard errors. The random token is the original, or the mask, once
    in a vocabulary."""
    rows = [[2, *([7 + i % 50] * 100), 3] for i in range(400)]
    batch = masked_batch(rows, TOKENIZER, share=0.5, rng=generator(0))
    chosen = batch.targets != -100
    total = int(chosen.sum())
    assert total == 20_000
    shown, original = batch.input_ids[chosen], batch.targets[chosen]
    chance = 1 / len(VOCABULARY)
    for found, expected in (
        (shown == MASK, 0.8 + 0.1 * chance),
        (shown == original, 0.1 + 0.1 * chance),
        ((shown != MASK) & (shown != original), 0.1 * (1 - 2 * chance)),
    ):
        error = (expected * (1 - expected) / total) ** 0.5
        assert abs(found.double().mean().item() - expected) <= 5 * error
    random = shown[(shown != MASK) & (shown != original)]
    assert len(random.unique()) == len(VOCABULARY) - 1  # every token but the mask


def test_masked_positions_are_spread_over_the_row() -> None:
    """Each of 20 positions in 4000 rows, five binomial standard errors."""
    rows = [[2, *([9] * 20), 3]] * 4000
    chosen = masked_batch(rows, TOKENIZER, share=0.15, rng=generator(0)).targets != -100
    expected, error = 0.15, (0.15 * 0.85 / 4000) ** 0.5
    assert (chosen[:, 1:21].double().mean(0) - expected).abs().max() <= 5 * error


@given(rows=row_lists, seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_causal_targets_are_the_end_of_each_row(rows: list[list[int]], seed: int) -> None:
    batch = causal_batch(rows, TOKENIZER, rng=generator(seed))
    for i, row in enumerate(rows):
        n = len(row)
        cut = int((batch.targets[i] != -100).nonzero()[0])
        assert max(1, n // 4) <= cut < n
        padding = batch.input_ids.shape[1] - n
        assert batch.targets[i].tolist() == [-100] * cut + row[cut:] + [-100] * padding
        assert batch.input_ids[i].tolist() == row + [PAD] * padding
        assert batch.attention_mask[i].tolist() == [1] * n + [0] * padding


@given(rows=row_lists, seed=st.integers(0, 2**31), share=st.sampled_from([0.15, 0.5, 0.99]))
@settings(deadline=None, max_examples=60)
def test_a_share_of_causal_targets_is_drawn_after_the_same_cut(
    rows: list[list[int]], seed: int, share: float
) -> None:
    """As many as are that share of the row, or all there are; the cut is the one without a share."""
    whole = causal_batch(rows, TOKENIZER, rng=generator(seed))
    drawn = causal_batch(rows, TOKENIZER, rng=generator(seed), share=share)
    again = causal_batch(rows, TOKENIZER, rng=generator(seed), share=share)
    assert torch.equal(drawn.targets, again.targets)
    assert torch.equal(drawn.input_ids, whole.input_ids)
    for row, every, some in zip(rows, whole.targets, drawn.targets, strict=True):
        chosen = some != -100
        asked = torch.tensor(len(row) * share).round().clamp(min=1)
        assert chosen.sum() == min(int(asked), int((every != -100).sum()))
        assert torch.equal(some[chosen], every[chosen])


def test_every_causal_place_after_the_cut_is_drawn_as_often() -> None:
    """By the share of those that are drawn at each place among those that may be."""
    rows = [[5] * 40] * 6000
    whole = causal_batch(rows, TOKENIZER, rng=generator(3)).targets != -100
    drawn = causal_batch(rows, TOKENIZER, rng=generator(3), share=0.05).targets != -100
    assert (drawn.sum(1) == whole.sum(1).clamp(max=2)).all()
    odds = drawn.sum(1) / whole.sum(1)  # of each place of a row, the same
    expected = (whole * odds[:, None]).sum(0)
    error = (whole * (odds * (1 - odds))[:, None]).sum(0).sqrt()
    assert ((drawn.sum(0) - expected).abs() <= 5 * error + 1e-9).all()


def test_a_decoder_predicts_a_share_of_its_tokens() -> None:
    rows = [[5, 6, 7, 8] * 10] * 50
    every, some = (
        encoder_decoder_batch(rows, TOKENIZER, start=1, rng=generator(2), share=share)
        for share in (None, 0.1)
    )
    chosen = some.targets != -100
    assert torch.equal(chosen.sum(1), (every.targets != -100).sum(1).clamp(max=4))
    assert torch.equal(some.targets[chosen], every.targets[chosen])
    assert torch.equal(every.input_ids, some.input_ids)
    assert every.decoder_input_ids is not None
    assert some.decoder_input_ids is not None
    assert torch.equal(every.decoder_input_ids, some.decoder_input_ids)


def test_causal_cuts_differ_between_rows() -> None:
    batch = causal_batch([[5] * 40] * 100, TOKENIZER, rng=generator(0))
    cuts = (batch.targets == -100).sum(1)
    assert len(cuts.unique()) > 20


@given(words=st.lists(st.sampled_from(WORDS), min_size=4, max_size=60), length=st.integers(8, 20))
@settings(deadline=None, max_examples=40)
def test_long_texts_are_cut_without_losing_tokens(words: list[str], length: int) -> None:
    """But for a remainder too short to be a row."""
    rows = token_rows(TOKENIZER, [" ".join(words)], max_length=length, most=100, seed=0)
    assert all(row[0] == 2 and row[-1] == 3 and len(row) <= length for row in rows)
    expected = TOKENIZER.convert_tokens_to_ids(words)
    remainder = len(words) % (length - 2)
    if 0 < remainder < 4:
        expected = expected[:-remainder]
    assert [token for row in rows for token in row[1:-1]] == expected


def test_rows_come_in_random_order_and_no_more_than_asked() -> None:
    texts = [" ".join([word] * 5) for word in WORDS]

    def words(seed: int, most: int = 1000) -> list[int]:
        return [row[1] for row in token_rows(TOKENIZER, texts, max_length=16, most=most, seed=seed)]

    assert sorted(words(0)) == sorted(TOKENIZER.convert_tokens_to_ids(WORDS))
    assert words(0) == words(0) != words(1)
    assert words(0, most=7) == words(0)[:7]


def test_short_rows_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="bridges"):
        rows = token_rows(
            TOKENIZER, ["good bad", "a film was", "the dog runs yes"], max_length=16, most=9, seed=0
        )
    assert len(rows) == 1
    assert "left out 2 rows of fewer than 4 tokens" in caplog.text


def test_special_tokens_written_in_a_text_are_plain_text() -> None:
    rows = token_rows(
        TOKENIZER, ["the dog [MASK] runs [SEP] yes [PAD] no"], max_length=32, most=9, seed=0
    )
    (row,) = rows
    assert MASK not in row
    assert PAD not in row
    assert row.count(TOKENIZER.sep_token_id) == 1


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (BertConfig(max_position_embeddings=512), 512),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (GPT2Config(n_positions=100), 100),
        (PretrainedConfig(), None),
        (PretrainedConfig(max_position_embeddings=-1), None),
    ],
)
def test_max_positions(config: PretrainedConfig, positions: int | None) -> None:
    assert max_positions(config) == positions


# Files


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    return Snapshot(tmp_path / "run" / "state.safetensors", {"seed": 1, "text": "abc"})


TENSORS = {"a": torch.tensor([1 / 3, float("inf")]), "b": torch.arange(4).reshape(2, 2).T}
FACTS = {"step": 3, "history": [[0, 1 / 3]]}


def test_a_snapshot_comes_back_exactly(snapshot: Snapshot) -> None:
    assert snapshot.load() is None
    snapshot.save(TENSORS, FACTS)
    loaded = snapshot.load()
    assert loaded is not None
    tensors, facts = loaded
    assert facts == FACTS
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[k], TENSORS[k]) for k in TENSORS)
    assert [p.name for p in snapshot.path.parent.iterdir()] == ["state.safetensors"]


def test_a_snapshot_of_another_identity_is_refused(snapshot: Snapshot) -> None:
    snapshot.save(TENSORS, FACTS)
    other = Snapshot(snapshot.path, {"seed": 2, "text": "abc", "more": None, "extra": 0})
    with pytest.raises(
        BadInput, match=r"from another run .extra None there, 0 here; seed 1 there, 2 here"
    ):
        other.load()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "no metadata", "other metadata"])
def test_a_broken_snapshot_is_refused(snapshot: Snapshot, damage: str) -> None:
    snapshot.save(TENSORS, FACTS)
    match damage:
        case "cut":
            snapshot.path.write_bytes(snapshot.path.read_bytes()[:-8])
        case "empty":
            snapshot.path.write_bytes(b"")
        case "text":
            snapshot.path.write_text("not a snapshot at all")
        case "no metadata":
            save_file({"a": torch.zeros(1)}, snapshot.path)
        case "other metadata":
            save_file({"a": torch.zeros(1)}, snapshot.path, {"identity": "[1]", "facts": "{}"})
    with pytest.raises(BadInput, match=r"state\.safetensors is no snapshot of a run .*delete it"):
        snapshot.load()


def test_a_snapshot_that_fails_leaves_the_one_before(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot.save(TENSORS, FACTS)

    def broken(tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(storage, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        snapshot.save(TENSORS, {"step": 4})
    loaded = snapshot.load()
    assert loaded is not None
    assert loaded[1] == FACTS


def test_removing_a_snapshot_spares_what_else_is_in_its_folder(snapshot: Snapshot) -> None:
    snapshot.save(TENSORS, FACTS)
    notes = snapshot.path.parent / "notes.txt"
    notes.write_text("mine")
    snapshot.remove()
    assert list(snapshot.path.parent.iterdir()) == [notes]
    notes.unlink()
    snapshot.remove()
    assert not snapshot.path.parent.exists()


def contents(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.txt").write_text("old")
    return folder


def test_new_folder_takes_the_place_of_the_old_one(old: Path) -> None:
    with new_folder(old) as new:
        (new / "b.txt").write_text("new")
        assert contents(old) == {"a.txt": "old"}
    assert contents(old.parent) == {"out/b.txt": "new"}


def replace_and_fail(target: Path, error: BaseException) -> None:
    with new_folder(target) as new:
        (new / "b.txt").write_text("new")
        raise error


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_new_folder_leaves_the_old_one_after_an_error(old: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        replace_and_fail(old, error)
    assert contents(old.parent) == {"out/a.txt": "old"}
    assert [p.name for p in old.parent.iterdir()] == ["out"]


def test_new_folder_leaves_nothing_of_a_first_attempt(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"):
        replace_and_fail(tmp_path / "deep" / "out", ValueError("no"))
    assert list((tmp_path / "deep").iterdir()) == []


def test_write_text_replaces_the_file_or_leaves_it(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.txt"
    write_text(file, "old")
    write_text(file, "grün")
    assert contents(tmp_path) == {"deep/a.txt": "grün"}
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "\ud800")
    assert file.read_text(encoding="utf-8") == "grün"
