"""Run a plan from its fits to the tables of its page; interrupted, the same command goes on.

    python -m benchmarks.evidence --plan benchmarks/PLAN.md

Models are folders under --models; SmolLM2 is made by ../shared/tools/get-smollm2. A study's comparison,
PETs and readings are in a folder of its own under --out, and what is kept of it in --results, from which
the tables and the picture in --pages are made. All studies are scored before any is read. ``--tables``
runs nothing and makes these alone. What is kept was made with OMP_NUM_THREADS=1: of another number of
threads a fit differs in its last bits, and its cells in their hashes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import click

from benchmarks.environment import RESULTS
from benchmarks.evidence.picture import draw, effects
from benchmarks.evidence.plan import Plan, Study
from benchmarks.evidence.readings import untuned
from benchmarks.evidence.records import read_facts, read_records, write_facts, write_records
from benchmarks.evidence.studies import Runner
from benchmarks.evidence.tables import details, put_into, summary
from bridges.errors import BadInput, check_name
from bridges.storage.files import write_text
from pets.commands.options import ManyValues
from pets.study.cells.context import Context

HERE = Path(__file__).parents[1]
PAGE, DETAILS, PICTURE = "EVIDENCE.md", "EVIDENCE_TABLES.md", "evidence.png"
_FOLDER = click.Path(path_type=Path)


@click.command(cls=ManyValues)
@click.option("--plan", "where", type=_FOLDER, required=True, help="A page with a block of TOML.")
@click.option("--data", type=_FOLDER, default=Path("../shared/data"), show_default=True)
@click.option("--models", type=_FOLDER, default=Path("../shared/models"), show_default=True)
@click.option("--model", "own", multiple=True, metavar="NAME=FOLDER...", help="Where one is elsewhere.")
@click.option("--out", type=_FOLDER, default=Path("runs/evidence"), show_default=True)
@click.option("--results", type=_FOLDER, default=RESULTS / "evidence", help="For what is kept.")
@click.option("--pages", type=_FOLDER, default=HERE, help="Folder of EVIDENCE.md, for the tables.")
@click.option("--studies", multiple=True, metavar="STUDY...", help="Some of the plan's; all by default.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--tables", is_flag=True, help="Run nothing: the tables of what is kept.")
def main(
    where: Path,
    data: Path,
    models: Path,
    own: tuple[str, ...],
    out: Path,
    results: Path,
    pages: Path,
    studies: tuple[str, ...],
    jobs: int,
    tables: bool,
) -> None:
    """Run the studies that are not done yet, and write the tables of all."""
    try:
        plan = Plan.read(where)
        failed = False
        if not tables:
            places = {name: models / folder for name, folder in plan.models.items()}
            runner = Runner(plan, data, places | _own(own, plan), out, jobs)
            failed = _run(runner, studies, results)
        _write(pages, plan, results)
    except BadInput as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"wrote the tables and the picture of {pages / PAGE}")
    sys.exit(int(failed))


def _write(pages: Path, plan: Plan, results: Path) -> None:
    """The page's tables, the page of all the others, and the picture where there is anything to draw."""
    kept, facts = read_records(results), read_facts(results)
    page = pages / PAGE
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{page} cannot be read: {error.strerror}; --pages is where it is") from error
    write_text(page, put_into(text, summary(plan, kept, facts)))
    write_text(pages / DETAILS, details(plan, kept, facts))
    if found := effects(plan, kept):
        draw(plan, found, pages / PICTURE)


def _run(runner: Runner, names: tuple[str, ...], results: Path) -> bool:
    """All studies of these names, or all; whether something failed."""
    known = [study.name for study in runner.plan.studies]
    chosen = [s for s in runner.plan.studies if s.name in {check_name("study", n, known) for n in names}]
    chosen = chosen or list(runner.plan.studies)
    for study in chosen:  # what cannot run is refused before the hours that others take
        runner.model(study)
        runner.grid(study)
    failed, before = 0, {}
    for study in chosen:
        click.echo(f"study {study.name}, in {runner.folder(study)}")
        done = runner.run(study)
        click.echo(f"{study.name}: {done.done} cells done, {done.failed} failed")
        failed += done.failed
        context = runner.context(study)
        before[study.name] = untuned(context)
        _keep(results, study, context, before[study.name])
    for study in (one for one in chosen if one.readings):  # the scores of all come before more of one
        click.echo(f"readings of {study.name}")
        context = runner.context(study)
        failed += runner.read(study, context, tell=click.echo)
        _keep(results, study, context, before[study.name])
    return bool(failed)


def _keep(results: Path, study: Study, context: Context, before: Mapping[str, float]) -> None:
    results.mkdir(parents=True, exist_ok=True)
    write_records(results / f"{study.name}.jsonl", context)
    write_facts(results / f"{study.name}.json", context, before)


def _own(texts: tuple[str, ...], plan: Plan) -> dict[str, Path]:
    found = {}
    for text in texts:
        name, sign, folder = text.partition("=")
        if not sign or not folder:
            raise BadInput(f"--model {text}: expected NAME=FOLDER")
        found[check_name("model", name, plan.models)] = Path(folder)
    return found


if __name__ == "__main__":
    main()
