"""A frozen model's weights shared out among the processes of a run, by FSDP2."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from bridges.errors import BadInput
from bridges.model.spec import pretrained_model
from pets.tuning.workers import Processes


def shard(model: nn.Module, processes: Processes) -> None:
    """Keep of every frozen weight only this process's part; a layer is whole while it is used.

    What is trained is left whole in each process: it is little, and stays as without sharding, to the
    bit, in the optimiser, the checkpoints and the PET's files. The model cannot be put together again.

    Args:
        model: a language model with a PET, and whatever is plugged into it.
        processes: of the run.

    Raises:
        BadInput: for one process, or a model whose layers are not known.
    """
    if processes.count == 1:
        raise BadInput(
            "there is one process, and nothing to share out: start it by torchrun --nproc-per-node N, "
            "or leave sharding out"
        )
    plm: Any = pretrained_model(model)
    kinds = set(plm._no_split_modules or ())
    stacks = [module for module in plm.modules() if isinstance(module, nn.ModuleList)]
    # Embeddings, which some models count among them, may be tied to the head: both stay with the root.
    layers = [layer for stack in stacks for layer in stack if type(layer).__name__ in kinds]
    if not layers:
        raise BadInput(
            f"{type(plm).__name__} does not say which of its modules are layers (_no_split_modules), so "
            "its weights cannot be shared out: leave sharding out"
        )
    device = next(plm.parameters()).device.type if processes.device == "cpu" else processes.device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    fully_shard(plm, mesh=mesh, ignored_params=trained)
