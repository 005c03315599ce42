"""What cannot be fitted, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import distributed as dist
from torch import nn

from bridges.errors import BadInput
from bridges.fitting.fittable import Fittable
from bridges.fitting.state import Folder
from bridges.latent.lens import Lens


def check_costs(costs: Sequence[Fittable], folders: Sequence[Folder] | None, model: nn.Module) -> None:
    """Whether these costs can be fitted together, on this model.

    Raises:
        BadInput: if not.
    """
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
    if len(ways := {cost.spec.reads for cost in costs}) > 1:
        raise BadInput(
            f"costs that read {' and '.join(map(repr, sorted(ways)))} cannot be fitted together, for "
            "each needs other targets: fit them one after another"
        )


def check_shared(costs: Sequence[Fittable], folders: Sequence[Folder] | None) -> None:
    """Whether processes can share the fit of these costs.

    Raises:
        BadInput: if not.
    """
    wrong = ""
    if not (dist.is_available() and dist.is_initialized()):
        wrong = "torch.distributed has no process group: call init_process_group first"
    elif not all(map(has_lens, costs)):
        wrong = "only the sums of a lens add up: make the cost with map='lens'"
    elif folders is not None:
        wrong = "a shared fit keeps no state: leave the folder out"
    if wrong:
        raise BadInput(f"distributed=True: {wrong}")


def has_lens(cost: Fittable) -> bool:
    """Whether it reads through a lens."""
    return isinstance(cost.latent_map, Lens)
