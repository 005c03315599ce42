"""Every family of models answers tasks of every kind, as plain forwards of the whole model say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import tiny_model, tiny_tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor

import pets
from bridges import BadInput, RunningCost
from bridges.model.positions import IGNORED
from pets import regularizers
from pets.tasks.asking import Asking
from pets.tasks.base import CHOICE, CLASSES, GENERATION, Example, Label, Task, TaskData
from pets.tasks.families import CAUSAL, CLASSIFIER, ENCODER_DECODER, FAMILIES, MASKED, family_of
from pets.tasks.prompts import Encoder, Row
from pets.tasks.protocol import PUBLISHED
from pets.tuning.evaluation import evaluate
from pets.tuning.settings import TuneSettings
from pets.tuning.tune import tune

TYPES = {MASKED: "bert", CAUSAL: "llama", ENCODER_DECODER: "t5", CLASSIFIER: "bert"}
LMS = (MASKED, CAUSAL, ENCODER_DECODER)
TOKENIZER = tiny_tokenizer()
TOKENIZER.eos_token = "[SEP]"
TEMPLATE = "{text} it was {mask}"


class Asked(Task):
    """A task of any kind."""

    def __init__(
        self, kind: str = CLASSES, words: tuple[str, ...] = ("bad", "good"), **facts: Any
    ) -> None:
        self.name, self.kind = "asked", kind
        self.labels = tuple(Label(f"class {k}", word) for k, word in enumerate(words))
        self.metric = "exact_match" if kind == GENERATION else "accuracy"
        if kind != CLASSES:
            self.labels = ()
        self.template, self.answer_tokens = TEMPLATE, 4
        for name, value in facts.items():
            setattr(self, name, value)

    def load(self, folder: Any = None) -> TaskData:
        raise NotImplementedError


def model_of(family: str, **changes: Any) -> Any:
    head = "ForSequenceClassification" if family == CLASSIFIER else None
    if family == CLASSIFIER:
        changes = {"num_labels": 2, **changes}
    return tiny_model(TYPES[family], head=head, initializer_range=0.3, **changes)


def example(text: str, label: int, **more: Any) -> Example:
    return Example(text, label, fields=(("text", text),), **more)


TEXTS = ["the film was very slow", "a quick dog", "we liked the red house of rain and snow", "it is"]
OF_CLASSES = [example(text, k % 2) for k, text in enumerate(TEXTS)]
OF_CHOICES = [
    example(text, k % 3, choices=("dog", "the cat sleeps", "blue bird")) for k, text in enumerate(TEXTS)
]
OF_TEXTS = [
    example(text, 0, answers=(f"{word} house", "moon"))
    for text, word in zip(TEXTS, ["red", "blue"] * 2, strict=True)
]
EXAMPLES = {CLASSES: OF_CLASSES, CHOICE: OF_CHOICES, GENERATION: OF_TEXTS}


def ids(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def log_prob(plm: Any, family: str, text: str, answer: list[int]) -> float:
    """Of an answer behind "TEXT it was"."""
    scores = plain_scores(plm, family, text, answer)
    return float(sum(scores[k, token] for k, token in enumerate(answer)))


def plain_scores(plm: Any, family: str, text: str, answer: list[int]) -> Tensor:
    """Log-probabilities of all tokens at each of an answer's, by one forward of one row unpadded."""
    prompt = [2, *ids(f"{text} it was")]
    with torch.no_grad():
        if family == MASKED:
            row = [*prompt, *[4] * len(answer), 3]
            logits = plm(input_ids=torch.tensor([row])).logits[
                0, len(prompt) : len(prompt) + len(answer)
            ]
        elif family == CAUSAL:
            row = [*prompt, *answer]
            logits = plm(input_ids=torch.tensor([row])).logits[0, len(prompt) - 1 : -1]
        else:  # the mask stands in the encoder, the decoder begins with its start token, 0
            said = torch.tensor([[0, 2, *answer[:-1]]])
            output = plm(input_ids=torch.tensor([[*prompt, 4, 3]]), decoder_input_ids=said)
            logits = output.logits[0, 1:]
    return logits.double().log_softmax(-1)


def answering(family: str, task: Task, model: Any = None, **options: Any) -> tuple[Asking, Any]:
    model = model_of(family) if model is None else model
    asking = Asking(model, Encoder(TOKENIZER), task, **options)
    return asking, asking.on(model).eval()


def batch_of(asking: Asking, classifier: Any, examples: list[Example]) -> dict[str, Tensor]:
    return classifier.collate(asking.encode(examples, 40)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_asked_of_the_model(family: str) -> None:
    assert family_of(model_of(family)) == family


@pytest.mark.parametrize("family", LMS)
@pytest.mark.parametrize("words", [("bad", "good"), ("very bad", "good")])
def test_label_words_have_their_log_probability(family: str, words: tuple[str, ...]) -> None:
    plm = model_of(family)
    expected = torch.tensor(
        [[log_prob(plm, family, text, ids(word)) for word in words] for text in TEXTS]
    )
    if family == MASKED and words[0] != "bad":  # one mask has the mean of a longer word's tokens
        ones = [[log_prob(plm, family, text, [token]) for token in ids(words[0])] for text in TEXTS]
        expected[:, 0] = torch.tensor(ones).mean(1)
    asking, classifier = answering(family, Asked(words=words), plm)
    output = classifier(**batch_of(asking, classifier, OF_CLASSES))
    torch.testing.assert_close(output.logits.detach(), expected, rtol=1e-4, atol=1e-4)
    right = expected[torch.arange(4), torch.tensor([0, 1, 0, 1])]
    assert output.loss.item() == pytest.approx(-right.mean().item(), rel=1e-4)
    guesses, loss = classifier.answer(asking.encode(OF_CLASSES, 40)[0])
    assert guesses == expected.argmax(1).tolist()
    assert loss == pytest.approx(output.loss.item())


@pytest.mark.parametrize("family", LMS)
def test_words_of_one_label_count_together(family: str) -> None:
    plm = model_of(family)
    asking, classifier = answering(family, Asked(words=("bad", "good,very fine")), plm)
    logits = classifier(**batch_of(asking, classifier, OF_CLASSES)).logits
    if family == MASKED:
        pytest.skip("one mask says one token: held in test_verbalizer.py")
    each = [log_prob(plm, family, TEXTS[0], ids(word)) for word in ("good", "very fine")]
    assert logits[0, 1].item() == pytest.approx(torch.tensor(each).logsumexp(0).item(), rel=1e-4)


@pytest.mark.parametrize("family", LMS)
def test_choices_are_compared_whole(family: str) -> None:
    plm = model_of(family)
    choices = OF_CHOICES[0].choices
    expected = torch.tensor([[log_prob(plm, family, t, ids(c)) for c in choices] for t in TEXTS])
    asking, classifier = answering(family, Asked(CHOICE), plm)
    batch = batch_of(asking, classifier, OF_CHOICES)
    output = classifier(**batch)
    torch.testing.assert_close(output.logits.detach(), expected, rtol=1e-4, atol=1e-4)
    right = expected[torch.arange(4), torch.tensor([e.label for e in OF_CHOICES])]
    assert output.loss.item() == pytest.approx(-right.mean().item(), rel=1e-4)
    # What a running cost reads are the right answers' tokens alone.
    told = [row[row != IGNORED].tolist() for row in batch["labels"]]
    assert [row for row in told if row] == [ids(choices[e.label]) for e in OF_CHOICES]


def test_an_answer_that_begins_another_one_is_ended() -> None:
    task = Asked(words=("good", "good film"))
    asking, classifier = answering(CAUSAL, task)
    batch = batch_of(asking, classifier, OF_CLASSES)
    told = [row[row != IGNORED].tolist() for row in batch["answers"][:2]]
    assert told == [[*ids("good"), 3], [*ids("good film"), 3]]


@pytest.mark.parametrize("family", [CAUSAL, ENCODER_DECODER])
def test_texts_are_trained_on_with_their_end_and_written_greedily(family: str) -> None:
    plm = model_of(family)
    asking, classifier = answering(family, Asked(GENERATION), plm)
    rows, _ = asking.encode(OF_TEXTS, 40)
    answers = [[*ids(e.answers[0]), 3] for e in OF_TEXTS]
    each = [log_prob(plm, family, e.text, a) for e, a in zip(OF_TEXTS, answers, strict=True)]
    output = classifier(**classifier.collate(rows))
    assert output.loss.item() == pytest.approx(-sum(each) / sum(map(len, answers)), rel=1e-4)
    assert classifier.write(rows) == [greedy(plm, family, text) for text in TEXTS]


@pytest.mark.parametrize("pet", [None, "prompt", "prefix", "lora"])
@pytest.mark.parametrize("room", [2, 30])
def test_what_is_written_is_the_likeliest_token_after_token(pet: str | None, room: int) -> None:
    model: Any = model_of(CAUSAL)
    if pet:
        model = get_peft_model(model, pets.get(pet, model=model))
    asking, classifier = answering(CAUSAL, Asked(GENERATION, answer_tokens=room), model)
    rows, _ = asking.encode(OF_TEXTS, 60)
    for text, (row, label) in zip(classifier.write(rows), rows, strict=True):
        before = row.input_ids[: row.mask_position]
        words: list[int] = []
        while len(words) < room and (not words or words[-1] != 3):
            said = Row([*before, *words, 0], len(before) + len(words), ((0,),), row.references)
            batch = classifier.collate([(said, label)])
            with torch.no_grad():
                words.append(int(classifier(**batch).logits[0].argmax()))
        assert text == TOKENIZER.decode(words, skip_special_tokens=True).strip()


@pytest.mark.parametrize("family", [CAUSAL, ENCODER_DECODER])
def test_habits_of_generation_that_a_model_comes_with_are_no_part_of_what_is_written(
    family: str,
) -> None:
    plm = model_of(family)
    asking, classifier = answering(family, Asked(GENERATION), plm)
    rows, _ = asking.encode(OF_TEXTS, 40)
    plain = classifier.write(rows)
    plm.generation_config.min_new_tokens = 4
    plm.generation_config.repetition_penalty = own = 100.0
    plm.generation_config.suppress_tokens = list(range(5, 40))
    assert classifier.write(rows) == plain
    assert plm.generation_config.repetition_penalty == own


def test_what_is_written_has_room_behind_the_longest_prompt() -> None:
    plm = tiny_model("gpt2", initializer_range=0.3)  # with 64 positions
    long = [example("red house " * 40, 0, answers=("moon",))]
    task = Asked(GENERATION, answer_tokens=30)
    asking, classifier = answering(CAUSAL, task, plm)
    rows, cut = asking.encode(long, 64)
    assert cut == 1
    assert rows[0][0].mask_position + task.answer_tokens == 64
    assert len(classifier.write(rows)) == 1


@pytest.mark.parametrize("family", [CAUSAL, ENCODER_DECODER])
def test_an_answer_that_is_longer_than_a_prompt_may_be_is_refused_by_its_length(family: str) -> None:
    asking, _ = answering(family, Asked(GENERATION))
    long = [example("the film", 0, answers=("moon " * 50,))]
    with pytest.raises(BadInput, match=r"51 tokens.*may have 40.*'the film'.*max_length"):
        asking.encode(long, 40)


def greedy(plm: Any, family: str, text: str) -> str:
    answer: list[int] = []
    while len(answer) < 4:
        best = int(plain_scores(plm, family, text, [*answer, 0])[-1].argmax())
        if best == 3:
            break
        answer.append(best)
    return str(TOKENIZER.decode(answer, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("family", LMS)
def test_among_the_labels_alone(family: str) -> None:
    plm = model_of(family)
    asking, plain = answering(family, Asked(), plm)
    batch = batch_of(asking, plain, OF_CLASSES)
    whole = plain(**batch).logits
    plain.remove()
    _, among = answering(family, Asked(), plm, among_labels=True)
    output = among(**batch)
    torch.testing.assert_close(output.logits, whole.log_softmax(1))
    torch.testing.assert_close(output.logits.exp().sum(1), torch.ones(4))


def test_a_causal_classifier_pads_with_the_token_by_which_it_tells_the_end() -> None:
    plm = tiny_model("gpt2", head="ForSequenceClassification", num_labels=2)
    plm.config.pad_token_id = 7
    asking, classifier = answering(CLASSIFIER, Asked(), plm)  # the tokenizer's is 0
    rows, _ = asking.encode(OF_CLASSES, 40)
    each = torch.cat([classifier(**classifier.collate([row])).logits for row in rows])
    torch.testing.assert_close(classifier(**classifier.collate(rows)).logits, each)


def test_a_causal_classifier_without_a_padding_token_reads_the_last_token_and_is_given_back() -> None:
    plm = tiny_model("gpt2", head="ForSequenceClassification", num_labels=2)
    plm.config.pad_token_id = None
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    rows = [(Row([5, 8, 0], 0), 0), (Row([9, 6, 7, 9, 8], 0), 1)]  # 0 is a word as any other
    with torch.no_grad():
        alone = torch.cat([plm(torch.tensor([row.input_ids])).logits for row, _ in rows])
    classifier = Asking(plm, Encoder(tokenizer), Asked()).on(plm).eval()
    output = classifier(**classifier.collate(rows))
    torch.testing.assert_close(output.logits, alone.log_softmax(1))
    classifier.remove()
    assert plm.config.pad_token_id is None


@pytest.mark.parametrize("pet", ["lora", "prefix", "prompt"])
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_the_classes_of_a_text_do_not_depend_on_the_others_in_a_batch(model_type: str, pet: str) -> None:
    plm = tiny_model(model_type, head="ForSequenceClassification", num_labels=2)
    model = get_peft_model(plm, pets.get(pet, model=plm)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.5 * torch.randn_like(parameter))
    asking, classifier = answering(CLASSIFIER, Asked(), model)
    rows, _ = asking.encode(OF_CLASSES, 40)
    with torch.no_grad():
        together = classifier(**classifier.collate(rows)).logits
        each = [model(input_ids=torch.tensor([row.input_ids])).logits for row, _ in rows]
    torch.testing.assert_close(together, torch.cat(each).log_softmax(1), rtol=1e-4, atol=1e-5)


def test_a_classifier_reads_columns_as_a_text_or_a_pair() -> None:
    plm = model_of(CLASSIFIER, type_vocab_size=2)
    asking, classifier = answering(CLASSIFIER, Asked(), plm)
    output = classifier(**batch_of(asking, classifier, OF_CLASSES))
    expected = torch.cat(
        [plm(input_ids=torch.tensor([[2, *ids(text), 3]])).logits for text in TEXTS]
    ).log_softmax(1)
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-5)
    classifier.remove()
    rows = [
        Example("a dog the cat", 1, fields=(("one", "a dog"), ("two", "the cat"))),
        Example("it very red", 0, fields=(("one", "it"), ("two", "very red"))),
    ]
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    task = Asked(template="{one} and so {two}: {answer}")
    asking = Asking(plm, Encoder(tokenizer), task)
    assert asking.written is not None
    assert asking.written.drops == "and so :"
    output = asking.on(plm).eval()(**asking.on(plm).collate(asking.encode(rows, 40)[0]))
    for k, row in enumerate(rows):
        values = dict(row.fields)
        encoded = tokenizer(values["one"], values["two"], return_tensors="pt")
        alone = plm(**encoded).logits.log_softmax(1)
        torch.testing.assert_close(output.logits[k : k + 1], alone, rtol=1e-4, atol=1e-5)


SETTINGS = TuneSettings(
    shots=4, max_steps=4, batch_size=4, eval_every=2, learning_rate=1e-2, max_length=40
)


def data_of(kind: str) -> TaskData:
    """Enough of them to tune on."""
    texts = [
        f"{text} {more}" for text in TEXTS for more in ("dog", "cat", "bird", "tree", "sun", "moon")
    ]
    pool = []
    for k, text in enumerate(texts):
        plain = EXAMPLES[kind][k % 4]
        pool.append(dataclasses.replace(plain, text=text, fields=(("text", text),)))
    return TaskData(Asked(kind), tuple(pool[:20]), tuple(pool[20:]))


KINDS = [(f, k) for f in LMS for k in (CLASSES, CHOICE, GENERATION) if (f, k) != (MASKED, GENERATION)]
KINDS.append((CLASSIFIER, CLASSES))


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_it_is_tuned_with_a_running_cost(family: str, kind: str, tmp_path: Path) -> None:
    plm = model_of(family)
    cost = RunningCost.for_model(plm, "brownian", fit=False)
    data = data_of(kind)
    result = tune(plm, TOKENIZER, data, SETTINGS, tmp_path / "run", cost=cost, progress=False)
    assert set(result["reported"]) >= {data.task.metric}
    assert all(look["running_cost"] > 0 for look in result["curves"][1:])
    assert result["curves"][-1]["loss"] < 1e3
    vanilla = tune(plm, TOKENIZER, data, SETTINGS, tmp_path / "vanilla", progress=False)
    zero = dataclasses.replace(SETTINGS, weight=0.0)
    none = tune(plm, TOKENIZER, data, zero, tmp_path / "zero", cost=cost, progress=False)
    assert [e["loss"] for e in none["curves"]] == [e["loss"] for e in vanilla["curves"]]
    assert [e["loss"] for e in result["curves"]] != [e["loss"] for e in vanilla["curves"]]


@pytest.mark.parametrize(("family", "kind"), KINDS)
@pytest.mark.parametrize("pet", ["prompt", "bitfit"])
def test_a_soft_prompt_moves_what_is_read(family: str, kind: str, pet: str) -> None:
    """An answer's log-probability with a PET is that of the peft model's own whole forward."""
    if family in (CAUSAL, ENCODER_DECODER) and pet == "bitfit":
        pet = "lora"  # these have no biases
    plm = model_of(family)
    options = {"num_virtual_tokens": 3} if pet == "prompt" else {}
    model = get_peft_model(plm, pets.get(pet, model=plm, **options))
    asking = Asking(plm, Encoder(TOKENIZER), Asked(kind))
    classifier = asking.on(model).eval()
    rows, _ = asking.encode(EXAMPLES[kind][:1], 40)
    batch = classifier.collate(rows)
    output = classifier(**batch)
    classifier.remove()
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "answers")}
    with torch.no_grad():
        logits = model(**inputs).logits
    if family == CLASSIFIER:
        torch.testing.assert_close(output.logits, logits.log_softmax(1))
        return
    at = batch["answers"] if "answers" in batch else batch["labels"]
    soft = logits.shape[1] - at.shape[1]
    assert soft == (3 if pet == "prompt" and family != ENCODER_DECODER else 0)
    where = (at != IGNORED).nonzero()
    places = where[:, 1] + soft - int(family == CAUSAL)
    scores = logits[where[:, 0], places].log_softmax(1)
    if kind == CLASSES:
        scores = scores[:, [ids("bad")[0], ids("good")[0]]]
    elif kind == CHOICE:
        own = scores[torch.arange(len(where)), at[at != IGNORED]]
        scores = torch.zeros(len(at)).index_add(0, where[:, 0], own)[None]
    torch.testing.assert_close(output.logits, scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["r-drop", "r3f", "neftune", "label-smoothing", "dropout"])
@pytest.mark.parametrize(
    ("family", "kind"),
    [(CAUSAL, CLASSES), (CAUSAL, CHOICE), (CAUSAL, GENERATION), (CLASSIFIER, CLASSES)],
)
def test_regularizers_work_on_all(name: str, family: str, kind: str) -> None:
    plm = model_of(family, attention_dropout=0.1) if family == CAUSAL else model_of(family)
    asking = Asking(plm, Encoder(TOKENIZER), Asked(kind))
    model = get_peft_model(plm, pets.get("lora", model=plm))
    classifier = asking.on(model).train()
    batch = batch_of(asking, classifier, EXAMPLES[kind])
    torch.manual_seed(0)
    plain = classifier(**batch).loss
    loss = regularizers.get(name, weight=0.3).on(classifier)(**batch)
    assert torch.isfinite(loss)
    assert loss.item() != plain.item()
    loss.backward()


def test_what_does_not_go_together_is_refused() -> None:
    for family, task, words in [
        (MASKED, Asked(GENERATION), "does not write texts"),
        (CLASSIFIER, Asked(CHOICE), "of kind choice, and the model tells classes"),
        (CLASSIFIER, Asked(words=("bad", "good", "fine")), "tells 2 classes and the task has 3"),
        (MASKED, Asked(chat=True), "chat template is for causal"),
        (CAUSAL, Asked(chat=True), "has no chat template"),
        (CAUSAL, Asked(template="{mask} it is {text}"), "write the answer last"),
        (CAUSAL, Asked(template="{other} {mask}"), "there is no column 'other'"),
        (CAUSAL, Asked(words=("good", "good")), "are the same tokens"),
    ]:
        with pytest.raises(BadInput, match=words):
            answering(family, task)[0].encode(OF_CLASSES, 40)
    with pytest.raises(BadInput, match="a layout of its own"):
        Asking(model_of(CAUSAL), Encoder(TOKENIZER), Asked(), PUBLISHED)


def test_evaluation_scores_texts() -> None:
    asking, classifier = answering(CAUSAL, Asked(GENERATION))
    rows, _ = asking.encode(OF_TEXTS, 40)
    written = classifier.write(rows)
    right = [dataclasses.replace(e, answers=("moon", w)) for e, w in zip(OF_TEXTS, written, strict=True)]
    scores, _ = evaluate(classifier, asking.encode(right, 40)[0], asking.task)
    assert scores["exact_match"] == 1.0


@pytest.mark.parametrize("named", [("Good", "BAD"), ("class_1", "class 0")])
def test_a_head_that_names_the_task_s_classes_is_read_by_them(named: tuple[str, str]) -> None:
    task, example = Asked(), Example("the film", 0, fields=(("text", "the film"),))
    scores = []
    for names in (("LABEL_0", "LABEL_1"), named):  # those say nothing: the task's order
        model = model_of(CLASSIFIER, id2label=dict(enumerate(names)))
        asking = Asking(model, Encoder(TOKENIZER), task)
        assert asking.head == (names if names != named else named[::-1])
        answering = asking.on(model)
        rows, _ = asking.encode([example], 20)
        output = answering(**answering.collate(rows))
        assert torch.equal(output.loss, -output.logits[0, 0])
        scores.append(output.logits[0])
    assert not torch.equal(*scores)
    assert torch.equal(scores[0], scores[1].flip(0))
