"""Fitting the latent map and what a bridge learns: the cost, minimised with the model frozen."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bridges.errors import BadInput
from bridges.fit_loop import FitLoop, FitResult, FitSettings
from bridges.model_spec import pretrained_model
from bridges.storage import Snapshot
from bridges.text import (
    Batch,
    causal_batch,
    encoder_decoder_batch,
    masked_batch,
    max_positions,
    token_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridges.running_cost import RunningCost

logger = logging.getLogger(__name__)

STATE_FILE = "fit-state.safetensors"


def fit(
    cost: RunningCost,
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **settings: Any,
) -> FitResult:
    """Fit ``cost``'s latent map in place, and what its bridge learns; the best on held-out text is kept.

    Args:
        cost: a cost made for ``model``.
        model: frozen and in eval mode throughout; left as it was.
        tokenizer: a fast tokenizer of the model.
        texts: one text an item; blank ones are left out.
        folder: where the state of the fit is kept. A fit that was interrupted goes on from there, to
            the same result; a state of other settings or text is refused. The state stays until you
            delete it: do so once the cost is saved.
        progress: show a progress bar.
        **settings: fields of `FitSettings`.

    A bridge that has nothing to fit, like "none", is left as it is; a warning says so.

    Raises:
        BadInput: for a cost made with ``fit=False``, a model it was not made for, unknown or impossible
            settings, empty text, or a state that belongs to another fit.
    """
    chosen = _settings(settings)
    cost.check_model(model)
    if not cost.options["fit"]:
        raise BadInput(
            "this cost was made with fit=False: its latent map is random on purpose, as a control. Use "
            "it as it is, or make one without fit=False"
        )
    if not cost.bridge.fits:
        logger.warning("bridge %r has nothing to fit", cost.bridge.registered_name)
        result = FitResult(0, 0, ((0, 0.0),), (), stopped_early=False)
        cost.fit_record = _record(chosen, result)
        return result
    encoder = pretrained_model(model).base_model
    texts = [text for text in texts if text.strip()]
    limit = min(chosen.max_length, max_positions(encoder.config) or chosen.max_length)
    most = chosen.max_steps * chosen.batch_size + chosen.held_out
    rows = token_rows(tokenizer, texts, max_length=limit, most=most, seed=chosen.seed)
    # Held-out rows are the first ones, so at most one text has rows on both sides.
    kept_out = min(chosen.held_out, max(1, len(rows) // 5))
    if len(rows) < 2:
        raise BadInput("the text makes a single row of tokens: fitting needs at least two")
    make = _batch_maker(cost, encoder.config, tokenizer, chosen)
    loop = FitLoop(cost, encoder, rows[kept_out:], rows[:kept_out], make, chosen)
    identity = {
        "settings": dataclasses.asdict(chosen),
        "cost": cost.digest(),
        "text": hashlib.sha256("\0".join(texts).encode()).hexdigest(),
    }
    snapshot = Snapshot(Path(folder) / STATE_FILE, identity) if folder is not None else None
    with _frozen(encoder), _trainable(loop.fitted):
        result = _undone_on_error(loop.fitted, lambda: loop.run(snapshot, progress=progress))
    cost.fit_record = _record(chosen, result, text_sha256=identity["text"])
    return result


def _record(settings: FitSettings, result: FitResult, **more: Any) -> dict[str, Any]:
    """What a cost keeps of its fit, the same before saving and after loading."""
    record = {"settings": dataclasses.asdict(settings), **dataclasses.asdict(result), **more}
    return dict(json.loads(json.dumps(record)))


def _undone_on_error(module: nn.Module, run: Callable[[], FitResult]) -> FitResult:
    """An interrupted fit leaves its parts as they were: the same call can go on from its state."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    try:
        return run()
    except BaseException:
        module.load_state_dict(before)
        raise


def _settings(given: dict[str, Any]) -> FitSettings:
    known = [field.name for field in dataclasses.fields(FitSettings)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise BadInput(f"fit takes no {', '.join(unknown)}; it takes {', '.join(known)}")
    return FitSettings(**given)


def _batch_maker(
    cost: RunningCost, config: Any, tokenizer: Any, settings: FitSettings
) -> Callable[[list[list[int]], torch.Generator], Batch]:
    if cost.spec.encoder_decoder:
        start = getattr(config, "decoder_start_token_id", None)
        if start is None:
            raise BadInput(
                "the model's config has no decoder_start_token_id: set it to the token its decoder "
                "begins with"
            )
        return lambda rows, rng: encoder_decoder_batch(rows, tokenizer, start=start, rng=rng)
    if cost.spec.causal:
        return lambda rows, rng: causal_batch(rows, tokenizer, rng=rng)
    if tokenizer.mask_token_id is None:
        raise BadInput(f"{type(tokenizer).__name__} has no mask token: fitting a masked LM needs one")
    share = settings.mask_share
    return lambda rows, rng: masked_batch(rows, tokenizer, share=share, rng=rng)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode for the time of the block, every module's own mode restored after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _trainable(module: nn.Module) -> Iterator[None]:
    module.requires_grad_(True)
    try:
        yield
    finally:
        module.requires_grad_(False)
