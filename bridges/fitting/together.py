"""Fitting the latent map and what a bridge learns: the cost, minimised with the model frozen."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from bridges.errors import BadInput, shown
from bridges.fitting.arguments import takes_settings
from bridges.fitting.contrasts import COMMON, shares_kept
from bridges.fitting.fittable import Fittable
from bridges.fitting.learning import tell_of_bounds
from bridges.fitting.lens_fit import LensFit
from bridges.fitting.lens_reading import read_part, read_text
from bridges.fitting.loop import FitLoop, run
from bridges.fitting.refusals import check_costs, check_shared, has_lens
from bridges.fitting.settings import FitResult, FitSettings, LensSettings, TextSettings
from bridges.fitting.state import STATE_FILE, Folder, claimed_for_fits
from bridges.fitting.text import AskedHead, FitText
from bridges.model.autocast import chosen_dtype
from bridges.model.head import has_head
from bridges.model.identity import model_identity, own_code
from bridges.model.spec import encoder_of, pretrained_model
from bridges.model.undisturbed import undisturbed
from bridges.storage.checkpoint import Snapshot
from bridges.storage.files import tensor_bytes, versions
from bridges.storage.source import FIT, source_digest

logger = logging.getLogger(__name__)

_NOTHING = FitResult(0, 0, ((0, 0.0),), (), stopped_early=False)


@takes_settings
def fit(
    cost: Fittable,
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    folder: Folder | None = None,
    progress: bool = True,
    distributed: bool = False,
    **settings: Any,
) -> FitResult:
    """Fit ``cost``'s latent map in place, and what its bridge learns; the best on held-out text is kept.

    A lens is made in closed form from one pass over the text (`bridges.fitting.lens_fit`).

    Args:
        cost: a cost made for ``model``.
        model: frozen and in eval mode throughout; left as it was.
        tokenizer: a fast tokenizer of the model.
        texts: one text an item; blank ones are left out.
        folder: where the state of the fit is kept. A fit that was interrupted goes on from there, to
            the same result; a state of other settings, text, weights, tokenizer or code is refused. The
            state stays until you delete it: do so once the cost is saved.
        progress: show a progress bar.
        distributed: the processes of torch.distributed, all of which call this with the same arguments,
            share the reading of the text, and all end with the same lens; without a state.
        **settings: fields of `FitSettings`, with ``steps`` for its ``max_steps``; of `LensSettings` for
            a cost whose map is a lens.

    A bridge that has nothing to fit, like "none", is left as it is; a warning says so.

    Raises:
        BadInput: for a cost made with ``fit=False``, a model it was not made for, unknown or impossible
            settings, empty text or none, a state that belongs to another fit, or a folder in which
            another fit is running.
    """
    folders = None if folder is None else [folder]
    [result] = fit_together(
        [cost],
        model,
        tokenizer,
        texts,
        folders=folders,
        progress=progress,
        distributed=distributed,
        **settings,
    )
    return result


@takes_settings
def fit_together(
    costs: Sequence[Fittable],
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    folders: Sequence[Folder] | None = None,
    progress: bool = True,
    distributed: bool = False,
    **settings: Any,
) -> list[FitResult]:
    """Fit several costs of one model on the same text, which the model then reads once for all.

    Each comes out as from a `fit` of its own, to the same bits; arguments and errors are as there. Costs
    that read other states than each other (``cost.reads``) are refused.

    Args:
        costs: made for ``model``, each given once.
        folders: one for each cost.

    Returns:
        What was done, in the order of the costs.
    """
    check_costs(costs, folders, model)
    if distributed:
        check_shared(costs, folders)
    plm: Any = pretrained_model(model)
    chosen = _settings(settings, costs, head=has_head(plm))
    encoder = encoder_of(model)
    for kind, settings_of in chosen.items():
        dtype = chosen_dtype(settings_of.dtype, encoder)
        chosen[kind] = dataclasses.replace(settings_of, dtype=dtype)
    texts = _not_blank(texts)
    text_sha256 = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    made_of = {
        "text": text_sha256,
        "reads": costs[0].spec.reads if costs else None,
        **({} if folders is None else model_identity(model, tokenizer)),
        "code": source_digest(*FIT),
        "versions": versions(),
    }

    def snapshot(k: int, **identity: Any) -> Snapshot | None:
        return None if folders is None else Snapshot(Path(folders[k]) / STATE_FILE, identity | made_of)

    for cost in costs:
        if not cost.bridge.fits:
            logger.warning("bridge %r has nothing to fit", cost.bridge.registered_name)
    fitted = [k for k, cost in enumerate(costs) if cost.bridge.fits]
    groups = _by_end_points(costs, [k for k in fitted if has_lens(costs[k])])
    loops: dict[int, FitLoop] = {}
    for k in (k for k in fitted if not has_lens(costs[k])):
        own = {"cost": costs[k].digest(), "cost_code": own_code(costs[k])}
        kept = snapshot(k, settings=dataclasses.asdict(chosen[FitSettings]), **own)
        loops[k] = FitLoop(costs[k], chosen[FitSettings], kept)
    results = dict.fromkeys(range(len(costs)), _NOTHING)
    shares: dict[int, float] = {}

    def text(kind: type[Any], of: Sequence[int]) -> FitText:
        by_steps = kind is FitSettings
        asks = not by_steps and chosen[kind].targets == "head"
        made = FitText(
            costs[0].spec,
            encoder,
            tokenizer,
            texts,
            chosen[kind],
            context=by_steps,
            head=AskedHead(plm, costs[0].positions) if asks else None,
        )
        kept = shares_kept([costs[k] for k in of], model, made.common_tokens(COMMON))
        shares.update(zip(of, kept, strict=True))
        return made

    with (
        claimed_for_fits([] if folders is None else [folders[k] for k in fitted]),
        undisturbed(plm if groups else encoder),
        _undone([m for k in fitted for m in (costs[k].latent_map, costs[k].bridge)]),
        _trainable([loop.fitted for loop in loops.values()]),
    ):
        if loops:
            for loop in loops.values():
                loop.resume()
            of_text = text(FitSettings, list(loops))
            run(list(loops.values()), of_text, chosen[FitSettings], progress=progress)
            results |= {k: loop.finish() for k, loop in loops.items()}
        if groups:
            read = chosen[LensSettings].of_text()
            fits = [
                LensFit.of([costs[k] for k in group], snapshot(group[0], settings=read, ends=ends))
                for ends, group in groups.items()
            ]
            of_text = text(LensSettings, [k for group in groups.values() for k in group])
            if distributed:
                read_part(fits, of_text, chosen[LensSettings])
            else:
                read_text(fits, of_text, chosen[LensSettings], progress=progress)
            for group, fit in zip(groups.values(), fits, strict=True):
                found = fit.finish(of_text, chosen[LensSettings], progress=progress)
                results |= dict(zip(group, found, strict=True))
    for k, cost in enumerate(costs):
        more = {"text_sha256": text_sha256, "contrasts_kept": shares[k]} if k in fitted else {}
        kind = LensSettings if has_lens(cost) else FitSettings
        cost.options.pop("adapted", None)  # the fit has made the lens anew
        cost.fit_record = _record(chosen[kind], results[k], **more)
        tell_of_bounds(cost.bridge)
    return list(results.values())


def _by_end_points(costs: Sequence[Fittable], which: Sequence[int]) -> dict[str, list[int]]:
    """Costs with a lens, by a hash of their end points: those with the same have one regression."""
    groups: dict[str, list[int]] = {}
    for k in which:
        digest = hashlib.sha256(tensor_bytes(costs[k].end_points.rounded)).hexdigest()
        groups.setdefault(digest, []).append(k)
    return groups


def _not_blank(texts: Iterable[str]) -> list[str]:
    """The texts that have anything in them.

    Raises:
        BadInput: for anything else, and for a single text, whose letters are none.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise BadInput(f"texts={shown(texts)}: expected several texts, such as a list of them")
    found = []
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadInput(f"item {number} of texts is {shown(text)}: expected a text")
        if text.strip():
            found.append(text)
    return found


def _record(settings: TextSettings, result: FitResult, **more: Any) -> dict[str, Any]:
    """What a cost keeps of its fit, the same before saving and after loading."""
    record = {"settings": dataclasses.asdict(settings), **dataclasses.asdict(result), **more}
    return dict(json.loads(json.dumps(record)))


def _settings(given: dict[str, Any], costs: Sequence[Fittable], *, head: bool) -> dict[type[Any], Any]:
    """The settings of each kind of fit that the costs need.

    Raises:
        BadInput: for one that is none of theirs, or impossible.
    """
    given = dict(given)
    kinds = {LensSettings if has_lens(cost) else FitSettings for cost in costs} or {FitSettings}
    if "steps" in given and FitSettings in kinds:
        if "max_steps" in given:
            raise BadInput("steps and max_steps are one setting: give one of them")
        given["max_steps"] = given.pop("steps")
    fields = {kind: {field.name for field in dataclasses.fields(kind)} for kind in kinds}
    known = sorted(set().union(*fields.values()))
    if unknown := sorted(set(given) - set(known)):
        of = "a lens" if kinds == {LensSettings} else "fit"
        takes = ", ".join("steps (or max_steps)" if name == "max_steps" else name for name in known)
        raise BadInput(f"{of} takes no {', '.join(unknown)}; it takes {takes}")
    chosen: dict[type[Any], Any] = {
        kind: kind(**{name: value for name, value in given.items() if name in names})
        for kind, names in fields.items()
    }
    if LensSettings in chosen:
        chosen[LensSettings] = chosen[LensSettings].for_model(costs[0].spec.hidden_size, head=head)
    return chosen


@contextmanager
def _undone(modules: Sequence[nn.Module]) -> Iterator[None]:
    """An error leaves the modules as they were: the same call can go on from the state of the fit."""
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    try:
        yield
    except BaseException:
        for module, state in zip(modules, before, strict=True):
            module.load_state_dict(state)
        raise


@contextmanager
def _trainable(modules: Sequence[nn.Module]) -> Iterator[None]:
    """For the time of the block."""
    for module in modules:
        module.requires_grad_(True)
    try:
        yield
    finally:
        for module in modules:
            module.requires_grad_(False)
