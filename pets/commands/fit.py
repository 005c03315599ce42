"""``bridge-pets fit``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import bridges
from bridges.cost.files import check_writable
from bridges.cost.reader import MAPS
from bridges.errors import BadInput
from bridges.fitting.state import STATE_FILE, discard_state, partial_folder
from bridges.latent.end_points import ENDS
from bridges.storage.ownership import claimed, foreign
from bridges.storage.workplace import clean
from pets.commands.options import ManyValues, Named, model_options, read_lines, trust_remote_code
from pets.tuning.models import HowLoaded, load_plm


@click.command(cls=ManyValues)
@click.option("--model", required=True, help="Hugging Face name or local folder of a language model.")
@model_options
@click.option(
    "--bridge",
    cls=Named,
    names=bridges.available,
    default="brownian",
    show_default=True,
    help="{names}; with parameters if you like: ou:theta=2,sigma=1. See `bridge-pets zoo`.",
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
@click.option(
    "--map",
    "map_name",
    type=click.Choice(MAPS),
    default=MAPS[0],
    show_default=True,
    help="What reads the states: mlp, the published map, or lens, a regression for each layer.",
)
@click.option(
    "--ends",
    type=click.Choice(ENDS),
    help="Words' end points, on principal axes: pca, the published ones, or white, all axes alike.  "
    "[default: pca with mlp, white with lens]",
)
@click.option(
    "--normalise",
    is_flag=True,
    help="Read every state over its root mean square, as a lens always does.",
)
@click.option("--latent-dim", type=int, help="Latent dimension d.  [default: H/8, 16 to 128]")
@click.option(
    "--steps", default=2000, show_default=True, help="Of mlp: optimiser steps at most; stops early."
)
@click.option("--lr", default=1e-3, show_default=True, help="Of mlp: peak learning rate.")
@click.option("--tokens", type=int, help="Of lens: targets that are read at most.  [default: 40 H]")
@click.option(
    "--ridge", type=float, help="Of lens: strength of the regression.  [default: chosen for each layer]"
)
@click.option("--batch-size", default=32, show_default=True, help="Rows of text a step.")
@click.option("--max-length", default=128, show_default=True, help="Tokens a row.")
@click.option(
    "--whole-words", is_flag=True, help="Mask words with all their pieces, in the text of a masked LM."
)
@click.option("--seed", default=0, show_default=True, help="Of initial weights, order and masks.")
@trust_remote_code
def fit(
    model: str,
    dtype: str,
    quantize: str | None,
    bridge: str,
    texts: tuple[str, ...],
    control: str | None,
    out: Path,
    map_name: str,
    ends: str | None,
    normalise: bool,
    latent_dim: int | None,
    steps: int,
    lr: float,
    tokens: int | None,
    ridge: float | None,
    batch_size: int,
    max_length: int,
    whole_words: bool,
    seed: int,
    trust_remote_code: bool,
) -> None:
    """Fit a running cost for a model on plain text.

    The model stays frozen; only the small latent map is trained, or with --map lens computed from one
    reading of the text. An interrupted fit goes on where it was when the same command is given again.

    \b
      bridge-pets fit --model bert-base-uncased --bridge brownian --text wiki.txt --out brownian-bert
      bridge-pets fit --model bert-base-uncased --map lens --text wiki.txt --out lens-bert
      bridge-pets fit --model bert-base-uncased --bridge brownian --control random-map --out random-bert
    """
    process = bridges.parse(bridge)
    of_map: dict[str, Any] = {"steps": steps, "learning_rate": lr}
    if map_name == "lens":
        of_map = {"max_tokens": tokens, "ridge": ridge}
    fits = control != "random-map"
    _refuse_useless(map_name, fits=fits)
    unfinished = _state_folder(out)
    if fits != bool(texts):
        raise BadInput(
            "no text: give --text FILE to fit on"
            if fits
            else "--text has no use with --control random-map, which fits nothing: leave it out"
        )
    lines = read_lines(texts)
    how = HowLoaded(dtype, quantize)
    plm, tokenizer = load_plm(model, how, trust_remote_code=trust_remote_code)
    cost = bridges.RunningCost.for_model(
        plm,
        process,
        map=map_name,
        ends=ends,
        latent_dim=latent_dim,
        seed=seed,
        shuffle_ends=control == "shuffled-ends",
        fit=fits,
        normalise=normalise or None,
    )
    if not fits:
        cost.save_pretrained(out)
        click.echo(f"wrote {out}, a control whose map is random")
        return
    result = cost.fit(
        plm,
        tokenizer,
        lines,
        folder=unfinished,
        batch_size=batch_size,
        max_length=max_length,
        masking="words" if whole_words else "tokens",
        seed=seed,
        **of_map,
    )
    if cost.fit_record is not None:  # for whoever asks what text that was
        names = [Path(name).name for name in texts]
        cost.fit_record |= {"text_files": names, "texts": sum(bool(x.strip()) for x in lines)}
    if not _holds(out, cost):
        cost.save_pretrained(out)
    discard_state(unfinished)
    click.echo(_outcome(result))
    if cost.fit_record and (kept := cost.fit_record.get("contrasts_kept")) is not None:
        dim = cost.latent_map.dim
        click.echo(f"{kept:.0%} of what tells common words apart is left in {dim} dimensions")
    click.echo(f"wrote {out}")


def _refuse_useless(map_name: str, *, fits: bool) -> None:
    """Options that the map takes no notice of; of a lens that is not fitted, all that are its own.

    Raises:
        BadInput: if one is given.
    """
    context = click.get_current_context()
    for other, options in (("mlp", ("steps", "lr")), ("lens", ("tokens", "ridge"))):
        given = [o for o in options if context.get_parameter_source(o) != ParameterSource.DEFAULT]
        words = " and ".join(f"--{option}" for option in given)
        if given and map_name != other:
            raise BadInput(f"{words} with --map {map_name}: only --map {other} takes it, leave it out")
        if given and other == "lens" and not fits:
            raise BadInput(f"{words} with --control random-map: nothing is fitted, leave it out")


def _outcome(result: bridges.FitResult) -> str:
    """The held-out cost; of a lens also its held-out R2 along the path."""
    first = result.held_out[0][1]
    if not result.layers:
        steps = f"best at step {result.best_step} of {result.steps}"
        return f"held-out cost {first:.4f} -> {result.best:.4f} ({steps})"
    last = len(result.layers) - 1
    shares = [f"{result.layers[k].r2:.3f} at layer {k}" for k in sorted({0, (last + 1) // 2, last})]
    return f"held-out cost {first:.4f}, R2 of the lens {', '.join(shares)}"


def _state_folder(out: Path) -> Path:
    """Where the state of the fit is kept while it lasts, once all is well with both places.

    A cost beside a state was saved right before a kill: the fit, at its end, goes on to the same cost.

    Raises:
        BadInput: if a folder is in the way, holds anything else, or another fit is running.
    """
    unfinished = partial_folder(Path(os.path.abspath(out)))
    check_writable(out)
    clean(unfinished.parent, {out.name})
    if out.is_dir() and foreign(out, ()) and not (unfinished / STATE_FILE).exists():
        discard_state(unfinished)  # of a fit that was killed when all was done
        raise BadInput(f"{out} exists: a cost is never overwritten, choose another folder")
    with claimed(unfinished, "a fit", (STATE_FILE,)):
        return unfinished


def _holds(out: Path, cost: bridges.RunningCost) -> bool:
    """Whether the cost is there already.

    Raises:
        BadInput: if it is another.
    """
    if not out.exists() or not foreign(out, ()):
        return False
    there = bridges.RunningCost.from_pretrained(out)
    if there.config() != cost.config() or there.digest() != cost.digest():
        raise BadInput(f"{out} exists: a cost is never overwritten, choose another folder")
    return True
