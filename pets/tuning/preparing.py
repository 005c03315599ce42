"""A run before its first step: the PET on the model, the task put to it, the cost plugged in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftConfig, PromptTuningConfig, get_peft_model
from transformers import PreTrainedModel

from bridges import BadInput, RunningCost
from pets import methods
from pets.methods.modules import projections
from pets.plug.regularize import Regularizer, regularize
from pets.regularizers import Objective
from pets.tasks import prompts, splits
from pets.tasks.answering import Answering
from pets.tasks.asking import Asking
from pets.tasks.base import Task, TaskData
from pets.tasks.metrics import check_metric
from pets.tuning.evaluation import check_tokens, room
from pets.tuning.loop import TuningLoop
from pets.tuning.models import unload, untouched
from pets.tuning.settings import AMONG_LABELS, TuneSettings
from pets.tuning.sharding import shard
from pets.tuning.workers import Processes, joined


@contextlib.contextmanager
def prepared(
    plm: PreTrainedModel,
    tokenizer: Any,
    data: TaskData,
    settings: TuneSettings,
    *,
    cost: RunningCost | None = None,
    encoder: prompts.Encoder | None = None,
    processes: Processes | None = None,
) -> Iterator[TuningLoop]:
    """The loop of a run before its first step, with everything on the model; arguments as `tune`.

    ``processes`` are those that share it, their weights where they are in step; none by default.

    ``plm`` and the global generator are left as they were.
    """
    check_metric(data.task)
    asking = ask(plm, encoder or prompts.Encoder(tokenizer), data.task, settings)
    if settings.shots is None:
        train, dev = splits.hold_out(data.train, data.task, settings.seed)
    else:
        train, dev = splits.few_shot(data.train, data.task, settings.shots, settings.seed)
    config = methods.get(settings.pet, model=plm, **settings.pet_options)
    parts = {"train": train, "dev": dev, **({"reported": data.reported} if data.reported else {})}
    devices = [plm.device] if plm.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        _classifier(plm, config, settings, asking, cost) as (classifier, plugged),
    ):
        if isinstance(config, PromptTuningConfig):
            first = (tokenizer.mask_token_id, tokenizer.eos_token_id, asking.pad_id)
            methods.init_prompt(classifier.model, next(k for k in first if k is not None))
        limit = room(classifier.model, settings.max_length, mask_first=settings.conventions.mask_first)
        encoded = {name: asking.encode(part, limit) for name, part in parts.items()}
        for rows, _ in encoded.values():
            check_tokens(rows, plm)
        processes = processes or joined()
        if processes.in_step:
            classifier.in_step = True
            shard(classifier.model, processes)
        yield TuningLoop(classifier, encoded, data, settings, processes, plugged=plugged, cost=cost)


def ask(plm: PreTrainedModel, encoder: prompts.Encoder, task: Task, settings: TuneSettings) -> Asking:
    """How the settings put a task to a model."""
    among_labels = settings.loss == AMONG_LABELS
    return Asking(plm, encoder, task, settings.conventions, among_labels=among_labels)


@contextlib.contextmanager
def _classifier(
    plm: PreTrainedModel,
    config: PeftConfig,
    settings: TuneSettings,
    asking: Asking,
    cost: RunningCost | None,
) -> Iterator[tuple[Answering, Regularizer | None]]:
    """The PET on the model, the narrowed head and the cost; all taken off again at the end.

    The global generator is seeded for the PET's initial weights: the caller restores it.
    """
    torch.manual_seed(settings.run_seed)
    with contextlib.ExitStack() as stack:
        stack.enter_context(untouched(plm))
        try:
            model = get_peft_model(plm, config)
        except (BadInput, MemoryError):
            raise
        except Exception as error:  # each method of peft has its own for what it lacks
            told = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if "target_modules" in told:
                told += (
                    f" (written --pet {settings.pet}:target_modules=[NAME,NAME], of {projections(plm)})"
                )
            raise BadInput(f"PET {settings.pet!r} on {type(plm).__name__}: {told}") from error
        stack.callback(unload, model)
        classifier = asking.on(model).to(plm.device)
        stack.callback(classifier.remove)
        what = _plugged(settings) if cost is None else cost
        if what is None:
            yield classifier, None
        else:
            # A regularizer was made with its strength.
            with regularize(classifier, what, None if cost is None else settings.weight) as plugged:
                yield classifier, plugged


def _plugged(settings: TuneSettings) -> Objective | None:
    """The regularizer that is trained by the plug: none that makes the whole loss itself, or no loss."""
    objective = settings.objective
    if objective is None or objective.acts_on_losses_alone or objective.weight_decay is not None:
        return None
    return objective
