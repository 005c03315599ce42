"""Tuning one PET on one task, with or without a running cost, selected on a split never reported."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedModel

from bridges import BadInput, ModelSpec, RunningCost
from bridges.fitting.refusals import has_lens
from bridges.model.identity import model_identity, own_code
from bridges.storage.files import new_folder, versions
from bridges.storage.source import FIT, source_digest
from pets.tasks import prompts
from pets.tasks.base import TaskData
from pets.tasks.protocol import OURS, Protocol
from pets.tasks.shared_texts import warn_of_shared_texts
from pets.tuning.adapter_card import CARD_FILE, card
from pets.tuning.preparing import prepared
from pets.tuning.run_folder import RunFolder
from pets.tuning.settings import CAME_LATER, TuneSettings
from pets.tuning.workers import Processes, joined

logger = logging.getLogger(__name__)

MADE_BY = (*FIT, *(f"pets/{room}" for room in ("methods", "tasks", "plug", "regularizers", "tuning")))
"""The folders whose code a run's result depends on."""


def tune(
    plm: PreTrainedModel,
    tokenizer: Any,
    data: TaskData,
    settings: TuneSettings,
    folder: str | os.PathLike[str],
    *,
    cost: RunningCost | None = None,
    encoder: prompts.Encoder | None = None,
    of_model: Mapping[str, str | None] | None = None,
    sharded: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Tune and score one PET; the run folder holds the result line, curves and the PET.

    The checkpoint is chosen by the task's metric, then by lower loss, on examples taken from the train
    set; the reported set is scored once, with the chosen checkpoint. ``plm`` is left as it was.
    Started by torchrun or ``accelerate launch``, several processes share the run: each does its part of
    every batch, all return the result, and the first writes.

    Args:
        plm: a language model or a sequence classifier, frozen here.
        tokenizer: its tokenizer.
        data: a task and its examples; without reported ones the PET is selected and not scored.
        settings: see `TuneSettings`.
        folder: new, or one of the same run: an interrupted run goes on to the same result, and a
            finished one is returned as it is.
        cost: the running cost; without one and without a regularizer in the settings the PET is vanilla.
        encoder: of the tokenizer, to share what it has split into tokens between runs.
        of_model: the `bridges.model.identity.model_identity` of both, to share that between runs too.
        sharded: several processes keep a part of the frozen weights each, see `pets.tuning.sharding`; to
            the same result up to rounding, but ``plm`` is not as it was afterwards.
        progress: show a progress bar.

    Returns:
        The result: settings, versions, "reported" and "dev" metrics, "best_step", "curves", and the
        "weight" that the cost or regularizer had at first.

    Raises:
        BadInput: for anything that does not fit: label words, shots, cost, folder.
    """
    if cost is not None and settings.regularizer is not None:
        raise BadInput(
            f"a cost and regularizer {settings.regularizer!r} too: one of them is used instead of the "
            "other, so give only one"
        )
    if settings.ratio is not None and cost is None:
        raise BadInput(
            f"ratio={settings.ratio}: there is no running cost to weigh; give one, or no ratio"
        )
    if settings.adapt != "never" and (cost is None or not has_lens(cost)):
        raise BadInput(
            f"adapt={settings.adapt!r}: only a running cost with a lens learns from examples; give one "
            "that was fitted with map='lens'"
        )
    processes = dataclasses.replace(joined(), in_step=sharded)
    processes.check_batch(settings.batch_size)
    of_model = of_model or model_identity(plm, tokenizer)
    identity = {"model": ModelSpec.of(plm).name, **of_model, **_identity(data, settings, cost)}
    if processes.count > 1:
        identity["processes"] = processes.count  # other sums, other noise
    run = RunFolder(folder, identity)
    processes.wait()  # all look at the folder before one writes into it
    if run.result is not None:
        logger.info("%s is finished; nothing to do", run.path)
        if processes.is_main:
            run.tidy()
        return run.result
    shared = warn_of_shared_texts(data) if data.reported else None
    with (
        _alone(run, processes),
        prepared(
            plm, tokenizer, data, settings, cost=cost, encoder=encoder, processes=processes
        ) as loop,
    ):
        if processes.is_main:
            run.start()  # nothing is written before all that can be refused has been
        loop.run(run, progress=progress)
        if processes.is_main:
            with new_folder(run.pet) as new:
                loop.classifier.model.save_pretrained(new)  # type: ignore[operator]
                name = cost.bridge.registered_name if cost is not None else settings.regularizer
                (new / CARD_FILE).write_text(card(plm, data.task, settings, name), encoding="utf-8")
        reported = loop.evaluate("reported")[0] if data.reported else None
        best = loop.best_entry()
        result = {
            "task": data.task.name,
            "metric": data.task.metric,
            "pet": settings.pet,
            "bridge": cost.config()["bridge"] if cost is not None else None,
            "settings": identity["settings"] | {s: getattr(settings, s) for s in CAME_LATER},
            "weight": None if loop.weighed is None else loop.weight,
            "versions": versions(),
            "reported": reported,
            "dev": best["dev"],
            "dev_loss": best["dev_loss"],
            "best_step": best["step"],
            "examples": {name: len(rows) for name, rows in loop.rows.items()},
            "truncated": loop.truncated,
            "shared_texts": shared,
            "left_out": dict(data.left_out),
            "trainable_parameters": sum(p.numel() for p in loop.parameters),
            "curves": loop.curves,
        }
        if processes.is_main:
            run.finish(result, {"seconds_tuning": loop.seconds, "steps": settings.max_steps})
        processes.wait()  # so that what is returned is there for all
    return result


@contextlib.contextmanager
def _alone(run: RunFolder, processes: Processes) -> Iterator[None]:
    """The folder for these processes alone: where the first is refused, all are."""
    with contextlib.ExitStack() as stack:
        refused: BadInput | None = None
        if processes.is_main:
            try:
                stack.enter_context(run.claimed())
            except BadInput as error:
                refused = error
        if processes.total([float(refused is not None)])[0]:
            raise refused or BadInput(f"{run.path} was refused in the first process")
        yield


def data_sha256(data: TaskData, task: str = "", protocol: Protocol = OURS) -> str:
    """Of a task's texts, as they are read, and classes, and of what is said of the task."""
    digest = hashlib.sha256(task.encode())
    for part in (data.train, data.reported):
        for example in part:
            answers = "".join(f"\t{answer}" for answer in (*example.choices, *example.answers))
            if data.task.template is not None:  # words may stand in one column or the next
                digest.update(repr(example.fields).encode())
            digest.update(f"{example.label}\t{protocol.text(example)}{answers}\n".encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _identity(data: TaskData, settings: TuneSettings, cost: RunningCost | None) -> dict[str, Any]:
    """Everything but the model that the result depends on."""
    settings_used = settings.identity | {"weight_decay": settings.decay}
    if cost is None and settings.regularizer is None:
        for unused in ("weight", "schedule", "adapt"):  # they play no part
            settings_used.pop(unused, None)
    return {
        "task": data.task.identity,
        "data_sha256": data_sha256(data, protocol=settings.conventions),
        "cost": None
        if cost is None
        else {"digest": cost.digest(), **cost.options, **cost.config()["bridge"]},
        "cost_code": own_code(cost, *settings.parts),
        "settings": settings_used,
        "code": source_digest(*MADE_BY),
        "versions": versions(),
    }
