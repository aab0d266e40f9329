"""The frozen UNet's weights split over the processes (FSDP2): each keeps its share, a block is whole while it
runs.

Only what never learns and is never saved is split. The adapter stays whole in every process, as DDP has it,
and with it checkpoints, averages, optimisers and exports: they are the same with and without.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bolid.attention import cross_attentions


def split_frozen_unet(objective: Any) -> None:
    """Split the weights of `objective.unet` over all processes, block by block, in place.

    Call it once the objective is on its device, before DDP wraps it. Every process must then call the UNet
    equally often.

    Raises:
        ValueError: one process, a UNet that learns, or an objective whose processes call the UNet unequally.
    """
    _require_splittable(objective)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor
    from torch.nn.parallel import DistributedDataParallel

    unet: Any = objective.unet.to(memory_format=torch.contiguous_format)  # all that FSDP takes
    mesh = init_device_mesh(next(unet.parameters()).device.type, (torch.distributed.get_world_size(),))
    # the adapter's layers hang in the UNet; `lightning.text_keys` reads the text's keys outside of any block
    whole = {p for p in unet.parameters() if p.requires_grad}
    keys = [attn.to_k for attn in cross_attentions(unet).values()]
    whole |= {p for projection in keys for p in projection.parameters()}  # pyright: ignore[reportOptionalMemberAccess]
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks, unet):
        if block is not None:
            fully_shard(block, mesh=mesh, ignored_params=whole)
    split = [name for name, p in objective.named_parameters() if isinstance(p, DTensor)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, split)


def is_split(objective: nn.Module) -> bool:
    """Whether a UNet of it is split: then no process may call it alone."""
    if not torch.distributed.is_initialized():
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in objective.children())


def _require_splittable(objective: Any) -> None:
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() < 2:
        raise ValueError(
            "shard_base=true splits the base over processes and there is one: start with torchrun "
            "--nproc_per_node N or accelerate launch, or leave it out."
        )
    options: Any = getattr(objective, "options", None)
    if "adapter" not in getattr(objective, "models", {}) or getattr(options, "base", None) is None:
        raise ValueError(
            "shard_base=true splits a frozen base: it needs the stage diffusion with objective.base."
        )
    if set(objective.models) != {"adapter"} or objective.few_step_unet is not None or options.few_step.share:
        raise ValueError(
            "shard_base=true goes with the adapter's training alone, without objective.lightning.lora and "
            "objective.few_step.share: with these the processes call the UNet in different ways."
        )
