"""The loop that tunes a PET: settings, steps, selection, state."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from bridges import RunningCost
from bridges.errors import BadInput
from bridges.model.spec import pretrained_model
from bridges.progress import progress_bar
from bridges.seeds import generator
from bridges.storage.checkpoint import Checkpoint
from bridges.storage.shapes import COUNT, FINITE, Shape
from pets.plug.adapting import adapt
from pets.plug.regularize import Regularizer
from pets.plug.schedule import CONSTANT, share
from pets.regularizers import Objective
from pets.tasks.answering import Answering, PromptOutput, Rows
from pets.tasks.base import TaskData
from pets.tuning.evaluation import evaluate
from pets.tuning.ratio import weight_of
from pets.tuning.run_folder import LOOK, RunFolder
from pets.tuning.settings import TuneSettings
from pets.tuning.workers import Processes

logger = logging.getLogger(__name__)

_ADAPTED = 32  # examples of a forward pass when a lens is adapted
_FACTS: Shape = {"step": COUNT, "curves": [LOOK], "seconds": FINITE}


class TuningLoop:
    """One run: its data, its optimiser and how far it has come.

    In several processes each does its part of every step's batch, and of the batches of an evaluation;
    all know the same of the whole.

    Args:
        classifier: with the PET, and the running cost where there is one.
        encoded: prompts of each split, and how many were cut.
        data: whose task is scored.
        settings: of the run.
        processes: that share the run.
        plugged: the handle of the running cost or regularizer, whose weight a schedule lets fall.
        cost: the running cost, that `adapt` begins from each time.

    Attributes:
        weight: of the running cost or regularizer at first; a ratio's is measured as a run begins.
    """

    def __init__(
        self,
        classifier: Answering,
        encoded: dict[str, tuple[Rows, int]],
        data: TaskData,
        settings: TuneSettings,
        processes: Processes | None = None,
        *,
        plugged: Regularizer | None = None,
        cost: RunningCost | None = None,
    ) -> None:
        self.classifier, self.data, self.settings = classifier, data, settings
        self.processes = processes or Processes()
        self.processes.check_batch(settings.batch_size)
        self.plugged, self.cost = plugged, cost
        # What makes the whole loss itself, or decays weights, is not plugged in.
        objective = settings.objective if plugged is None else None
        self.weighed: Objective | Regularizer | None = plugged or objective
        self.weight = settings.weight
        self.loss = None if objective is None else objective.on(classifier)
        self.rows = {name: rows for name, (rows, _) in encoded.items()}
        self.truncated = {name: cut for name, (_, cut) in encoded.items()}
        named = [(n, p) for n, p in classifier.named_parameters() if p.requires_grad]
        if not named:
            raise BadInput(f"PET {settings.pet!r} has no trainable parameter on this model")
        self.named = dict(named)
        if coarse := sorted({str(p.dtype).removeprefix("torch.") for _, p in named if p.itemsize < 4}):
            which = next(name for name, p in named if p.itemsize < 4)
            logger.warning(
                "PET %s: some of what is trained is kept in %s, %s say, where small steps are lost in "
                "rounding: compare with --dtype float32",
                settings.pet,
                " and ".join(coarse),
                which,
            )
        self.processes.adopt(self.named.values())
        # By the shape: biases and layer norms are the vectors.
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.named.values() if p.dim() > 1]},
            {"params": [p for p in self.named.values() if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=settings.rate, weight_decay=settings.decay, foreach=False
        )
        self.clip = settings.conventions.clip.get(pretrained_model(classifier).config.model_type)
        self.curves: list[dict[str, Any]] = []
        self.checkpoint = Checkpoint(self.named, self.optimizer)
        self.seconds = 0.0

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.named.values())

    def run(self, run: RunFolder, *, progress: bool) -> None:
        """All steps, with the best checkpoint loaded at the end."""
        settings = self.settings
        # To the states as they are before tuning, whatever step it goes on from.
        cost = self.cost if settings.adapt == "never" else self._adapt()
        if settings.ratio is not None:
            self._weigh(settings.ratio, cost)
        step = self._resume(run)
        with progress_bar(
            desc="tune",
            unit="step",
            total=settings.max_steps,
            initial=step,
            shown=progress and self.processes.is_main,
        ) as bar:
            if step == 0:
                self._look(0, [], bar)
            while step < settings.max_steps:
                pairs = []
                started = time.perf_counter()
                if settings.adapt == "looks" and step:
                    self._adapt()
                for _ in range(min(settings.eval_every, settings.max_steps - step)):
                    pairs.append(self.step(step))
                    step += 1
                    bar.update()
                self.seconds += time.perf_counter() - started
                self._look(step, pairs, bar)
                self._save(run, step)
        self.checkpoint.restore_best()

    def evaluate(self, split: str) -> tuple[dict[str, float], float]:
        """Metrics and mean task loss of the present PET; the running cost plays no part."""
        rows, task = self.rows[split], self.data.task
        return evaluate(self.classifier, rows, task, self.processes)

    def best_entry(self) -> dict[str, Any]:
        """The selected entry of the curves: best metric, then lowest loss, then earliest.

        Step 0, the frozen model, is in the curves but not among the choices: a tuned PET is asked for.
        """
        metric = self.data.task.metric
        return max(self.curves[1:], key=lambda e: (e["dev"][metric], -e["dev_loss"], -e["step"]))

    def _batch_of(self, rows: Rows) -> dict[str, Tensor]:
        return self.classifier.on_device(self.classifier.collate(rows))

    def _forward(self, rows: Rows) -> Any:
        batch = self._batch_of(rows)
        if self.loss is None:
            return self.classifier(**batch)
        return PromptOutput(loss=self.loss(**batch))

    def step(self, step: int) -> tuple[float, float | None]:
        """One optimiser step, the ``step``-th: its loss, and its running cost where there is one."""
        # Noise, of a regularizer or of a cost that draws any, is a function of seed and step alone;
        # each process draws its own for its part of the batch.
        rank = [self.processes.rank] if self.processes.rank else []
        torch.manual_seed(generator(self.settings.run_seed, -2, step, *rank).initial_seed())
        if self.weighed is not None and self.settings.schedule != CONSTANT:
            left = share(self.settings.schedule, step, self.settings.max_steps)
            self.weighed.weight = self.weight * left
        output = self._forward(self.processes.part(self._batch(step)))
        loss = self.processes.mean(output.loss.detach())
        if not loss.isfinite():
            raise BadInput(
                f"the loss became {loss.item()} at step {step}: lower learning_rate "
                f"({self.settings.rate}) or weight ({self.weight})"
            )
        self.optimizer.zero_grad()
        output.loss.backward()
        if step == 0:
            idle = [name for name, p in self.named.items() if p.grad is None]
            if idle:
                raise BadInput(
                    f"{len(idle)} trainable parameters got no gradient, among them {idle[0]}: the "
                    f"model ignores PET {self.settings.pet!r} there"
                )
        self.processes.average_gradients(self.parameters)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        cost = None if self.cost is None else output.running_cost
        return loss.item(), None if cost is None else self.processes.mean(cost.detach()).item()

    def _weigh(self, ratio: float, cost: RunningCost | None) -> None:
        """The weight of a ratio: a function of seed and data alone, so a resumed run has the same.

        Of the cost that is trained with: once its lens is adapted, its gradient is another, up to eleven
        times as long and a fifth of it.
        """
        assert self.plugged is not None
        assert cost is not None
        torch.manual_seed(generator(self.settings.run_seed, -4).initial_seed())
        with self.plugged.replacing():
            own = weight_of(ratio, self.classifier, cost, self.rows["train"], self.parameters)
        # Sums differ in their last digits from one GPU to another.
        self.weight = self.processes.mean(torch.tensor(own, dtype=torch.float64)).item()
        self.plugged.weight = self.weight

    def _adapt(self) -> RunningCost:
        """The cost's lens, from what it was on text, to the training examples as they are seen now."""
        assert self.plugged is not None
        assert self.cost is not None
        rows = self.rows["train"]
        batches = (rows[k : k + _ADAPTED] for k in range(0, len(rows), _ADAPTED))
        with self.plugged.replacing() as replace:
            adapted = adapt(self.cost, self.classifier, map(self._batch_of, batches))
            replace(adapted)
        return adapted

    def _batch(self, step: int) -> Rows:
        """The examples of one step: epochs of random order, a function of seed and step alone."""
        rows, size = self.rows["train"], self.settings.batch_size
        chosen: list[Any] = []
        for position in range(step * size, (step + 1) * size):
            epoch, k = divmod(position, len(rows))
            if not chosen or k == 0:
                order = torch.randperm(len(rows), generator=generator(self.settings.run_seed, epoch))
            chosen.append(rows[int(order[k])])
        return chosen

    def _look(self, step: int, pairs: list[tuple[float, float | None]], bar: Any) -> None:
        dev, dev_loss = self.evaluate("dev")
        if not math.isfinite(dev_loss):
            advice = (
                f"lower learning_rate ({self.settings.rate})"
                if step
                else "that is before any tuning, so check the model's weights"
            )
            raise BadInput(f"the loss on the selection split is {dev_loss} at step {step}: {advice}")
        costs = [cost for _, cost in pairs if cost is not None]
        self.curves.append(
            {
                "step": step,
                "loss": sum(loss for loss, _ in pairs) / len(pairs) if pairs else None,
                "running_cost": sum(costs) / len(costs) if costs else None,
                "dev": dev,
                "dev_loss": dev_loss,
            }
        )
        if step and self.best_entry()["step"] == step:
            self.checkpoint.keep_best()
        bar.set_postfix_str(f"dev {self.data.task.metric} {dev[self.data.task.metric]:.3f}")

    def _save(self, run: RunFolder, step: int) -> None:
        if self.processes.is_main:
            facts = {"step": step, "curves": self.curves, "seconds": self.seconds}
            self.checkpoint.save(run.snapshot, facts)

    def _resume(self, run: RunFolder) -> int:
        facts = self.checkpoint.resume(run.snapshot, _FACTS)
        if facts is None:
            return 0
        self.curves, self.seconds = facts["curves"], facts["seconds"]
        logger.info("%s: going on from step %d", run.path, facts["step"])
        return int(facts["step"])
