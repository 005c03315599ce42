"""A cost on every kind of head: classifiers of sequences and tokens, encoder-decoders, label words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import ARCHITECTURES, VOCABULARY, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers.utils import ModelOutput

import pets
from bridges import BadInput, RunningCost
from pets import Verbalizer
from pets.plug.labels import SequenceTargets

IDS = torch.tensor([[2, 5, 10, 11, 6, 7, 3], [2, 6, 12, 5, 3, 0, 0]])
MASK = (IDS != 0).long()
CLASSES = torch.tensor([2, 0])
WORDS = {"no": "bad", "maybe": ["slow", "very fine"], "yes": ["good", "fine"]}
WEIGHT = 0.7
BATCH = {"input_ids": IDS, "attention_mask": MASK}
# Padded on the left: behind a soft prompt a causal classifier reads the last position.
LEFT = {name: torch.stack([x[0], x[1].roll(2)]) for name, x in BATCH.items()}
CLASSIFIERS = sorted(ARCHITECTURES)
LAST = ("gpt2", "llama", "qwen2", "qwen3", "t5")  # they read a sequence at its end


def classifier(model_type: str = "bert", **changes: Any) -> nn.Module:
    return tiny_model(model_type, head="ForSequenceClassification", num_labels=3, **changes)


def words() -> Verbalizer:
    return Verbalizer.of_words(tiny_tokenizer(), WORDS)


def states(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    output = model(**inputs, output_hidden_states=True)
    return tuple(output.get("decoder_hidden_states") or output.hidden_states)


# Sequence classifiers


@pytest.mark.parametrize(
    ("model_type", "reader"),
    [*((name, "mlp") for name in CLASSIFIERS), ("bert", "lens"), ("llama", "lens")],
)
def test_a_sequence_is_read_where_its_head_reads_it(model_type: str, reader: str) -> None:
    """At [CLS], or at the last token that is no padding; its context is all that is attended."""
    plm = classifier(model_type)
    cost = RunningCost.for_model(plm, map=reader)
    with pets.regularize(plm, cost, WEIGHT, verbalizer=words()):
        plm.eval()
        plm.training = True  # without dropout
        output = plm(**BATCH, labels=CLASSES)
        task_loss = nn.functional.cross_entropy(output.logits, CLASSES)
    targets = torch.full_like(IDS, -100)
    targets[[0, 1], [6, 4] if model_type in LAST else [0, 0]] = CLASSES
    expected = cost(states(plm.eval(), BATCH), targets, MASK, labels=words().ends(cost), in_place=True)
    torch.testing.assert_close(output.running_cost, expected.detach())
    torch.testing.assert_close(output.loss, task_loss + WEIGHT * expected)


@pytest.mark.parametrize("model_type", ["bert", "llama", "roberta", "modernbert"])
@pytest.mark.parametrize("pet", pets.available())
def test_every_pet_trains_a_classifier_with_its_head(model_type: str, pet: str) -> None:
    """20 steps: loss and cost fall, nothing but the PET and the new head moves."""
    plm = classifier(model_type)
    cost = RunningCost.for_model(plm)
    try:
        config = pets.get(pet, model=plm)
        assert config.task_type == "SEQ_CLS"
        model = get_peft_model(plm, config)
    except BadInput as error:
        pytest.skip(str(error))  # the pairs are in docs/support.md
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("modules_to_save" in name for name in trained), "the head is new and has to be trained"
    optimizer = torch.optim.Adam(trained.values(), lr=1e-2)
    found = []
    with pets.regularize(model.train(), cost, WEIGHT, verbalizer=words()):
        plm.eval()
        for _ in range(20):
            output = model(**(LEFT if model_type in LAST else BATCH), labels=CLASSES)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            found.append((output.loss.item(), output.running_cost.item()))
    assert found[-1][0] < found[0][0] - 1e-2
    assert found[-1][1] < found[0][1]
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == trained.keys()


def test_a_soft_prompt_moves_the_position_that_is_read() -> None:
    """[CLS] stands behind the prompt, but BERT's head reads the first position, a prompt's."""
    plm = classifier()
    cost = RunningCost.for_model(plm)
    model = get_peft_model(plm, pets.get("prompt", model=plm, num_virtual_tokens=3))
    with pets.regularize(model, cost, WEIGHT, verbalizer=words(), in_eval=True):
        model.eval()
        output = model(**BATCH, labels=CLASSES, output_hidden_states=True)
    targets = torch.full((2, 10), -100)
    targets[:, 0] = CLASSES
    mask = torch.cat([torch.ones(2, 3).long(), MASK], 1)
    expected = cost(output.hidden_states, targets, mask, labels=words().ends(cost), in_place=True)
    torch.testing.assert_close(output.running_cost, expected.detach())


def test_a_causal_classifier_behind_a_prompt_reads_the_end() -> None:
    """It gets embeddings and cannot see the padding, so transformers takes the last position."""
    plm = classifier("llama")
    cost = RunningCost.for_model(plm)
    model = get_peft_model(plm, pets.get("prompt", model=plm, num_virtual_tokens=3))
    full = {"input_ids": IDS[:1], "attention_mask": MASK[:1]}
    with pets.regularize(model.train(), cost, WEIGHT, verbalizer=words()):
        model(**full, labels=CLASSES[:1]).loss.backward()
        with pytest.raises(BadInput, match=r"reads padding: .*last position.*pad on the left"):
            model(**BATCH, labels=CLASSES)


def test_a_head_that_pools_all_positions_is_refused() -> None:
    plm = classifier("modernbert", classifier_pooling="mean")
    cost = RunningCost.for_model(plm)
    with (
        pets.regularize(plm.train(), cost, verbalizer=words()),
        pytest.raises(BadInput, match=r"reads positions \[0, 1, .*running cost \[0\]: choose the"),
    ):
        plm(**BATCH, labels=CLASSES)


@pytest.mark.parametrize("trained", ["everything", "the last layer"])
def test_no_pet_at_all(trained: str) -> None:
    """Full fine-tuning, or that of the last layer and the head alone."""
    plm = classifier()
    cost = RunningCost.for_model(plm)
    if trained == "the last layer":
        plm.requires_grad_(False)
        plm.bert.encoder.layer[-1].requires_grad_(True)
        plm.classifier.requires_grad_(True)
        plm.bert.pooler.requires_grad_(True)
    with pets.regularize(plm.train(), cost, WEIGHT, verbalizer=words()):
        plm(**BATCH, labels=CLASSES).loss.backward()
    for name, parameter in plm.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert all(p.grad is None for p in cost.parameters())


# Classes of tokens


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_the_classes_of_tokens_are_read_in_their_place(model_type: str) -> None:
    plm = tiny_model(model_type, head="ForTokenClassification", num_labels=3)
    cost = RunningCost.for_model(plm)
    labels = torch.full_like(IDS, -100)
    labels[0, [0, 2]], labels[1, 1] = torch.tensor([1, 2]), 0
    with pets.regularize(plm, cost, WEIGHT, verbalizer=words(), in_eval=True):
        output = plm(**BATCH, labels=labels)
    expected = cost(states(plm, BATCH), labels, MASK, labels=words().ends(cost), in_place=True)
    torch.testing.assert_close(output.running_cost, expected.detach())


# Encoder-decoders


@pytest.mark.parametrize("reader", ["mlp", "lens"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_decoders_targets_are_its_labels(masked: bool, reader: str) -> None:
    plm = tiny_model("t5")
    cost = RunningCost.for_model(plm, map=reader)
    labels = torch.tensor([[10, 11, 3], [12, 3, -100]])
    more = {"decoder_attention_mask": (labels != -100).long()} if masked else {}
    with pets.regularize(plm, cost, WEIGHT, in_eval=True):
        output = plm(**BATCH, labels=labels, **more)
    assert output.decoder_hidden_states is None
    plain = plm(**BATCH, labels=labels, output_hidden_states=True, **more)
    assert plain.decoder_hidden_states[0].shape == (2, 3, 32)
    expected = cost(plain.decoder_hidden_states, labels)
    torch.testing.assert_close(output.running_cost, expected.detach())
    torch.testing.assert_close(output.loss, plain.loss + WEIGHT * expected)


@pytest.mark.parametrize("pet", ["adapter", "lora", "prompt"])
def test_every_pet_trains_an_encoder_decoder(pet: str) -> None:
    plm = tiny_model("t5")
    cost = RunningCost.for_model(plm)
    model = get_peft_model(plm, pets.get(pet, model=plm))
    labels = torch.tensor([[10, 11, 3], [12, 3, -100]])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    losses = []
    with pets.regularize(model.train(), cost, WEIGHT):
        plm.eval()
        for _ in range(20):
            loss = model(**BATCH, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] - 1e-2


def test_a_cost_of_an_encoder_decoder_is_fitted_and_saved(tmp_path: Any) -> None:
    plm, tokenizer = tiny_model("t5"), tiny_tokenizer()
    texts = [" ".join(WORDS_OF_TEXT[(i + j) % len(WORDS_OF_TEXT)] for j in range(8)) for i in range(40)]
    cost = RunningCost.for_model(plm)
    result = cost.fit(plm, tokenizer, texts, max_steps=30, batch_size=8, eval_every=10, progress=False)
    assert result.best < result.held_out[0][1]
    cost.save_pretrained(tmp_path / "cost")
    again = RunningCost.from_pretrained(tmp_path / "cost")
    assert again.spec == cost.spec
    assert again.digest() == cost.digest()


WORDS_OF_TEXT = VOCABULARY[5:20]


# Label words with a language model


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_targets_that_are_label_words_end_at_any_word_of_their_label(model_type: str) -> None:
    plm = tiny_model(model_type)
    cost = RunningCost.for_model(plm)
    verbalizer = Verbalizer.of_words(tiny_tokenizer(), {"n": ["bad", "poor"], "p": ["good", "fine"]})
    (bad,), (fine,) = verbalizer.tokens[0][0], verbalizer.tokens[1][1]
    labels = torch.full_like(IDS, -100)
    labels[0, 3], labels[1, 2] = bad, fine
    classes = torch.full_like(IDS, -100)
    classes[0, 3], classes[1, 2] = 0, 1
    expected = cost(states(plm, BATCH), classes, MASK, labels=verbalizer.ends(cost))
    with pets.regularize(plm, cost, verbalizer=verbalizer, in_eval=True):
        output = plm(**BATCH, labels=labels)
        torch.testing.assert_close(output.running_cost, expected.detach())
        labels[0, 5] = 20
        with pytest.raises(BadInput, match="target token 20 is none of the verbalizer's words"):
            plm(**BATCH, labels=labels)


def test_every_token_of_a_longer_answer_is_a_target() -> None:
    """A causal LM's answer of three tokens makes three trajectories, each to its own token."""
    plm = tiny_model("llama")
    cost = RunningCost.for_model(plm)
    labels = torch.full_like(IDS, -100)
    labels[0, 3:6] = IDS[0, 3:6]
    with pets.regularize(plm, cost, in_eval=True):
        value = plm(**BATCH, labels=labels).running_cost
    hidden = states(plm, BATCH)
    trajectory, tokens = cost.trajectory(hidden, labels, MASK)
    assert tokens.tolist() == IDS[0, 3:6].tolist()
    each = cost.bridge.cost(cost.latent_map, trajectory, cost.end_points(tokens))
    torch.testing.assert_close(value, each.mean())
    # The context ends where the answer begins: token 3 is predicted at position 2.
    torch.testing.assert_close(trajectory.context[-1, 0], hidden[-1][0, :3].mean(0))


# Refusals


def test_a_classifier_without_words_is_refused() -> None:
    plm = classifier()
    with pytest.raises(BadInput, match=r"of a BertForSequenceClassification are classes.*give words"):
        pets.regularize(plm, RunningCost.for_model(plm))


def test_words_for_another_number_of_classes_are_refused() -> None:
    plm = tiny_model("bert", head="ForSequenceClassification", num_labels=2)
    with pytest.raises(BadInput, match=r"verbalizer has 3 labels \(no, maybe, yes\) and .* 2 classes"):
        pets.regularize(plm, RunningCost.for_model(plm), verbalizer=words())


def test_long_words_for_a_language_models_targets_are_refused() -> None:
    plm = tiny_model("bert")
    with pytest.raises(BadInput, match="'very fine' is 2 tokens, and a language model's targets"):
        pets.regularize(plm, RunningCost.for_model(plm), verbalizer=words())


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_labels_that_are_no_classes_are_refused(problem: str) -> None:
    plm = classifier(problem_type=problem)
    with (
        pets.regularize(plm.train(), RunningCost.for_model(plm), verbalizer=words()),
        pytest.raises(BadInput, match=r"labels are torch\.float32 of shape.*has no end point"),
    ):
        plm(**BATCH, labels=torch.zeros(2, 3))


def test_classes_for_a_language_model_are_refused() -> None:
    encoder = tiny_model("bert").base_model

    class OwnHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = encoder, nn.Linear(32, 3)

        def forward(self, labels: Tensor, **inputs: Tensor) -> Any:
            logits = self.head(self.encoder(**inputs).last_hidden_state[:, 0])
            return ModelOutput(loss=nn.functional.cross_entropy(logits, labels), logits=logits)

    model = OwnHead().train()
    cost = RunningCost.for_model(model)
    with (
        pets.regularize(model, cost),
        pytest.raises(BadInput, match=r"of shape \(2,\): expected whole numbers \[B, S\].*give words"),
    ):
        model(**BATCH, labels=CLASSES)
    with pets.regularize(model, cost, verbalizer=words()):
        assert model(**BATCH, labels=CLASSES).running_cost.isfinite()


def test_an_encoder_decoder_classifier_needs_ids() -> None:
    plm = classifier("t5")
    made = SequenceTargets(words().ends(RunningCost.for_model(plm)), 2, plm, causal=False)
    with pytest.raises(BadInput, match="finds the end by input_ids: pass them"):
        made(CLASSES, 7, None, None)
