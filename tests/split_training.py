"""Helper of test_training_processes.py: the same training, by however many processes it is started with.

`torchrun --nproc_per_node 2 tests/split_training.py FOLDER OUTPUT ROWS_OF_A_STEP MICRO_BATCHES [split]`
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from tiny_objective import SMALL, awaken, make_base, make_rows
from torch.distributed.tensor import DTensor

from bolid.losses import LossWeights
from bolid.training.config import TrainConfig
from bolid.training.loop import make_accelerator, train
from bolid.training.objectives.diffusion import DiffusionObjective

STEPS = 10


def run(
    networks: str,
    output: str,
    step_rows: int,
    micro_batches: int,
    gradient_checkpointing: bool = False,
    base: Literal["learns", "whole", "split"] = "learns",
) -> None:
    """L_rec and L_id with every condition dropped often, no warm-up; the first weights stay on disk, and of a
    frozen base ("whole" or "split") how many of its UNet's numbers this process holds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = dataclasses.replace(
        SMALL,
        # alignment on a frozen base: it hears the queries inside of blocks
        weights=LossWeights(rec=1, id=1, semantic=0 if base == "learns" else 0.6),
        base=None if base == "learns" else "tiny",
        loss_networks=networks,
        text_drop=0.4,
        identity_drop=0.4,
        map_drop=0.4,
        pose_drop=0.4,
    )
    objective = DiffusionObjective(options, make_base())
    awaken(objective.adapter)
    objective.complete = lambda _folder: None  # the base is no folder that a pipeline could be made of
    config = TrainConfig(
        output_dir=output,
        max_train_steps=STEPS,
        learning_rate=2e-3 if base == "learns" else 4e-3,
        lr_scheduler="constant",
        lr_warmup_steps=0,
        # above rounding noise (1e-9): weights without a true gradient (a bias before a normalisation) would
        # otherwise take whole steps in a direction that rounding chose
        adam_epsilon=1e-2,
        ema_decay=0.9,
        mixed_precision="no",
        validation_steps=0,
        gradient_accumulation_steps=micro_batches,
        gradient_checkpointing=gradient_checkpointing,
        shard_base=base == "split",
    )
    accelerator = make_accelerator(config)
    share = step_rows // accelerator.num_processes // micro_batches
    config = dataclasses.replace(config, train_batch_size=share)
    if accelerator.is_main_process:
        Path(output).mkdir(parents=True)
        begun = {n: p.detach().clone() for n, p in objective.named_parameters() if p.requires_grad}
        torch.save(begun, Path(output) / "begun.pt")
    rows = make_rows(make_base(), 10)
    train(config, objective, rows, make_rows(make_base(), 1), accelerator)
    if base != "learns":
        frozen = [p for p in objective.unet.parameters() if not p.requires_grad]
        held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in frozen)
        (Path(output) / f"held-{accelerator.process_index}").write_text(str(held))
    accelerator.end_training()


if __name__ == "__main__":
    split: Any = {"base": "split"} if "split" in sys.argv[5:] else {}
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), **split)
