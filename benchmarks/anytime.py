"""How early the answer is there: the layers of `benchmarks.anytime_runs`' runs, read in four ways.

    python -m benchmarks.anytime --model M --folder RUNS --out anytime_minilm.json

Read by: the "exit", the bridge's posterior through a lens that has learned from the labelled examples in
closed form, calibrated by those it leaves out; the "lens", which never saw the task, with temperature
and bias of the labelled examples; a "probe" for each layer on the same examples, logistic regression on
standardised states, its strength by cross-validation; and the "head" of the model at every layer (the
logit lens). `benchmarks.readme` makes tables of the result file.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.environment import RESULTS, environment, to_json
from benchmarks.natural import TEMPLATES
from benchmarks.reader import load
from bridges import RunningCost
from bridges.storage.files import write_text
from pets.anytime.exits import Exits
from pets.inside.lens import lens as logit_lens
from pets.tasks.verbalizer import Verbalizer

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
_FOLDS = 4


def runs(folder: Path) -> Iterator[tuple[str, int, str, int, Path]]:
    """Task, shots, arm, split and file of every run."""
    for path in sorted(folder.glob("*-*/*.safetensors")):
        task, shots = path.parent.name.rsplit("-", 1)
        arm, split = path.name.removesuffix(".safetensors").rsplit(".", 1)
        yield task, int(shots), arm, int(split), path


def states_of(kept: dict[str, Tensor], part: str) -> Tensor:
    """[L+1, N, H], as they were to half precision."""
    states = kept[f"{part}_states"].float()
    return states * kept[f"{part}_scales"] if f"{part}_scales" in kept else states


def read(kept: dict[str, Tensor], plm: Any, cost: RunningCost, words: Verbalizer) -> dict[str, Any]:
    """Accuracy on the test examples of what states 1 to L - 1 say, and of the model's own answer."""
    states, answers = states_of(kept, "labelled"), kept["labelled_labels"]
    test, right = states_of(kept, "test"), kept["test_labels"]
    layers = range(1, len(states) - 1)
    found: dict[str, Any] = {"full": _accuracy(kept["test_scores"], right)}
    if len(states) - 1 != cost.spec.num_layers:
        return found  # of a model that was cut: its own head is what it has
    by_layer = dict(enumerate(test))
    for name in ("lens", "exit"):
        exits = Exits(cost, words.ends(cost), layers)
        (exits.calibrate if name == "lens" else exits.fit)(states, answers)
        odds = [exits[k](by_layer) for k in layers]
        found[name] = [_accuracy(o, right) for o in odds]
        found[f"{name}_ece"] = [_calibration_error(o.exp(), right) for o in odds]
    found["probe"] = [_probe(states[k], answers, test[k], right) for k in layers]
    found["head"] = [_accuracy(o, right) for o in logit_lens(plm, test, words)[1:-1]]
    return found


def _accuracy(odds: Tensor, right: Tensor) -> float:
    return float((odds.argmax(1) == right).double().mean())


def _calibration_error(probabilities: Tensor, right: Tensor, bins: int = 10) -> float:
    """Expected calibration error in equal bins of confidence."""
    sure, guess = probabilities.double().max(1)
    hit = (guess == right).double()
    which = (sure * bins).long().clamp(max=bins - 1)
    gaps = [((hit - sure)[which == b]).sum().abs() for b in range(bins)]
    return float(sum(gaps) / len(right))


def _probe(states: Tensor, answers: Tensor, test: Tensor, right: Tensor) -> float:
    probe = make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(Cs=_STRENGTHS, cv=_FOLDS, max_iter=1000, use_legacy_attributes=False),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probe.fit(states.double().numpy(), answers.numpy())
    return float((probe.predict(test.double().numpy()) == right.numpy()).mean())


@click.command()
@click.option("--model", required=True)
@click.option(
    "--folder", required=True, type=click.Path(path_type=Path, exists=True), help="Of the runs."
)
@click.option("--out", required=True, help="Name of the result file.")
def main(model: str, folder: Path, out: str) -> None:
    """Read every run, and write what was found."""
    plm, tokenizer = load(model, "float32")
    cost = RunningCost.from_pretrained(folder / "lens")
    cost.check_model(plm)
    found = []
    for task, shots, arm, split, path in runs(folder):
        words = Verbalizer.of_words(tokenizer, list(TEMPLATES[task].words))
        numbers = read(load_file(path), plm, cost, words)
        found.append({"task": task, "shots": shots, "arm": arm, "split": split, **numbers})
        print(task, shots, arm, split, flush=True)
    record = {
        "model": model.rstrip("/").rsplit("/", 1)[-1],
        "layers": cost.spec.num_layers,
        "fit": cost.fit_record,
        "runs": found,
    }
    write_text(RESULTS / out, to_json({"environment": environment("scikit-learn"), "anytime": record}))


if __name__ == "__main__":
    main()
