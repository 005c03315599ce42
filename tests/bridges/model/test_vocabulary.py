"""End points are rows of the table that the model predicts from, and a fit keeps to its tokens."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from every_class import tiny
from tiny import TEXTS, VOCABULARY, tiny_bert, tiny_llama, tiny_model, tiny_tokenizer
from torch import nn
from transformers import (
    BertConfig,
    BigBirdConfig,
    BigBirdForMaskedLM,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    FSMTConfig,
    FSMTForConditionalGeneration,
    GPT2Config,
    MarianConfig,
    MarianMTModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

import pets
from bridges import BadInput, RunningCost
from bridges.fitting.batches import masked_batch
from bridges.latent.end_points import EndPoints
from bridges.seeds import generator

SIZE, OTHER = len(VOCABULARY), 40
SIDE = {"num_attention_heads": 4, "intermediate_size": 48, "hidden_size": 32, "num_hidden_layers": 2}
HALVES = {
    "d_model": 32,
    **dict.fromkeys(["encoder_layers", "decoder_layers"], 2),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 4),
    **dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim"], 48),
}
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}


def marian() -> Any:
    config = MarianConfig(
        vocab_size=SIZE,
        decoder_vocab_size=OTHER,
        share_encoder_decoder_embeddings=False,
        tie_word_embeddings=False,
        **HALVES,
        **IDS,
    )
    return MarianMTModel(config)


def fsmt() -> Any:
    config = FSMTConfig(langs=["en", "de"], src_vocab_size=SIZE, tgt_vocab_size=OTHER, **HALVES, **IDS)
    return FSMTForConditionalGeneration(config)


def bert_to_gpt2() -> Any:
    decoder = GPT2Config(
        vocab_size=OTHER, n_embd=32, n_layer=3, n_head=4, is_decoder=True, add_cross_attention=True
    )
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        BertConfig(vocab_size=SIZE, **SIDE), decoder
    )
    config.decoder_start_token_id, config.pad_token_id = 2, 0
    return EncoderDecoderModel(config=config)


@pytest.mark.parametrize("make", [marian, fsmt, bert_to_gpt2])
def test_two_vocabularies(make: Any) -> None:
    """The labels are tokens of the decoder's."""
    torch.manual_seed(0)
    plm = make().eval()
    cost = RunningCost.for_model(plm, latent_dim=4)
    assert cost.spec.vocab_size == OTHER
    table = plm.get_output_embeddings().weight
    assert table.shape == (OTHER, 32)
    assert torch.equal(cost.end_points.vectors, EndPoints.from_embeddings(table, 4).vectors)
    labels = torch.tensor([[OTHER - 1, 7, 3], [9, 3, -100]])
    with pets.regularize(plm, cost, in_eval=True):
        inputs = {"input_ids": torch.tensor([[SIZE - 1, 5], [6, 7]]), "labels": labels}
        shown = torch.tensor([[2, OTHER - 1, 7], [2, 9, 3]])  # FSMT would show the source
        assert plm(**inputs, decoder_input_ids=shown).running_cost > 0
    with pytest.raises(
        BadInput, match="vocabulary of 63 tokens and the decoder one of 40: fit reads both"
    ):
        cost.fit(plm, tiny_tokenizer(), TEXTS, max_steps=1, progress=False)


def test_a_head_without_a_decoder_has_its_table() -> None:
    """Without the head, the decoder's input embeddings: Marian ties the two."""
    plm = marian()
    cost = RunningCost.for_model(plm.base_model, latent_dim=4)
    table = plm.get_decoder().get_input_embeddings().weight
    assert torch.equal(cost.end_points.vectors, EndPoints.from_embeddings(table, 4).vectors)


def test_untied_output_embeddings_are_the_end_points() -> None:
    plm = tiny_llama()
    head, words = plm.get_output_embeddings().weight, plm.get_input_embeddings().weight
    assert not torch.equal(head, words)
    cost = RunningCost.for_model(plm, latent_dim=4)
    assert torch.equal(cost.end_points.vectors, EndPoints.from_embeddings(head, 4).vectors)


@pytest.mark.parametrize("model_type", ["bert", "albert", "gpt2", "t5", "electra"])
def test_tied_ones_are_the_input_embeddings(model_type: str) -> None:
    plm = tiny_model(model_type)
    words = plm.get_input_embeddings().weight
    cost = RunningCost.for_model(plm, latent_dim=4)
    assert torch.equal(cost.end_points.vectors, EndPoints.from_embeddings(words, 4).vectors)


def test_a_model_without_words_is_refused() -> None:
    with pytest.raises(BadInput, match="CanineForSequenceClassification has no word embeddings to take"):
        RunningCost.for_model(tiny("CanineForSequenceClassification"))


def test_a_quantised_table_is_refused() -> None:
    plm = tiny_llama()
    head = plm.get_output_embeddings()
    head.weight = nn.Parameter(torch.zeros(10, 3, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(BadInput, match=r"are quantised \(torch\.uint8\): leave them out"):
        RunningCost.for_model(plm)


# What a fit shows the model


def test_a_tokenizer_with_more_tokens_than_the_model() -> None:
    """Works where they do not occur: none is drawn; refused with the remedy where they do."""
    plm, tokenizer = tiny_bert(), tiny_tokenizer()
    tokenizer.add_tokens([f"<new{i}>" for i in range(400)])
    cost = RunningCost.for_model(plm)
    cost.fit(plm, tokenizer, TEXTS, max_steps=5, progress=False)
    with pytest.raises(
        BadInput,
        match=r"token 63 \('<new0>'\) of the text, and the model has 63 rows: .*resize_token_em",
    ):
        cost.fit(plm, tokenizer, [*TEXTS, "good <new0> bad film story"], max_steps=5, progress=False)


def test_random_tokens_are_the_models_own() -> None:
    """Where it has all of the tokenizer's, the same ones are drawn as ever."""
    rows = [[2, *range(10, 50), 3]] * 8
    made = [
        masked_batch(rows, tiny_tokenizer(), share=1.0, rng=generator(1), vocabulary=size)
        for size in (None, SIZE, SIZE + 1, 20)
    ]
    assert torch.equal(made[0].input_ids, made[1].input_ids)
    assert torch.equal(made[0].input_ids, made[2].input_ids)
    drawn = made[3].input_ids[(made[3].input_ids != torch.tensor(rows)) & (made[3].input_ids != 4)]
    assert len(drawn) > 10
    assert int(drawn.max()) < 20


def test_a_padding_token_that_the_model_lacks_is_never_shown() -> None:
    results = []
    for pad in ("[PAD]", "<pad>"):
        plm, tokenizer = tiny_llama(), tiny_tokenizer()
        tokenizer.add_special_tokens({"pad_token": pad})
        cost = RunningCost.for_model(plm)
        results.append(cost.fit(plm, tokenizer, TEXTS, max_steps=3, progress=False))
    assert results[0].held_out == results[1].held_out


def test_a_mask_token_that_the_model_lacks_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<m>"})
    plm = tiny_bert()
    with pytest.raises(BadInput, match=r"makes token 63 \('<m>'\)"):
        RunningCost.for_model(plm).fit(plm, tokenizer, TEXTS, max_steps=1, progress=False)


def test_audio_is_no_text() -> None:
    config = WhisperConfig(vocab_size=SIZE, num_mel_bins=8, max_source_positions=8, **HALVES, **IDS)
    plm = WhisperForConditionalGeneration(config)
    with pytest.raises(BadInput, match=r"cannot be asked.*takes input_features, no token ids"):
        RunningCost.for_model(plm)
    cost = RunningCost.for_model(plm, reads="same")
    assert (cost.spec.num_layers, cost.spec.vocab_size) == (2, SIZE)
    cost.check_model(plm)
    with pytest.raises(BadInput, match=r"fit reads text, and .* takes input_features, no token ids"):
        cost.fit(plm, tiny_tokenizer(), TEXTS, max_steps=1, progress=False)


def test_states_of_padding_to_whole_blocks_are_left_out() -> None:
    """BigBird pads long rows on the right, and returns the padding's states too."""
    config = BigBirdConfig(
        vocab_size=SIZE, max_position_embeddings=64, block_size=4, num_random_blocks=1, **SIDE
    )
    plm = BigBirdForMaskedLM(config)
    text = " ".join(TEXTS[:5])
    cost = RunningCost.for_model(plm, latent_dim=4)
    lengths: list[tuple[int, int]] = []
    base: Any = plm.base_model
    hook = base.register_forward_hook(
        lambda m, args, kwargs, out: lengths.append(
            (kwargs["input_ids"].shape[1], out.hidden_states[0].shape[1])
        ),
        with_kwargs=True,
    )
    short = {"max_steps": 3, "progress": False}
    result = cost.fit(plm, tiny_tokenizer(), [text] * 20, dtype="model", **short)
    hook.remove()
    assert torch.isfinite(torch.tensor([value for _, value in result.held_out])).all()
    with pytest.raises(BadInput, match=r"fails under an autocast to bfloat16.*scatter.*dtype='model'"):
        cost.fit(plm, tiny_tokenizer(), [text] * 20, dtype="bfloat16", **short)
    assert any(longer > length for length, longer in lengths)


def test_a_decoder_that_attends_to_all_is_told(caplog: pytest.LogCaptureFixture) -> None:
    plm = tiny("BertLMHeadModel")
    cost = RunningCost.for_model(plm, latent_dim=4)
    with caplog.at_level(logging.WARNING):
        cost.fit(plm, tiny_tokenizer(), TEXTS, max_steps=1, progress=False)
    assert "was it meant to be a decoder (is_decoder=True" in caplog.text
