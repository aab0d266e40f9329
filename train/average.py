"""The mean of several trainings' weights, one pipeline made of many.

    python train/average.py models/bolid-mini runs/a/export runs/b/export --weights 4 1 1 --output runs/mean

Trainings that began with the same weights and went on with other losses, data or seeds lie in one basin: the
mean of their weights can be better than each of them, and costs nothing when a picture is drawn (model soups,
Wortsman et al. 2022). Look at its pictures: of a sharp and a blurred training the mean is blurred.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bolid.loading import LATER
from bolid.training.state import differing

TRAINED = ("unet", "adapter")  # sub-folders whose weights are averaged; all others have to be the same, but
# those which are trained for a finished pipeline: the first folder's stay


def mean(folders: Sequence[Path], shares: Sequence[float], name: Path) -> dict[str, Tensor]:
    """The mean of one weight file of all folders, summed in float64, in the first one's float types.

    shares: of each folder, with sum 1.

    Raises ValueError where weights have other names or shapes than the first folder's.
    """
    first = load_file(folders[0] / name)
    sums = {key: shares[0] * value.double() for key, value in first.items()}
    for folder, share in zip(folders[1:], shares[1:], strict=True):
        other = load_file(folder / name)
        if wrong := differing(first, other):
            raise ValueError(
                f"{folder / name} is of another architecture than {folders[0] / name}: {len(wrong)} weights "
                f"differ, for example {wrong[0]!r}. Give trainings that began with the same weights."
            )
        for key, value in other.items():
            sums[key] += share * value.double()
    return {key: value.to(first[key].dtype) for key, value in sums.items()}


def average(folders: Sequence[Path], output: Path, weights: Sequence[float] | None = None) -> None:
    """Write the mean of pipelines to `output`, a new folder; all but `TRAINED` is the first one's.

    Args:
        weights: how much each folder counts, above 0; None: all alike.

    Raises:
        ValueError: fewer than two folders, one without a pipeline, one whose frozen networks are others or
            whose trained ones are of another architecture, weights that do not fit, or an output that exists.
    """
    if len(folders) < 2:
        raise ValueError("there is nothing to average: give two or more pipeline folders.")
    weights = [1.0] * len(folders) if weights is None else weights
    if len(weights) != len(folders) or not all(0 < each < math.inf for each in weights):
        raise ValueError(f"--weights {' '.join(map(str, weights))}: give one above 0 for each folder.")
    shares = [weight / sum(weights) for weight in weights]
    if output.exists():
        raise ValueError(f"{output} exists: choose another --output, or remove it.")
    for folder in folders:
        if not (folder / "model_index.json").is_file():
            raise ValueError(f"{folder} holds no pipeline: give exports of train/run.py (runs/NAME/export).")
    names = [file.relative_to(folders[0]) for file in sorted(folders[0].rglob("*.safetensors"))]
    names = [name for name in names if name.parts[0] not in LATER]
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folders[0], partial)
    try:
        for name in names:
            for folder in folders[1:]:
                if not (folder / name).is_file():
                    raise ValueError(f"{folder} has no {name}, {folders[0]} has: give pipelines of one kind.")
                if name.parts[0] not in TRAINED and not _equal(folders[0] / name, folder / name):
                    raise ValueError(
                        f"{folder / name} is not {folders[0] / name}: the weights of these trainings read "
                        "other encoders, and their mean reads none. Give trainings on the same components."
                    )
            if name.parts[0] in TRAINED:
                save_file(mean(folders, shares, name), partial / name, metadata={"format": "pt"})
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _equal(a: Path, b: Path) -> bool:
    """Whether two files hold the same weights."""
    ours, theirs = load_file(a), load_file(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 for a mistake in the call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="pipelines; the first gives all but the mean")
    parser.add_argument("--weights", nargs="+", type=float, help="how much each counts (default: all alike)")
    parser.add_argument("--output", required=True, type=Path, help="folder of the mean, a pipeline")
    options = parser.parse_args(arguments)
    try:
        average(options.folders, options.output, options.weights)
    except (ValueError, OSError) as error:
        print(f"train/average.py: {error}", file=sys.stderr)
        return 2
    print(f"the mean of {len(options.folders)} trainings is in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
