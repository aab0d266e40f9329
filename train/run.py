"""Train one stage of BoLID: `python train/run.py --config train/configs/mini-adapter.yaml`.

The same with `torchrun --nproc_per_node N train/run.py ...` or `accelerate launch train/run.py ...` on
several processes. Exit codes: 0 done, 2 refused or failed with a sentence, 3 done but not uploaded, 143
stopped by SIGTERM with a checkpoint.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

# two OpenMP teams that spin on the same cores slow each other down by an order of magnitude
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

FLAGS = {  # diffusers' names -> keys of TrainConfig
    "output_dir": str,
    "max_train_steps": int,
    "train_batch_size": int,
    "gradient_accumulation_steps": int,
    "optimizer": str,
    "learning_rate": float,
    "lr_scheduler": str,
    "lr_warmup_steps": int,
    "adam_beta1": float,
    "adam_beta2": float,
    "adam_weight_decay": float,
    "adam_epsilon": float,
    "max_grad_norm": float,
    "ema_decay": float,
    "mixed_precision": str,
    "checkpointing_steps": int,
    "checkpoints_total_limit": int,
    "validation_steps": int,
    "logging_steps": int,
    "resume_from_checkpoint": str,
    "init_from": str,
    "max_train_minutes": float,
    "report_to": str,
    "hub_model_id": str,
    "seed": int,
}
SWITCHES = ("gradient_checkpointing", "push_to_hub")  # diffusers' flags without a value


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="a YAML file; the shipped ones are in train/configs/")
    for name, kind in FLAGS.items():
        parser.add_argument(f"--{name}", type=kind, default=None)
    for name in SWITCHES:
        parser.add_argument(f"--{name}", action="store_const", const="true", default=None)
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="any key of the config")
    return parser.parse_intermixed_args(arguments)  # overrides may stand before, between and after flags


def run(config: Any) -> int:
    """Build the stage, train, upload; the exit code."""
    from bolid.training.config import dump_config
    from bolid.training.loop import make_accelerator, train
    from bolid.training.publishing import push
    from bolid.training.stages import build_stage

    accelerator = make_accelerator(config)
    accelerator.print(dump_config(config), flush=True)
    with accelerator.main_process_first():  # what it computes and caches, the others read
        objective, rows, held_out = build_stage(config)
    exported = train(config, objective, rows, held_out, accelerator)
    code = 0
    if exported is None:
        code = 143
        if accelerator.is_main_process:
            print(
                "train/run.py: stopped by SIGTERM; --resume_from_checkpoint latest goes on.", file=sys.stderr
            )
    elif accelerator.is_main_process:
        print(f"exported to {exported}; {config.stage} done")
        code = push(exported, config) if config.push_to_hub else 0
    accelerator.end_training()
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    from bolid.training.config import load_config

    names = (*FLAGS, *SWITCHES)
    flags = [f"{name}={getattr(options, name)}" for name in names if getattr(options, name) is not None]
    try:
        return run(load_config(options.config, [*options.overrides, *flags]))
    except (ValueError, OSError) as error:
        print(f"train/run.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
