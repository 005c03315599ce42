"""A lens that is adapted to labelled examples through a model: what is gathered, refused, left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plug_cases import with_lora
from tiny import TEXTS, tiny_bert, tiny_model, tiny_tokenizer
from torch import Tensor, nn

import pets
from bridges import BadInput, RunningCost
from bridges.fitting.adapting import adapt
from bridges.latent.lens import Lens
from pets import Verbalizer
from pets.tasks.classifier import PromptClassifier

TOKENIZER = tiny_tokenizer()
WORDS = Verbalizer.of_words(TOKENIZER, {"negative": "bad", "positive": ["good", "fine"]})


def batches(count: int = 4) -> list[dict[str, Tensor]]:
    """Rows of text with a mask and a class there."""
    rng = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        ids = torch.randint(5, 60, (3, 9), generator=rng)
        ids[:, 2] = TOKENIZER.mask_token_id
        labels = torch.full_like(ids, -100)
        labels[:, 2] = torch.tensor([0, 1, 1])
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return made


def fitted(model: nn.Module, bridge: str = "posterior") -> RunningCost:
    cost = RunningCost.for_model(model, bridge, map="lens", latent_dim=8)
    cost.fit(model, TOKENIZER, TEXTS, progress=False, max_length=16, batch_size=8, held_out=12)
    return cost


def classifier(plm: nn.Module) -> PromptClassifier:
    return PromptClassifier(with_lora(plm), WORDS)


def test_it_is_the_regression_of_the_examples_states() -> None:
    plm = tiny_bert()
    cost = fitted(plm)
    model = classifier(plm).train()
    found = pets.adapt(cost, model, batches())
    states, labels = [], []
    model.eval()
    for batch in batches():
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
        hidden = model.model(**inputs, output_hidden_states=True).hidden_states
        states.append(torch.stack([h[:, 2] for h in hidden]).detach())
        labels.append(batch["labels"][:, 2])
    lens, mine = cost.latent_map, found.latent_map
    assert isinstance(lens, Lens)
    assert isinstance(mine, Lens)
    ends = WORDS.ends(cost).means()
    answers = torch.cat(labels)
    expected = adapt(lens.weight, lens.bias, torch.cat(states, 1), answers, ends, lens.damped)
    torch.testing.assert_close(mine.weight.double(), expected.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.bias.double(), expected.bias, rtol=1e-4, atol=1e-5)
    guesses = (
        torch.einsum("lnh,ldh->lnd", _normalised(torch.cat(states, 1)), mine.weight) + mine.bias[:, None]
    )
    centre = torch.stack([guesses[:, answers == k].mean(1) for k in (0, 1)]).mean(0)
    torch.testing.assert_close(mine.centre, centre, rtol=1e-4, atol=1e-5)
    assert found.options["adapted"] == "12 examples"
    assert found.digest() != cost.digest()


def _normalised(states: Tensor) -> Tensor:
    return states / states.square().mean(-1, keepdim=True).sqrt()


def test_model_and_cost_are_left_as_they_were() -> None:
    plm = tiny_bert()
    cost = fitted(plm)
    model = classifier(plm).train()
    before = cost.digest(), {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    pets.adapt(cost, model, batches())
    assert cost.digest() == before[0]
    assert all(torch.equal(v, before[1][k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    with pets.regularize(model, cost, 0.5):  # nothing is plugged in any more
        assert model(**batches()[0]).running_cost is not None


def test_each_module_keeps_its_own_mode() -> None:
    """As where a part of a model is frozen in eval mode while the rest is trained."""
    plm = tiny_bert()
    cost, model = fitted(plm), classifier(plm).train()
    plm.bert.embeddings.eval()
    modules = dict(model.named_modules())
    before = {name: module.training for name, module in modules.items()}
    assert set(before.values()) == {True, False}
    pets.adapt(cost, model, batches())
    assert {name: module.training for name, module in modules.items()} == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (batches()[0], "batches are a dict: expected several"),
        (None, "batches are a NoneType: expected several"),
        ([None], "batch 0 is None: expected what the model is called with"),
    ],
)
def test_what_is_no_list_of_batches_is_refused(given: Any, message: str) -> None:
    plm = tiny_bert()
    with pytest.raises(BadInput, match=message):
        pets.adapt(RunningCost.for_model(plm, map="lens", latent_dim=8), classifier(plm), given)


@pytest.mark.parametrize("cost", [None, "lens-bert"])
def test_what_is_no_cost_is_refused(cost: Any) -> None:
    plm = tiny_bert()
    with pytest.raises(BadInput, match=r"expected a bridges\.RunningCost"):
        pets.adapt(cost, classifier(plm), batches())
    with pytest.raises(BadInput, match=r"expected a bridges\.RunningCost"):
        pets.regularize(plm, cost)


@pytest.mark.parametrize("words", ["bad", {"negative": "bad", "positive": "good"}])
def test_what_is_no_verbalizer_is_refused(words: Any) -> None:
    plm = tiny_bert()
    cost = RunningCost.for_model(plm, map="lens", latent_dim=8, fit=False)
    with pytest.raises(BadInput, match=r"expected a pets\.Verbalizer"):
        pets.adapt(cost, plm, batches(), verbalizer=words)
    with pytest.raises(BadInput, match=r"expected a pets\.Verbalizer"):
        pets.regularize(plm, cost, verbalizer=words)


def test_it_is_saved_and_works_as_any_other(tmp_path: Any) -> None:
    plm = tiny_bert()
    model = classifier(plm).train()
    found = pets.adapt(fitted(plm), model, batches())
    found.save_pretrained(tmp_path / "adapted")
    again = RunningCost.from_pretrained(tmp_path / "adapted")
    assert again.digest() == found.digest()
    assert again.options == found.options
    with pets.regularize(model, again, 0.5):
        output = model(**batches()[0])
        output.loss.backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert any(g is not None and g.abs().sum() > 0 for g in grads)


def test_a_sequence_classifier_adapts_with_a_verbalizer() -> None:
    plm = tiny_model("llama", head="ForSequenceClassification", num_labels=2)
    cost = RunningCost.for_model(plm, "axis", map="lens", latent_dim=8)
    ids = torch.randint(5, 60, (6, 7), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "labels": torch.tensor([0, 1, 0, 1, 1, 0])}
    found = pets.adapt(cost, plm, [batch], verbalizer=WORDS)
    assert not torch.equal(found.latent_map.weight, cost.latent_map.weight)  # type: ignore[arg-type]


def test_what_cannot_be_adapted_is_refused() -> None:
    plm = tiny_bert()
    model = classifier(plm)
    published = RunningCost.for_model(plm, "brownian", latent_dim=8)
    with pytest.raises(BadInput, match="only a lens can be adapted in closed form"):
        pets.adapt(published, model, batches())
    lens = RunningCost.for_model(plm, "brownian", map="lens", latent_dim=8)
    with pytest.raises(BadInput, match="no labelled examples to adapt to"):
        pets.adapt(lens, model, [])
    one = [{k: v[:2] for k, v in batches(1)[0].items()}]  # of each label one
    with pytest.raises(BadInput, match="two"):
        pets.adapt(lens, model, one)
    tokens = {
        "input_ids": torch.tensor([[2, 6, 4, 7, 3]]),
        "labels": torch.tensor([[-100, -100, 9, -100, -100]]),
    }
    with pytest.raises(BadInput, match="give a verbalizer"):
        pets.adapt(lens, plm, [tokens])
    other = RunningCost.for_model(tiny_bert(seed=1), "brownian", map="lens", latent_dim=8)
    with pytest.raises(BadInput, match="does not fit the model"):
        pets.adapt(other, model, batches())


def test_a_cost_about_the_label_warns_where_there_is_but_one(caplog: pytest.LogCaptureFixture) -> None:
    plm = tiny_bert()
    one = Verbalizer.of_words(TOKENIZER, ["bad"])
    for bridge, warned in (("posterior", True), ("axis", True), ("brownian", False)):
        caplog.clear()
        cost = RunningCost.for_model(plm, bridge, map="lens", latent_dim=8)
        pets.regularize(plm, cost, 0.5, verbalizer=one).remove()
        assert ("the verbalizer has one label" in caplog.text) == warned


def test_a_cost_about_the_label_warns_where_a_batch_has_but_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ids = torch.tensor([[2, 6, 4, 7, 3], [2, 8, 4, 7, 3]])
    labels = torch.full_like(ids, -100)
    for bridge, warned in (("posterior", True), ("axis", True), ("brownian", False)):
        plm = tiny_bert()
        caplog.clear()
        cost = RunningCost.for_model(plm, bridge, map="lens", latent_dim=8, fit=False)
        with pets.regularize(plm.train(), cost, 0.5):
            labels[:, 2] = torch.tensor([9, 10])
            assert plm(input_ids=ids, labels=labels).running_cost > 0
            assert not caplog.messages
            labels[:, 2] = 9
            for _ in range(2):
                found = plm(input_ids=ids, labels=labels).running_cost
            assert (found == 0) == warned
        assert ("one alone, token 9: it is 0 there" in caplog.text) == warned
        assert caplog.text.count("one alone") <= 1
