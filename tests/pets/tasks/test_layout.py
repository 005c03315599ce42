"""The published layout: what a model is given, position by position, and what a cost reads of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import VOCABULARY, tiny_model, tiny_tokenizer
from torch import Tensor

import pets
from bridges import BadInput, RunningCost
from bridges.model.positions import first_position
from pets.tasks import prompts
from pets.tasks.classifier import PromptClassifier
from pets.tasks.layout import MaskFirst
from pets.tasks.verbalizer import Verbalizer

TEXTS = ["the film was good", "bad", "we saw a slow dog at night"]
ABSOLUTE = ["albert", "bert", "distilbert", "electra", "megatron-bert", "roberta", "xlm-roberta"]
OTHERS = ["deberta", "deberta-v2", "modernbert"]
SOFT = 3


def model_of(kind: str) -> Any:
    """Larger weights than usual: answers that depend on the words, their places and types."""
    return tiny_model(kind, initializer_range=0.4)


def batch_of(texts: list[str] = TEXTS, **options: Any) -> dict[str, Tensor]:
    rows = prompts.encode(tiny_tokenizer(), texts, 20, mask_first=True, **options).rows
    return prompts.collate([(row, k % 2) for k, row in enumerate(rows)], 0)


def words() -> Verbalizer:
    return Verbalizer.of_words(tiny_tokenizer(), ["bad", "good"])


def by_hand(plm: Any, batch: dict[str, Tensor], soft: Tensor | None = None) -> Any:
    """The published input, row by row: embeddings, positions and token types, all given to the model."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    size = 0 if soft is None else len(soft)
    embeddings = plm.get_input_embeddings()(ids)
    parts, positions, types = [], [], []
    for words, keep in zip(embeddings, mask, strict=True):
        text = int(keep.sum()) - 1
        middle = [] if soft is None else [soft]
        parts.append(torch.cat([words[:1], *middle, words[1:]]))
        positions.append([*range(text, text + 1 + size), *range(len(words) - 1)])
        types.append([1] * (1 + size) + [0] * (len(words) - 1))
    told: dict[str, Any] = {}
    kind = plm.config.model_type
    if kind != "modernbert":
        told["position_ids"] = torch.tensor(positions) + first_position(plm.config)
    if getattr(plm.config, "type_vocab_size", 0) > 1 and kind != "distilbert":
        told["token_type_ids"] = torch.tensor(types)
    attended = torch.cat([torch.ones(len(ids), size, dtype=mask.dtype), mask], 1)
    return plm(
        inputs_embeds=torch.stack(parts), attention_mask=attended, output_hidden_states=True, **told
    )


def test_mask_comes_before_the_special_prefix_and_is_not_counted() -> None:
    tokenizer = tiny_tokenizer()
    found = prompts.encode(tokenizer, ["the film was good", "good " * 30], 6, mask_first=True)
    names = [tokenizer.convert_ids_to_tokens(row.input_ids) for row in found.rows]
    assert names[0] == ["[MASK]", "[CLS]", "the", "film", "was", "good", "[SEP]"]
    assert names[1] == ["[MASK]", "[CLS]", "good", "good", "good", "good", "[SEP]"]
    assert [row.mask_position for row in found.rows] == [0, 0]
    assert found.truncated == 1
    with pytest.raises(BadInput, match="max_length 2 leaves no room for a text; expected at least 3"):
        prompts.encode(tokenizer, ["good"], 2, mask_first=True)


def test_ours_is_what_it_was() -> None:
    tokenizer = tiny_tokenizer()
    (row,) = prompts.encode(tokenizer, ["good film"], 6).rows
    assert tokenizer.convert_ids_to_tokens(row.input_ids) == ["[CLS]", "[MASK]", "good", "film", "[SEP]"]
    assert prompts.Encoder(tokenizer).encode(["good film"], 6).rows == (row,)


@pytest.mark.parametrize("kind", [*ABSOLUTE, *OTHERS])
@pytest.mark.parametrize("with_soft", [False, True], ids=["plain", "soft prompt"])
def test_the_model_reads_the_published_input(kind: str, with_soft: bool) -> None:
    plm: Any = model_of(kind)
    model, soft = plm, None
    if with_soft:
        model = get_peft_model(plm, pets.get("prompt", model=plm, num_virtual_tokens=SOFT))
        soft = model.get_prompt(1)[0].detach()
    batch = batch_of()
    with torch.no_grad():
        wanted = by_hand(plm, batch, soft)
        classifier = PromptClassifier(model, words(), mask_first=True)
        found = classifier(**batch)
        score = words().score(wanted.logits[:, 0])
        torch.testing.assert_close(found.logits, score)
        torch.testing.assert_close(
            found.loss, torch.nn.functional.nll_loss(score, batch["labels"][:, 0])
        )
        # It is no other layout under this name.
        classifier.remove()
        plain = PromptClassifier(model, words())
        if with_soft or kind in ABSOLUTE:
            assert (plain(**batch).logits - score).abs().max() > 1e-3
        plain.remove()


@pytest.mark.parametrize("kind", ["bert", "megatron-bert", "deberta", "roberta"])
@pytest.mark.parametrize("bridge", ["brownian", "regression"])
def test_a_cost_reads_the_mask_behind_which_the_soft_prompt_is(kind: str, bridge: str) -> None:
    plm: Any = model_of(kind)
    cost = RunningCost.for_model(plm, bridge)
    model = get_peft_model(plm, pets.get("prompt", model=plm, num_virtual_tokens=SOFT))
    batch, verbalizer = batch_of(), words()
    wanted = by_hand(plm, batch, model.get_prompt(1)[0].detach())
    length = batch["labels"].shape[1] + SOFT
    targets = torch.full((len(TEXTS), length), -100)
    tokens = torch.tensor([ids for ((ids,),) in verbalizer.tokens])
    targets[:, 0] = tokens[batch["labels"][:, 0]]
    mask = torch.cat([torch.ones(len(TEXTS), SOFT, dtype=torch.long), batch["attention_mask"]], 1)
    value = cost(wanted.hidden_states, targets, mask)
    classifier = PromptClassifier(model, verbalizer, mask_first=True)
    with pets.regularize(classifier, cost, weight=2.0):
        plain = classifier.train()(**batch)
    torch.testing.assert_close(plain.running_cost, value.detach())
    score = verbalizer.score(wanted.logits[:, 0])
    task = torch.nn.functional.nll_loss(score, batch["labels"][:, 0])
    torch.testing.assert_close(plain.loss, task + 2 * value)
    classifier.remove()


def test_a_prefix_keeps_the_positions_before_all_others() -> None:
    plm: Any = tiny_model("bert")
    model = get_peft_model(plm, pets.get("prefix", model=plm, num_virtual_tokens=SOFT))
    classifier = PromptClassifier(model, words(), mask_first=True)
    seen: list[Tensor] = []
    hook = plm.bert.embeddings.position_embeddings.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    seen.clear()  # what making it looked at
    classifier(**batch_of(["good film", "bad"]))
    assert seen[0].tolist() == [[7, 3, 4, 5, 6], [6, 3, 4, 5, 6]]
    hook.remove()


def test_padding_changes_no_answer() -> None:
    classifier = PromptClassifier(model_of("megatron-bert"), words(), mask_first=True)
    with torch.no_grad():
        together = classifier(**batch_of()).logits
        alone = [classifier(**batch_of([text])).logits for text in TEXTS]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_the_model_is_given_back() -> None:
    plm = tiny_model("bert")
    ids = torch.tensor([[2, 5, 6, 3]])
    before = plm(input_ids=ids).logits
    classifier = PromptClassifier(plm, words(), mask_first=True)
    classifier(**batch_of())
    torch.testing.assert_close(plm(input_ids=ids).logits, before, atol=0, rtol=0)
    classifier.remove()
    assert not plm.bert.embeddings._forward_pre_hooks


def test_a_model_whose_embeddings_are_not_known_is_refused() -> None:
    with pytest.raises(BadInput, match=r"how GPT2LMHeadModel embeds its input is not known.*'ours'"):
        MaskFirst(tiny_model("gpt2"))


def test_the_vocabulary_has_what_these_tests_say() -> None:
    assert all(word in VOCABULARY for text in TEXTS for word in text.split())
