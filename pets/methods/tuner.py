"""What our peft methods share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from peft.tuners.tuners_utils import BaseTuner

from bridges.errors import BadInput


class Tuner(BaseTuner):  # type: ignore[misc]
    """peft's base class, which would otherwise drop an argument without a word."""

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise BadInput(
                f"{type(self).__name__} takes no adapter_names in forward (one for each example): run a "
                "batch for each adapter, with set_adapter before it"
            )
        yield
