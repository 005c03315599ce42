"""The prompt classifier: the full model's answer at [MASK], with the head evaluated only there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import get_peft_model
from tiny import tiny_bert
from torch import Tensor, nn
from transformers import (
    BertForMaskedLM,
    BertModel,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

import pets
from bridges import BadInput, RunningCost
from pets.tasks.classifier import PromptClassifier
from pets.tasks.verbalizer import Verbalizer

VOCABULARY = 63
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
TOKENS = torch.tensor([7, 5, 11])
WORDS = Verbalizer(("a", "b", "c"), (("a",), ("b",), ("c",)), (((7,),), ((5,),), ((11,),)))
# peft knows the query and value projections of the others.
TARGETS = {"distilbert": {"target_modules": ["q_lin", "v_lin"]}}
TOLERANCE = 1e-5  # fp32: only the number of rows in the head's product differs


def deberta(*, legacy: bool) -> PreTrainedModel:
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    return DebertaV2ForMaskedLM(
        DebertaV2Config(**SIZES, **relative, position_biased_input=False, legacy=legacy)
    )


def distilbert() -> PreTrainedModel:
    return DistilBertForMaskedLM(
        DistilBertConfig(
            vocab_size=VOCABULARY,
            dim=32,
            n_layers=2,
            n_heads=4,
            hidden_dim=48,
            max_position_embeddings=40,
        )
    )


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": tiny_bert,
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SIZES)),
    "electra": lambda: ElectraForMaskedLM(ElectraConfig(**SIZES, embedding_size=24)),
    "distilbert": distilbert,
    "deberta-v2": lambda: deberta(legacy=True),
    "deberta-v2-new-head": lambda: deberta(legacy=False),
}


@pytest.fixture(params=MODELS)
def plm(request: pytest.FixtureRequest) -> PreTrainedModel:
    model = MODELS[request.param]().eval()
    # A fresh head has bias 0 and nearly equal scores: without this, wrong rows look right.
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Three rows of 9, 9 and 6 tokens; targets at different places, two in the last row."""
    ids = torch.randint(5, VOCABULARY, (3, 9))
    mask = torch.ones_like(ids)
    mask[2, 6:] = 0
    labels = torch.full_like(ids, -100)
    for row, column, label in ((0, 1, 0), (1, 4, 1), (2, 1, 0), (2, 5, 2)):
        labels[row, column] = label
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def test_it_answers_like_the_full_model(plm: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        chosen = batch["labels"] != -100
        tokens = TOKENS[batch["labels"].clamp(min=0)].where(chosen, -100)
        full = plm(**{**batch, "labels": tokens})
        short = PromptClassifier(plm, WORDS)(**batch)
    expected = full.logits[chosen].log_softmax(1)[:, TOKENS]
    assert short.logits.shape == (4, 3)
    torch.testing.assert_close(short.logits, expected, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(short.loss, full.loss, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_head_sees_only_the_targets(plm: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    rows: list[int] = []
    head = plm.get_output_embeddings()
    classifier = PromptClassifier(plm, WORDS)
    head.register_forward_hook(lambda module, args, output: rows.append(args[0].shape[:-1]))
    classifier(**batch)
    assert rows == [(4,)]


def test_a_lora_gets_the_gradient_of_loss_and_cost(
    plm: PreTrainedModel, batch: dict[str, Tensor]
) -> None:
    cost = RunningCost.for_model(plm)
    options = TARGETS.get(plm.config.model_type, {})
    model = get_peft_model(plm, pets.get("lora", init_lora_weights=False, **options))
    classifier = PromptClassifier(model, WORDS)
    lora = {n: p for n, p in classifier.named_parameters() if p.requires_grad}
    plain = torch.autograd.grad(classifier(**batch).loss, list(lora.values()))
    with pets.regularize(classifier, cost):
        output = classifier(**batch)
        both = torch.autograd.grad(output.loss, list(lora.values()))
    assert output.running_cost.isfinite()
    for name, with_cost, without in zip(lora, both, plain, strict=True):
        assert "lora_" in name
        assert with_cost.norm() > 0, name
        assert not torch.allclose(with_cost, without), name


def test_several_words_are_scored_together_and_the_cost_is_a_mixture(
    bert: BertForMaskedLM, batch: dict[str, Tensor]
) -> None:
    """A label is said by either of its words: probabilities add, and the loss is of their sum."""
    tokens = ((7,), (9,)), ((5,),), ((11, 12),)
    words = Verbalizer(("a", "b", "c"), (("a", "x"), ("b",), ("c d",)), tokens)
    chosen = batch["labels"] != -100
    cost = RunningCost.for_model(bert)
    classifier = PromptClassifier(bert, words).train()
    bert.requires_grad_(True)
    with pets.regularize(classifier, cost, 0.5):
        output = classifier(**batch)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    full = bert(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    p = full.logits[chosen].softmax(1)
    said = torch.stack([p[:, 7] + p[:, 9], p[:, 5], (p[:, 11] * p[:, 12]).sqrt()], 1)
    torch.testing.assert_close(output.logits.exp(), said)
    expected = cost(full.hidden_states, batch["labels"], mask, labels=words.ends(cost))
    torch.testing.assert_close(output.running_cost, expected.detach())
    task_loss = -said.gather(1, batch["labels"][chosen][:, None]).log().mean()
    torch.testing.assert_close(output.loss, task_loss + 0.5 * expected)


def test_dropout_is_never_active(batch: dict[str, Tensor]) -> None:
    plm = tiny_bert(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    model = get_peft_model(plm, pets.get("lora", lora_dropout=0.5, init_lora_weights=False))
    classifier = PromptClassifier(model, WORDS).train()
    assert classifier.training  # it is in train mode all the same: the cost asks for that
    assert torch.equal(classifier(**batch).logits, classifier(**batch).logits)
    assert torch.equal(classifier(**batch).logits, classifier.eval()(**batch).logits)


def test_remove_gives_the_model_back(bert: BertForMaskedLM, batch: dict[str, Tensor]) -> None:
    head = bert.get_output_embeddings()
    before = bert(**batch).logits
    classifier = PromptClassifier(bert, WORDS)
    assert head._forward_pre_hooks
    classifier(**batch)
    classifier.remove()
    assert not head._forward_pre_hooks
    assert torch.equal(bert(**batch).logits, before)


def test_the_model_itself_is_not_narrowed(bert: BertForMaskedLM, batch: dict[str, Tensor]) -> None:
    classifier = PromptClassifier(bert, WORDS)
    classifier(**batch)
    assert bert(**batch).logits.shape == (3, 9, VOCABULARY)


def test_an_error_in_forward_leaves_no_narrowing_behind(
    bert: BertForMaskedLM, batch: dict[str, Tensor]
) -> None:
    classifier = PromptClassifier(bert, WORDS)
    with pytest.raises(IndexError):
        classifier(**{**batch, "input_ids": batch["input_ids"] + VOCABULARY})
    assert bert(**batch).logits.shape == (3, 9, VOCABULARY)


def test_it_adds_nothing_to_the_saved_state(bert: BertForMaskedLM) -> None:
    assert set(PromptClassifier(bert, WORDS).state_dict()) == {f"model.{k}" for k in bert.state_dict()}


def test_a_model_without_vocabulary_head_is_refused(bert: BertForMaskedLM) -> None:
    with pytest.raises(BadInput, match="BertModel has no vocabulary head"):
        PromptClassifier(BertModel(bert.config), WORDS)


def test_something_that_is_no_language_model_is_refused() -> None:
    with pytest.raises(BadInput, match="holds no transformers model"):
        PromptClassifier(nn.Linear(2, 2), WORDS)
