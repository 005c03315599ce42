"""Under a transformers Trainer: its steps, its logs, its checkpoints."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import torch.distributed as dist
from transformers.trainer_callback import ExportableState, TrainerCallback

from pets.plug.meter import Meter
from pets.plug.steps import Steps

_KEPT = "state"


class Told(Protocol):
    """Who is plugged into the Trainer's model."""

    meter: Meter
    steps: Steps

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class RegularizerCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Adds what a handle has measured to a Trainer's logs, and keeps its state with the checkpoints.

    It adds itself; `pets.regularize` is all that a script has to call. The logs of training steps get
    "task_loss" and, for each term, "running_cost/NAME", "weight/NAME" and "layers/NAME/K", means over
    the steps, accumulated batches and processes; those of an evaluation, where ``in_eval=True``, the
    costs behind the prefix of the metrics.
    """

    def __init__(self, told: Told, end: Callable[[], None]) -> None:
        self._told, self._end = weakref.ref(told), end

    def state(self) -> dict[str, Any]:
        """What goes into a checkpoint's trainer_state.json."""
        told = self._told()
        return {"args": {}, "attributes": {_KEPT: {} if told is None else told.state_dict()}}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        told = self._told()
        if told is not None:
            told.steps.count, told.steps.total = state.global_step, state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        told = self._told()
        if told is None or logs is None:
            return
        training = "loss" in logs
        before = next((key[: -len("loss")] for key in logs if key.endswith("_loss")), None)
        if not training and (before is None or "train_loss" in logs):
            return
        several = dist.is_available() and dist.is_initialized() and args.average_tokens_across_devices
        scale = dist.get_world_size() if several else 1
        found = told.meter.logs(training=training, scale=scale)
        if not training:
            found = {f"{before}{k}": v for k, v in found.items() if k.startswith("running_cost/")}
        logs.update(found)
        if state.log_history:  # a copy of the logs is there already
            state.log_history[-1].update(found)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._end()


class UnderTrainer:
    """Finds the Trainer that calls a model, once in each training, and puts the callback into it."""

    def __init__(self) -> None:
        self._callback: RegularizerCallback | None = None
        self._trainer: weakref.ref[Any] | None = None

    def __reduce__(self) -> tuple[type[UnderTrainer], tuple[()]]:
        """A copied model has no Trainer yet."""
        return UnderTrainer, ()

    def look(self, told: Told) -> None:
        """Called before a training forward."""
        if self._callback is not None:
            return
        trainer = _calling()
        if trainer is None:
            return
        callback = RegularizerCallback(told, self.leave)
        # First, so that those who write the logs down have them whole.
        trainer.callback_handler.callbacks.insert(0, callback)
        name, state = type(callback).__name__, trainer.state
        kept = state.stateful_callbacks.get(name)
        if kept and kept.get("attributes", {}).get(_KEPT):
            told.load_state_dict(kept["attributes"][_KEPT])
        state.stateful_callbacks[name] = callback.state()
        callback.on_step_begin(trainer.args, state, trainer.control)
        self._callback, self._trainer = callback, weakref.ref(trainer)

    def leave(self) -> None:
        """Take the callback out again."""
        trainer = None if self._trainer is None else self._trainer()
        if trainer is not None and self._callback in trainer.callback_handler.callbacks:
            # Another list: this may be called while the present one is gone through.
            handler = trainer.callback_handler
            handler.callbacks = [c for c in handler.callbacks if c is not self._callback]
            trainer.state.stateful_callbacks.pop(type(self._callback).__name__, None)
        self._callback, self._trainer = None, None


def _calling() -> Any:
    """The Trainer in whose training step this is called."""
    module = sys.modules.get("transformers.trainer")
    if module is None:
        return None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "training_step":
            trainer = frame.f_locals.get("self")
            if isinstance(trainer, module.Trainer):
                return trainer
        frame = frame.f_back
    return None
