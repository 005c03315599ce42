"""What a loop of optimiser steps goes on from after an interruption, and the best that it had."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bridges.errors import BadInput
from bridges.storage.files import check_same, new_file
from bridges.storage.shapes import OBJECT, Shape, misfit


class Snapshot:
    """The state of an unfinished run: named tensors and JSON-able facts in one safetensors file.

    Args:
        path: the file.
        identity: what the run is made of. A snapshot of another identity is refused, so that a run
            is never continued with other settings.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write atomically; the previous snapshot stays until the new one is whole."""
        whole = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        metadata = {"identity": json.dumps(self.identity), "facts": json.dumps(facts)}
        with new_file(self.path) as temporary:
            save_file(whole, temporary, metadata=metadata)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts, or None if there is no snapshot.

        Raises:
            BadInput: if the file is broken or belongs to a run with other settings.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            identity, facts = json.loads(metadata["identity"]), json.loads(metadata["facts"])
            if wrong := misfit([identity, facts], [OBJECT]):
                raise ValueError(wrong)
        except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
            raise BadInput(f"{self.path} is no snapshot of a run ({error}): delete it") from error
        check_same(f"{self.path} is from another run", identity, self.identity)
        return tensors, facts

    @contextmanager
    def refusing_misfit(self, facts: Mapping[str, Any], shape: Shape) -> Iterator[None]:
        """For taking a state over: what a run does not take is refused, not a traceback.

        Args:
            facts: from `load`.
            shape: what they have to be made of.

        Raises:
            BadInput: if they are not, or the block does not find, or cannot use, what it reads.
        """
        wrong = misfit(facts, shape)
        try:
            if not wrong:
                yield
                return
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            wrong = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise BadInput(f"{self.path} is no state of this run ({wrong}): delete it to begin anew")

    def remove(self) -> None:
        """Delete the file, and its folder if nothing else is in it."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()


class Checkpoint:
    """What a loop trains, now and at its best, with the optimiser's state: kept in a `Snapshot`.

    Args:
        trained: named tensors that the optimiser changes in place.
        optimizer: of the loop.

    Attributes:
        best: copies of them, as they were when `keep_best` was last called; at first as they are now.
    """

    def __init__(self, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        self.trained, self.optimizer = trained, optimizer
        self.keep_best()

    def keep_best(self) -> None:
        """What there is now is the best."""
        self.best = {name: value.detach().clone() for name, value in self.trained.items()}

    def restore_best(self) -> None:
        """Put the best into what is trained."""
        self._put(self.best)

    def save(self, snapshot: Snapshot, facts: Mapping[str, Any]) -> None:
        """Keep all of it, and the facts that the loop knows besides."""
        tensors = {f"now.{name}": value for name, value in self.trained.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in entry.items()}
        snapshot.save(tensors, facts)

    def resume(self, snapshot: Snapshot, shape: Shape) -> dict[str, Any] | None:
        """Take over what a snapshot holds.

        Returns:
            The facts, of that shape; None if there is no snapshot.

        Raises:
            BadInput: if it is broken, or another loop's.
        """
        if (loaded := snapshot.load()) is None:
            return None
        tensors, facts = loaded
        with snapshot.refusing_misfit(facts, shape):
            now, best = (self._like_trained(_under(kind, tensors)) for kind in ("now.", "best."))
            self._load_optimizer(_under("optimizer.", tensors))
            self._put(now)
            self.best = best
        return facts

    def _put(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(values[name])

    def _like_trained(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shapes = [{k: tuple(v.shape) for k, v in these.items()} for these in (tensors, self.trained)]
        if shapes[0] != shapes[1]:
            raise ValueError("its tensors are not those that are trained")
        return {name: tensors[name].to(value.device) for name, value in self.trained.items()}

    def _load_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
