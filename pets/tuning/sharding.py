"""A frozen model's weights shared out among the processes of a run, by FSDP2."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from peft import PromptLearningConfig
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from bridges.errors import BadInput
from bridges.model.spec import pretrained_model
from pets.tuning.workers import Processes


def shard(model: nn.Module, processes: Processes) -> None:
    """Keep of every frozen weight only this process's part; a layer is whole while it is used.

    What is trained is left whole in each process: it is little, and so the optimiser, the checkpoints
    and the PET's files are as without sharding. The model cannot be put together again.

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
    whole = {parameter for parameter in model.parameters() if parameter.requires_grad}
    if isinstance(getattr(model, "active_peft_config", None), PromptLearningConfig):
        # peft looks the words up itself, outside of the model's forward.
        whole |= set(plm.get_input_embeddings().parameters())
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    # Parted again after each forward, as reading a state_dict does: only one process saves the PET.
    fully_shard(plm, mesh=mesh, ignored_params=whole, reshard_after_forward=True)
