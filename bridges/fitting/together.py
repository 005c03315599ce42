"""Fitting the latent map and what a bridge learns: the cost, minimised with the model frozen."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import nn

from bridges.errors import BadInput
from bridges.fitting.fittable import Fittable
from bridges.fitting.loop import FitLoop, run
from bridges.fitting.settings import FitResult, FitSettings
from bridges.fitting.text import FitText
from bridges.model.identity import model_identity, own_code
from bridges.model.spec import encoder_of
from bridges.model.undisturbed import undisturbed
from bridges.storage.checkpoint import Snapshot
from bridges.storage.files import versions
from bridges.storage.ownership import claimed
from bridges.storage.source import FIT, source_digest

logger = logging.getLogger(__name__)

STATE_FILE = "fit-state.safetensors"

Folder = str | os.PathLike[str]


def fit(
    cost: Fittable,
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    folder: Folder | None = None,
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
            the same result; a state of other settings, text, weights, tokenizer or code is refused. The
            state stays until you delete it: do so once the cost is saved.
        progress: show a progress bar.
        **settings: fields of `FitSettings`.

    A bridge that has nothing to fit, like "none", is left as it is; a warning says so.

    Raises:
        BadInput: for a cost made with ``fit=False``, a model it was not made for, unknown or impossible
            settings, empty text, a state that belongs to another fit, or a folder in which another fit
            is running.
    """
    folders = None if folder is None else [folder]
    [result] = fit_together(
        [cost], model, tokenizer, texts, folders=folders, progress=progress, **settings
    )
    return result


def fit_together(
    costs: Sequence[Fittable],
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    folders: Sequence[Folder] | None = None,
    progress: bool = True,
    **settings: Any,
) -> list[FitResult]:
    """Fit several costs of one model on the same text, which the model then reads once for all.

    Each comes out as from a `fit` of its own, to the same bits; arguments and errors are as there.

    Args:
        costs: made for ``model``, each given once.
        folders: one for each cost.

    Returns:
        What was done, in the order of the costs.
    """
    chosen = _settings(settings)
    _check(costs, folders, model)
    loops: dict[int, FitLoop] = {}
    texts = [text for text in texts if text.strip()]
    text_sha256 = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    of_model = {} if folders is None else model_identity(model, tokenizer)
    for k, cost in enumerate(costs):
        if not cost.bridge.fits:
            logger.warning("bridge %r has nothing to fit", cost.bridge.registered_name)
            continue
        snapshot = None
        if folders is not None:
            identity = {
                "settings": dataclasses.asdict(chosen),
                "cost": cost.digest(),
                "cost_code": own_code(cost),
                "text": text_sha256,
                **of_model,
                "code": source_digest(*FIT),
                "versions": versions(),
            }
            snapshot = Snapshot(Path(folders[k]) / STATE_FILE, identity)
        loops[k] = FitLoop(cost, chosen, snapshot)
    nothing = FitResult(0, 0, ((0, 0.0),), (), stopped_early=False)
    results = [nothing] * len(costs)
    if loops:
        encoder = encoder_of(model)
        text = FitText(costs[0].spec, encoder, tokenizer, texts, chosen)
        with (
            _claimed([] if folders is None else [folders[k] for k in loops]),
            undisturbed(encoder),
            _in_training([loop.fitted for loop in loops.values()]),
        ):
            for loop in loops.values():
                loop.resume()
            run(list(loops.values()), text, progress=progress)
            for k, loop in loops.items():
                results[k] = loop.finish()
    for k, (cost, result) in enumerate(zip(costs, results, strict=True)):
        more = {"text_sha256": text_sha256} if k in loops else {}
        cost.fit_record = _record(chosen, result, **more)
    return results


@contextmanager
def _claimed(folders: Sequence[Folder]) -> Iterator[None]:
    """The folders of fits, for this process alone."""
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(claimed(folder, "a fit", (STATE_FILE,), alone=False))
        yield


def partial_folder(out: Path) -> Path:
    """Where the state of a fit is kept that is to be saved in ``out``."""
    return out.with_name(out.name + ".partial")


def discard_state(folder: Folder) -> None:
    """Remove the state of a fit whose cost is saved, and its folder if nothing else is in it.

    Not where another process goes on with it.
    """
    folder = Path(folder)
    if folder.is_dir():
        with suppress(BadInput), claimed(folder, "a fit", (STATE_FILE,), alone=False):
            (folder / STATE_FILE).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def _check(costs: Sequence[Fittable], folders: Sequence[Folder] | None, model: nn.Module) -> None:
    if len({id(cost) for cost in costs}) < len(costs):
        raise BadInput("a cost is given twice: it is fitted once")
    if folders is not None and not len(costs) == len(folders) == len({Path(f) for f in folders}):
        raise BadInput(
            f"{len(costs)} costs and the folders {', '.join(map(str, folders))}: expected one for each"
        )
    for cost in costs:
        cost.check_model(model)
        if not cost.options["fit"]:
            raise BadInput(
                "this cost was made with fit=False: its latent map is random on purpose, as a control. "
                "Use it as it is, or make one without fit=False"
            )


def _record(settings: FitSettings, result: FitResult, **more: Any) -> dict[str, Any]:
    """What a cost keeps of its fit, the same before saving and after loading."""
    record = {"settings": dataclasses.asdict(settings), **dataclasses.asdict(result), **more}
    return dict(json.loads(json.dumps(record)))


def _settings(given: dict[str, Any]) -> FitSettings:
    known = [field.name for field in dataclasses.fields(FitSettings)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise BadInput(f"fit takes no {', '.join(unknown)}; it takes {', '.join(known)}")
    return FitSettings(**given)


@contextmanager
def _in_training(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Trainable for the time of the block; an error leaves all of them as they were.

    An interrupted fit is undone so that the same call can go on from its state.
    """
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    for module in modules:
        module.requires_grad_(True)
    try:
        yield
    except BaseException:
        for module, state in zip(modules, before, strict=True):
            module.load_state_dict(state)
        raise
    finally:
        for module in modules:
            module.requires_grad_(False)
