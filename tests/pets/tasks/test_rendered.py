"""What `bridge-pets task show --model` says: prompts and tokens as each family reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_tasks import choice_jsonl, generation_jsonl, text_csv
from tiny import tiny_model, tiny_tokenizer

from pets.cli import main
from pets.tasks.families import CAUSAL, CLASSIFIER, ENCODER_DECODER, FAMILIES, MASKED

TYPES = {MASKED: "bert", CAUSAL: "llama", ENCODER_DECODER: "t5", CLASSIFIER: "bert"}
HEADS = {CLASSIFIER: "ForSequenceClassification"}


def saved(family: str, folder: Path) -> str:
    changes = {"num_labels": 2} if family == CLASSIFIER else {}
    tiny_model(TYPES[family], head=HEADS.get(family), **changes).save_pretrained(folder)
    (folder / "model.safetensors").unlink()  # what kind of model it is its config says
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_and_tokens_of_every_family(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = text_csv(tmp_path)
    template = "{text} it was {mask}"
    more = ["--template", template, "--label-words", "bad,very good", "--max-length", "9"]
    main(["task", "show", str(task), "--model", saved(family, tmp_path / "model"), *more])
    said = capsys.readouterr().out
    assert f"model: {family}, " in said
    cut = next(line for line in said.splitlines() if line.startswith("cut to 9 tokens"))
    assert int(cut.split()[4]) >= 0
    assert said.count("    prompt: ") == said.count("    tokens: ") == said.count("    answer: ") == 3
    first = said.split("example 1:")[1]
    if family == CLASSIFIER:
        assert "not read by it: 'it was'" in said
        assert "answer: class " in first
        assert "classes of its head: LABEL_0 is " in said
        assert "tokens of class" not in said
    else:
        assert "'very good' = very good" in said
        assert "it was" in first
        assert ("[MASK]" in first) == (family != CAUSAL)
    whole = family in (CAUSAL, ENCODER_DECODER)  # a word of two tokens
    assert ("whole log-probability" in said) == whole


@pytest.mark.parametrize("made", [choice_jsonl, generation_jsonl])
def test_answers_of_their_own(made: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = made(tmp_path)  # type: ignore[operator]
    main(["task", "show", str(task), "--model", saved(CAUSAL, tmp_path / "model")])
    said = capsys.readouterr().out
    if made is choice_jsonl:
        assert ", not " in said
    else:
        assert "which writes at most 32 tokens" in said
        assert "[SEP]" in said.split("    answer: ")[1]  # the end is a part of what is trained on


def test_a_model_that_cannot_be_asked_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = generation_jsonl(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["task", "show", str(task), "--model", saved(MASKED, tmp_path / "model")])
    assert ended.value.code == 2
    assert "does not write texts" in capsys.readouterr().err
