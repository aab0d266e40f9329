"""Train one stage of BoLID: `python train/run.py --config train/configs/mini-adapter.yaml --output_dir
runs/x`."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence

# two OpenMP teams that spin on the same cores slow each other down by an order of magnitude
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

FLAGS = {  # diffusers' names -> keys of TrainConfig
    "output_dir": str,
    "max_train_steps": int,
    "train_batch_size": int,
    "learning_rate": float,
    "lr_scheduler": str,
    "lr_warmup_steps": int,
    "mixed_precision": str,
    "checkpointing_steps": int,
    "checkpoints_total_limit": int,
    "validation_steps": int,
    "resume_from_checkpoint": str,
    "init_from": str,
    "max_train_minutes": float,
    "seed": int,
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="a YAML file; the shipped ones are in train/configs/")
    for name, kind in FLAGS.items():
        parser.add_argument(f"--{name}", type=kind, default=None)
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="any key of the config")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    from bolid.training.config import dump_config, load_config
    from bolid.training.stages import build_stage

    flags = [f"{name}={getattr(options, name)}" for name in FLAGS if getattr(options, name) is not None]
    try:
        config = load_config(options.config, [*options.overrides, *flags])
        print(dump_config(config), flush=True)
        from bolid.training.loop import train

        objective, rows, held_out = build_stage(config)
        exported = train(config, objective, rows, held_out)
    except (ValueError, OSError) as error:
        print(f"train/run.py: {error}", file=sys.stderr)
        return 2
    print(f"exported to {exported}; {dataclasses.asdict(config)['stage']} done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
