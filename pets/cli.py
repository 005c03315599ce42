"""The command line: ``bridge-pets fit | tune | demo | zoo``."""

from __future__ import annotations

import inspect
import json
import logging
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import click

import bridges
from bridges.errors import BadInput
from pets.cli_input import ManyValues, read_lines

_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="bridge-pets")
def cli() -> None:
    """Tune pretrained language models with few parameters and a running cost.

    The hidden states of the output token should move through the layers like a stochastic bridge
    that ends at the label. First fit the map into which they are read (once for each model), then
    tune with it:

    \b
      bridge-pets demo                                   everything, on data that is already here
      bridge-pets fit  --model M --bridge ou --text corpus.txt --out ou-M
      bridge-pets tune --model M --task sst2 --data glue --pet lora --cost ou-M --weight 0.5
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # peft asks transformers for an attribute under its old name; nothing a user can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@cli.command(cls=ManyValues)
@click.option("--model", required=True, help="Hugging Face name or local folder of a language model.")
@click.option(
    "--bridge",
    default="brownian",
    show_default=True,
    help="A name from `bridge-pets zoo`, with parameters if you like: ou:theta=2,sigma=1",
)
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="FILE...",
    help="UTF-8 text, one text a line.",
)
@click.option(
    "--control",
    type=click.Choice(["shuffled-ends", "random-map"]),
    help="A cost to measure against: words with each other's end points, or a map that is not fitted.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder for the fitted cost."
)
@click.option("--latent-dim", type=int, help="Latent dimension d.  [default: H/8, 16 to 128]")
@click.option("--steps", default=2000, show_default=True, help="Optimiser steps at most; stops early.")
@click.option("--batch-size", default=32, show_default=True, help="Rows of text a step.")
@click.option("--max-length", default=128, show_default=True, help="Tokens a row.")
@click.option("--lr", default=1e-3, show_default=True, help="Peak learning rate.")
@click.option("--seed", default=0, show_default=True, help="Of initial weights, order and masks.")
def fit(
    model: str,
    bridge: str,
    texts: tuple[str, ...],
    control: str | None,
    out: Path,
    latent_dim: int | None,
    steps: int,
    batch_size: int,
    max_length: int,
    lr: float,
    seed: int,
) -> None:
    """Fit a running cost for a model on plain text.

    The model stays frozen; only the small latent map is trained. An interrupted fit goes on where it
    was when the same command is given again.

    \b
      bridge-pets fit --model bert-base-uncased --bridge brownian --text wiki.txt --out brownian-bert
      bridge-pets fit --model bert-base-uncased --bridge brownian --control random-map --out random-bert
    """
    from pets.models import load_plm

    process = bridges.parse(bridge)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} exists: a cost is never overwritten, choose another folder")
    fits = control != "random-map"
    if fits != bool(texts):
        raise BadInput(
            "no text: give --text FILE to fit on"
            if fits
            else "--text has no use with --control random-map, which fits nothing: leave it out"
        )
    lines = read_lines(texts)
    plm, tokenizer = load_plm(model, any_lm=True)
    cost = bridges.RunningCost.for_model(
        plm,
        process,
        latent_dim=latent_dim,
        seed=seed,
        shuffle_ends=control == "shuffled-ends",
        fit=fits,
    )
    if not fits:
        cost.save_pretrained(out)
        click.echo(f"wrote {out}, a control whose map is random")
        return
    unfinished = out.with_name(out.name + ".partial")
    result = cost.fit(
        plm,
        tokenizer,
        lines,
        folder=unfinished,
        max_steps=steps,
        batch_size=batch_size,
        max_length=max_length,
        learning_rate=lr,
        seed=seed,
    )
    cost.save_pretrained(out)
    shutil.rmtree(unfinished, ignore_errors=True)
    first = result.held_out[0][1]
    steps_taken = f"best at step {result.best_step} of {result.steps}"
    click.echo(f"held-out cost {first:.4f} -> {result.best:.4f} ({steps_taken})")
    click.echo(f"wrote {out}")


@cli.command(cls=ManyValues)
@click.option("--model", required=True, help="Hugging Face name or local folder of a masked LM.")
@click.option("--task", required=True, help="sst2, mnli, cola, rte, qnli, mrpc or qqp.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder with the original GLUE tsv files.  [default: the hub]",
)
@click.option("--pet", default="lora", show_default=True, help="PET method.")
@click.option(
    "--cost",
    "cost_folder",
    type=click.Path(path_type=Path),
    help="A fitted cost; without it, and without a regularizer, the PET is vanilla.",
)
@click.option(
    "--regularizer",
    help="Instead of a cost: dropout, label-smoothing, neftune, r-drop, r3f or weight-decay.",
)
@click.option(
    "--weight",
    default=0.5,
    show_default=True,
    help="Factor of the running cost in the loss, or the number of the regularizer.",
)
@click.option(
    "--shots",
    default=16,
    show_default=True,
    help="Examples per class to train on, and as many to select on; 0: all.",
)
@click.option("--seed", default=42, show_default=True, help="Of split, initialisation and order.")
@click.option("--steps", default=1000, show_default=True, help="Optimiser steps.")
@click.option("--batch-size", default=2, show_default=True, help="Examples a step.")
@click.option(
    "--lr",
    type=float,
    help="Learning rate, constant.  [default: 1e-3 for prefix and prompt, 1e-4 otherwise]",
)
@click.option(
    "--eval-every", default=50, show_default=True, help="Steps between looks at the selection split."
)
@click.option("--max-length", default=128, show_default=True, help="Tokens a prompt.")
@click.option(
    "--label-words",
    multiple=True,
    metavar="WORD...",
    help="Words that stand for the classes, in class order; several for one as in 'good,great'.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder.  [default: runs/TASK-PET-BRIDGE-SHOTS-SEED]",
)
def tune(
    model: str,
    task: str,
    data: Path | None,
    pet: str,
    cost_folder: Path | None,
    regularizer: str | None,
    weight: float,
    shots: int,
    seed: int,
    steps: int,
    batch_size: int,
    lr: float | None,
    eval_every: int,
    max_length: int,
    label_words: tuple[str, ...],
    out: Path | None,
) -> None:
    """Tune one PET on one GLUE task and print its result line.

    The checkpoint is selected on examples taken from the train set; the GLUE dev set is scored once,
    at the end. The run folder holds result.json (one line: settings, versions, metrics, curves) and
    the PET. An interrupted run goes on when the same command is given again.

    \b
      bridge-pets tune --model bert-base-uncased --task sst2 --data glue --shots 16 --seed 42
      bridge-pets tune --model bert-base-uncased --task sst2 --data glue --cost ou-bert --weight 0.5

    On several GPUs, or in several processes, that share the examples of each step (--batch-size is what
    all do together):

    \b
      torchrun --nproc-per-node 2 -m pets.cli tune --batch-size 32 ...
    """
    from pets import data as glue
    from pets import tasks
    from pets.models import load_plm
    from pets.processes import joined
    from pets.tuning import tune as run
    from pets.tuning_loop import TuneSettings

    settings = TuneSettings(
        pet=pet,
        regularizer=regularizer,
        weight=weight,
        shots=shots or None,
        seed=seed,
        max_steps=steps,
        batch_size=batch_size,
        learning_rate=lr,
        eval_every=eval_every,
        max_length=max_length,
    )
    is_main = joined().is_main
    if not is_main:
        logging.disable(logging.WARNING)  # the first process says it all
    chosen = tasks.get(task)
    if label_words:
        chosen = chosen.with_words(label_words)
    cost = bridges.RunningCost.from_pretrained(cost_folder) if cost_folder else None
    examples = glue.load(chosen, data)
    plm, tokenizer = load_plm(model)
    name = cost.bridge.registered_name if cost else regularizer or "vanilla"
    folder = out or Path("runs") / f"{chosen.name}-{pet}-{name}-{shots or 'all'}-{seed}"
    result = run(plm, tokenizer, examples, settings, folder, cost=cost)
    if is_main:
        click.echo(json.dumps({k: v for k, v in result.items() if k != "curves"}))
        click.echo(f"wrote {folder}", err=True)


@cli.command()
@click.option(
    "--out",
    default="demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for everything.",
)
@click.option("--seeds", default=5, show_default=True, help="How many seeds, from 42 on.")
def demo(out: Path, seeds: int) -> None:
    """See it work: nothing to download, no GPU, a few minutes.

    Pretrains a tiny masked LM on the docstrings of Python's own library, fits a Brownian and an OU
    cost, and tunes LoRA with and without them on a few-shot task: which area of the library does a
    docstring belong to? Prints a table and draws trajectories.png.
    """
    from pets.demo import run

    run(out, seeds)


@cli.command()
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also draw each of them into this PNG file.",
)
def zoo(plot: Path | None) -> None:
    """List the registered bridges, their formulas and parameters."""
    if plot:
        from pets.zoo import plot_zoo

        plot_zoo(plot)
    for name in bridges.available():
        record = bridges.info(name)
        click.secho(name, bold=True)
        click.echo(f"  {record.description}")
        if record.formula:
            click.echo(f"  {record.formula}")
        click.echo(f"  parameters: {_parameters(record) or 'none'}")
    if plot:
        click.echo(f"wrote {plot}", err=True)


def _parameters(record: bridges.BridgeInfo) -> str:
    shown = []
    for name, default in record.defaults.items():
        shown.append(name if default in (inspect.Parameter.empty, "") else f"{name}={default}")
    return ", ".join(shown)


def main(args: list[str] | None = None) -> Any:
    """Run the command line; wrong input is one line on standard error and exit code 2."""
    try:
        cli.main(args=args, prog_name="bridge-pets", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as error:
        where = f" ({error.ctx.command_path} --help)" if error.ctx else ""
        click.echo(f"error: {error.format_message()}{where}", err=True)
        sys.exit(2)
    except BadInput as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted; the same command goes on from the last saved state", err=True)
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
