"""The model is asked which state predicts a label; where it cannot be, that is said."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from every_class import tiny
from peft import get_peft_model
from position_sweep import MAPPINGS, classes, listed, outcome
from support_matrix import COMMAND, DOCUMENT, parts
from tiny import TEXTS, VOCABULARY, tiny_bert, tiny_llama, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

import bridges.model.probe
import pets
from bridges import BadInput, RunningCost
from bridges.model.probe import NotSeen, is_probing, probe
from bridges.model.spec import ModelSpec, encoder_of

STALE = f"docs/support.md is stale: run {COMMAND}"
EVERY = 32
ALWAYS = {
    "masked": ["XLMWithLMHeadModel", "FunnelForMaskedLM", "PerceiverForMaskedLM"],
    "causal": ["XLNetLMHeadModel", "BartForCausalLM", "OPTForCausalLM", "ProphetNetForCausalLM"],
    "encoder-decoder": ["EncoderDecoderModel", "FSMTForConditionalGeneration", "MarianMTModel"],
    "images and text": ["Qwen2VLForConditionalGeneration", "MllamaForConditionalGeneration"],
    "sequence classifier": ["OPTForSequenceClassification", "T5ForSequenceClassification"],
}

# The sweep


@pytest.fixture(scope="module")
def written() -> dict[str, dict[str, tuple[str, str]]]:
    document = parts(DOCUMENT.read_text(encoding="utf-8"))[2]
    if f"Transformers {transformers.__version__}." not in document:
        pytest.skip("made with another transformers")
    return listed(document)


def test_the_document_names_every_class(written: dict[str, dict[str, tuple[str, str]]]) -> None:
    for kind in MAPPINGS:
        assert sorted(written[kind]) == sorted(classes(kind)), STALE
    said = {kind for of in written.values() for kind, _ in of.values()}
    assert said <= {"checked", "refused", "not built"}


@pytest.mark.parametrize("kind", MAPPINGS)
def test_what_is_written_is_what_runs(kind: str, written: dict[str, dict[str, tuple[str, str]]]) -> None:
    """On a sample: the whole takes a minute and a half."""
    for name in dict.fromkeys([*ALWAYS[kind], *classes(kind)[::EVERY]]):
        found = outcome(kind, name)
        assert written[kind][name][0] == found.kind, f"{name}: {found}. {STALE}"
        if found.kind == "checked":
            assert written[kind][name][1] == found.what, f"{name}: {found}. {STALE}"


# What is asked


@pytest.mark.parametrize(
    ("name", "reads", "autoregressive", "encoder"),
    [
        ("BertForMaskedLM", "same", False, "bert"),
        ("GPT2LMHeadModel", "next", True, "transformer"),
        ("XLMWithLMHeadModel", "same", False, "transformer"),
        ("XLNetLMHeadModel", "same", False, "transformer"),
        ("BartForCausalLM", "same", True, "model.decoder"),
        ("OPTForCausalLM", "next", True, "model.decoder"),
        ("Qwen2VLForConditionalGeneration", "next", True, "model"),
        ("ProphetNetForCausalLM", "same", True, "prophetnet.decoder"),
        ("BertLMHeadModel", "next", False, "bert"),
        ("T5ForConditionalGeneration", "same", True, ""),
        ("BertForSequenceClassification", None, False, "bert"),
        ("LlamaForSequenceClassification", None, True, "model"),
    ],
)
def test_what_is_seen(name: str, reads: str | None, autoregressive: bool, encoder: str) -> None:
    plm = tiny(name)
    seen = probe(plm)
    assert (seen.reads, seen.autoregressive, seen.encoder) == (reads, autoregressive, encoder)
    spec = RunningCost.for_model(plm, latent_dim=4).spec
    assert (spec.num_layers, spec.hidden_size) == (2, 32)
    assert spec.reads == (reads or ("next" if autoregressive else "same"))
    assert spec.asked is (reads is not None)


class OwnConfig(PretrainedConfig):  # type: ignore[misc]
    model_type = "own-of-the-hub"
    hidden_size = 8
    num_hidden_layers = 1
    vocab_size = len(VOCABULARY)


class Own(PreTrainedModel):  # type: ignore[misc]
    """A causal language model of nobody's: no name says anything."""

    config_class = OwnConfig
    shift = 1

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.mix = nn.GRU(config.hidden_size, config.hidden_size, batch_first=True)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """As torch made them."""

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def get_output_embeddings(self) -> nn.Module | None:
        return self.head

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **options: Any) -> CausalLMOutput:
        first = self.words(input_ids)
        last, _ = self.mix(first)
        logits, loss = self.head(last), None
        if labels is not None:
            end = logits.shape[1] - self.shift
            loss = nn.functional.cross_entropy(
                logits[:, :end].flatten(0, 1), labels[:, self.shift :].flatten()
            )
        return CausalLMOutput(loss=loss, logits=logits, hidden_states=(first, last))


@pytest.mark.parametrize(("shift", "reads"), [(0, "same"), (1, "next")])
@pytest.mark.parametrize("named_head", [True, False])
def test_code_of_the_hub_is_asked_too(
    shift: int, reads: str, named_head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Own, "shift", shift)
    if not named_head:
        monkeypatch.setattr(Own, "get_output_embeddings", lambda self: None)
    cost = RunningCost.for_model(Own(OwnConfig()), latent_dim=4)
    assert cost.reads == cost.config()["model"]["reads"] == reads


def test_what_cannot_be_asked_is_refused_with_what_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Own, "shift", 2)
    plm = Own(OwnConfig())
    with pytest.raises(
        BadInput, match=r"cannot be asked.*loss of Own reads positions \[1\] for a label"
    ):
        RunningCost.for_model(plm, latent_dim=4)
    with pytest.raises(BadInput, match=r"reads='next' where .*reads='same' where"):
        RunningCost.for_model(plm, latent_dim=4)
    cost = RunningCost.for_model(plm, latent_dim=4, reads="same")
    assert cost.reads == "same"
    cost.check_model(plm)
    with pytest.raises(BadInput, match="reads='before': expected 'same' or 'next'"):
        RunningCost.for_model(plm, reads="before")


def test_what_the_user_says_holds_and_is_kept(tmp_path: Any) -> None:
    """Who computes a loss of his own knows better than the model's."""
    plm = tiny_llama()
    cost = RunningCost.for_model(plm, reads="same")
    cost.save_pretrained(tmp_path / "cost")
    loaded = RunningCost.from_pretrained(tmp_path / "cost")
    assert loaded.reads == "same"
    loaded.check_model(plm)


def test_an_old_config_is_read(tmp_path: Any) -> None:
    cost = RunningCost.for_model(tiny_llama())
    old = cost.config()["model"]
    for name in ("reads", "asked", "autoregressive"):
        old.pop(name)
    old |= {"causal": True, "fingerprint": list(cost.spec.fingerprint.entries)}
    spec = ModelSpec.from_dict(old)
    assert (spec.reads, spec.causal) == ("next", True)
    assert not spec.differences(cost.spec)
    assert not spec.other_weights(cost.spec)
    assert spec.other_weights(ModelSpec.of(tiny_llama(seed=1))) == "the word embeddings"


# What stays of it: nothing


def state_of(model: nn.Module) -> list[Any]:
    """Every module's attributes and what is in the dicts among them."""
    found: list[Any] = []
    for module in model.modules():
        for name, value in sorted(vars(module).items()):
            inside = [(key, id(v)) for key, v in value.items()] if isinstance(value, dict) else id(value)
            found.append((name, inside))
    return found


@pytest.mark.parametrize(
    "name", ["BertForMaskedLM", "BigBirdForMaskedLM", "ReformerModelWithLMHead", "MarianMTModel"]
)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_as_it_was(name: str, training: bool) -> None:
    plm = tiny(name).train(training)
    plm.base_model.eval()
    plm.requires_grad_(False)
    next(plm.parameters()).grad = torch.ones_like(next(plm.parameters()))
    before, config = state_of(plm), copy.deepcopy(plm.config.to_dict())
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    drawn = (torch.rand(3).tolist(), random.random(), float(np.random.rand()))
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    with torch.no_grad():
        assert probe(plm).reads is not None
    assert (torch.rand(3).tolist(), random.random(), float(np.random.rand())) == drawn
    assert state_of(plm) == before
    assert plm.config.to_dict() == config
    assert torch.equal(next(plm.parameters()).grad, torch.ones_like(next(plm.parameters())))
    pickle.dumps(plm)


def test_a_fit_leaves_the_model_as_it_was() -> None:
    """BigBird would give up its attention on short rows for good."""
    plm = tiny("BigBirdForMaskedLM").train()
    cost = RunningCost.for_model(plm, latent_dim=4)
    before = state_of(plm)
    cost.fit(plm, tiny_tokenizer(), TEXTS, max_steps=2, progress=False)
    assert state_of(plm) == before


def test_it_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    look = bridges.model.probe._look
    monkeypatch.setattr(bridges.model.probe, "_look", lambda plm: looks.append(plm) or look(plm))
    plm = tiny_bert()
    cost = RunningCost.for_model(plm)
    cost.check_model(plm)
    pets.regularize(get_peft_model(plm, pets.get("lora", model=plm)), cost)
    assert len(looks) == 1
    plm.config.is_decoder = True
    ModelSpec.of(plm)
    assert len(looks) == 2


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_is_asked_in_every_dtype_without_gradients_and_frozen(
    context: Any, dtype: torch.dtype
) -> None:
    for plm, reads in ((tiny_bert(), "same"), (tiny_llama(), "next")):
        plm.to(dtype).requires_grad_(False)
        with context():
            seen = probe(plm)
        assert (seen.reads, seen.autoregressive) == (reads, reads == "next")


@pytest.mark.parametrize("pet", ["lora", "prefix", "prompt"])
def test_a_pet_and_a_plugged_cost_take_no_part(pet: str) -> None:
    plm = tiny_model("gpt2")
    cost = RunningCost.for_model(plm)
    model = get_peft_model(plm, pets.get(pet, model=plm))
    with pets.regularize(model, cost, in_eval=True):
        bridges.model.probe._seen.clear()
        assert RunningCost.for_model(model).reads == "next"


def test_a_forward_can_ask_whether_it_is_a_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    forward = Own.forward
    monkeypatch.setattr(
        Own, "forward", lambda self, *a, **k: said.append(is_probing()) or forward(self, *a, **k)
    )
    with pytest.raises(NotSeen):  # a lambda takes no input_ids by name
        probe(Own(OwnConfig()))
    assert not is_probing()


# What a fit makes of it


def test_a_causal_model_that_does_not_shift_is_fitted_on_what_it_has_not_seen() -> None:
    """Its labels are shifted by who calls it: the target at a position is the token after it."""
    plm = tiny("BartForCausalLM")
    cost = RunningCost.for_model(plm, latent_dim=4)
    shown: list[dict[str, Tensor]] = []
    hook = encoder_of(plm).register_forward_pre_hook(
        lambda module, args, kwargs: shown.append(kwargs), with_kwargs=True
    )
    targets: list[Tensor] = []
    trajectory = cost.trajectory
    cost.trajectory = lambda hidden, labels, *rest, **more: (  # type: ignore[method-assign]
        targets.append(labels) or trajectory(hidden, labels, *rest, **more)
    )
    cost.fit(plm, tiny_tokenizer(), TEXTS, max_steps=2, progress=False)
    hook.remove()
    rows, columns = (targets[0] != -100).nonzero(as_tuple=True)
    following = next(s["input_ids"] for s in shown if s["input_ids"].shape == targets[0].shape)
    assert torch.equal(targets[0][rows, columns], following[rows, columns + 1])
