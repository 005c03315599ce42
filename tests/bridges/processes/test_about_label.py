"""Costs about the label where a bridge goes: named by a word, fitted, kept in files, tuned with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from tiny import TEXTS, tiny_bert, tiny_model, tiny_tokenizer
from torch import Tensor
from torch.testing import assert_close

import bridges
import pets
from bridges import LabelEnds, RunningCost, Trajectory
from bridges.processes import AboutLabel
from bridges.processes.brownian import BrownianBridge
from bridges.processes.likelihood import Whitened
from pets import Verbalizer

pytestmark = pytest.mark.slow

WORDS = [
    "posterior",
    "posterior:process=(ou:theta=2,likelihood=path,learn=sigma),over=prefixes",
    "axis:process=ou:theta=2,rest=0.1",
]
IDS = torch.tensor([[2, 5, 10, 11, 6, 7, 3], [2, 6, 12, 5, 20, 7, 3]])
FEW = {"max_steps": 4, "batch_size": 8, "held_out": 8}


def fitted(word: str, name: str) -> RunningCost:
    plm = tiny_bert()
    cost = RunningCost.for_model(plm, word, map=name, latent_dim=8)
    settings = FEW if name == "mlp" else {"batch_size": 8, "held_out": 8}
    cost.fit(plm, tiny_tokenizer(), TEXTS, progress=False, **settings)
    return cost


@pytest.mark.parametrize("name", ["mlp", "lens"])
@pytest.mark.parametrize("word", WORDS)
def test_it_goes_through_fit_files_and_tuning(tmp_path: Path, word: str, name: str) -> None:
    cost = fitted(word, name)
    assert isinstance(cost.bridge, AboutLabel)
    if "learn" in word:
        assert cost.bridge.inner.sigma.item() != 1
    cost.save_pretrained(tmp_path)
    loaded = RunningCost.from_pretrained(tmp_path)
    assert loaded.digest() == cost.digest()
    assert loaded.bridge.hyperparameters == bridges.parse(word).hyperparameters

    plm = tiny_bert()
    model = get_peft_model(plm, pets.get("lora", r=2)).train()
    pets.regularize(model, loaded, weight=0.5)
    labels = torch.full_like(IDS, -100)
    labels[:, 3] = IDS[:, 3]
    output = model(input_ids=IDS, labels=labels)
    output.loss.backward()
    assert output.running_cost.isfinite()
    reached = [p.grad for p in model.parameters() if p.grad is not None]
    assert any(grad.abs().sum() > 0 for grad in reached)


@pytest.mark.parametrize("word", WORDS)
def test_a_batch_of_tokens_is_labels_of_its_words(word: str) -> None:
    """Each once, however often it is a target; alone it is as good as no other."""
    plm = tiny_bert()
    cost = RunningCost.for_model(plm, word, latent_dim=8).double()
    with torch.no_grad():
        hidden = [h.double() for h in plm.bert(IDS, output_hidden_states=True).hidden_states]
    targets, classes = torch.full_like(IDS, -100), torch.full_like(IDS, -100)
    for row, column, token, label in ((0, 2, 30, 2), (0, 4, 7, 0), (1, 1, 9, 1), (1, 5, 30, 2)):
        targets[row, column], classes[row, column] = token, label
    ends = LabelEnds.of_tokens(cost.end_points, torch.tensor([7, 9, 30]))
    found = cost.costs(hidden, targets)
    assert found.shape == (4,)
    assert_close(found, cost.costs(hidden, classes, labels=ends), rtol=1e-12, atol=0)
    first = torch.where(targets == 30, targets, -100)
    alone = cost.costs(hidden, first)
    assert (alone == 0).all() or "rest" in word
    nothing = cost(hidden, torch.full_like(IDS, -100))
    assert nothing == 0


@pytest.mark.parametrize("word", WORDS)
def test_a_classifier_is_tuned_among_its_labels(word: str) -> None:
    words = Verbalizer.of_words(
        tiny_tokenizer(), {"no": "bad", "maybe": ["slow", "fine"], "yes": "good"}
    )
    plm = tiny_model("bert", head="ForSequenceClassification", num_labels=3)
    cost = RunningCost.for_model(plm, word, map="lens", latent_dim=8)
    classes = torch.tensor([2, 0])
    with pets.regularize(plm, cost, 1e3, verbalizer=words):
        plm.eval()
        plm.training = True  # without dropout
        output = plm(input_ids=IDS, labels=classes)
        output.loss.backward()
    assert plm.get_input_embeddings().weight.grad.abs().sum() > 0
    with torch.no_grad():
        hidden = plm.eval()(input_ids=IDS, output_hidden_states=True).hidden_states
    targets = torch.full_like(IDS, -100)
    targets[:, 0] = classes
    expected = cost(hidden, targets, labels=words.ends(cost), in_place=True)
    assert_close(output.running_cost, expected.detach())


@pytest.mark.parametrize("name", ["posterior", "axis"])
def test_a_whitening_of_ones_own_is_used(name: str) -> None:
    class Blind(BrownianBridge, name="blind"):
        def whitened(self, latent: Tensor, t: Tensor) -> Whitened:
            found = super().whitened(latent, t)
            return Whitened(0 * found.value, found.mean, found.precision)

    cost = RunningCost.for_model(tiny_bert(), f"{name}:process=blind", latent_dim=6)
    states = torch.randn(cost.spec.num_layers + 1, 4, cost.spec.hidden_size)
    context = torch.randn(len(states), 4, cost.spec.hidden_size)
    labels = LabelEnds.of_words(cost.end_points, (((10,),), ((11,),)))
    answers = torch.tensor([0, 1, 0, 1])
    path, other = (Trajectory(s, context, torch.arange(4)) for s in (states, 3 * states))
    mine, theirs = (cost.of_trajectory(p, answers, labels=labels) for p in (path, other))
    assert torch.equal(mine, theirs)  # nothing of the states is left
