"""Columns of training rows on disk: computed once, shard by shard, read without loading all of them.

A folder per set of rows, networks and code: `features-KEY/00012-512.safetensors` holds SHARD rows. A shard is
written whole or not at all, so a run that is stopped goes on with the first one that is missing; of runs that
want the same features at a time one computes them and the others wait for it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor
from tqdm.auto import tqdm

from bolid.training.augmentation import Augment
from bolid.training.bases import FrozenBase
from bolid.training.data import as_tensor
from bolid.training.features import VARIANTS, compute_features

BATCH = 16
"""Rows that go through the networks at once."""

SHARD = 512
"""Rows of a file: some megabytes for bolid-mini, a gigabyte and a half with a large vision encoder."""

PACKAGE = Path(__file__).parents[1]
CODE = (
    "appearance*.py",
    "reference.py",
    "encoder.py",
    "body.py",
    "pose.py",
    "pictures.py",
    "clothes.py",
    "training/features.py",
    "training/augmentation.py",
    "training/decoding.py",
    "training/pairs.py",
    "training/redressed_rows.py",
    "training/table.py",
)
"""What features are made by, beside the networks: a change there must not find the old ones."""


class RawRows(Protocol):
    """Rows before the networks: avatars, or a dataset's."""

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> dict[str, Any]:
        """Columns of the rows at `indices`, as `features.raw_tensors` takes them."""
        ...


def code_fingerprint(package: Path = PACKAGE, patterns: Iterable[str] = CODE) -> str:
    """A hash of the sources that features are made by."""
    digest = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(package.glob(pattern)):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def features_folder(
    rows: RawRows, base: FrozenBase, cache_dir: str | Path, augmentation: Augment, estimate: bool
) -> Path:
    """Where the features of these rows by these networks and this code belong."""
    made_by = [base.fingerprint(), code_fingerprint(), VARIANTS, augmentation, estimate]
    key = hashlib.sha256(repr([rows.fingerprint, *made_by]).encode()).hexdigest()[:16]
    return Path(cache_dir) / f"features-{key}"


Compute = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Numbers of rows, at most BATCH, to their columns."""


class KeptRows:
    """Columns of rows, map-style; what is not on disk yet is computed on making.

    Args:
        folder: of these columns alone, as what they are made by.
        count: rows.
        compute: makes the columns of some rows.
        fingerprint: of the rows.
        memory: gigabytes up to which all columns are held in RAM.

    Raises:
        ValueError: as `compute`, or the disk has no room for the columns.
    """

    def __init__(
        self, folder: Path, count: int, compute: Compute, fingerprint: str, memory: float = 8.0
    ) -> None:
        self.fingerprint, self._count, self.folder = fingerprint, count, folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files = [
            self.folder / f"{start // SHARD:05d}-{min(SHARD, count - start)}.safetensors"
            for start in range(0, count, SHARD)
        ]
        with _alone(self.folder):
            _fill(self._files, count, compute)
        self._shards: list[Any] = [safe_open(file, "np") for file in self._files]
        self._names = sorted(self._shards[0].keys())
        self._held: dict[str, np.ndarray] | None = None
        if sum(file.stat().st_size for file in self._files) <= memory * 1e9:
            self._held = {
                name: np.concatenate([shard.get_tensor(name) for shard in self._shards])
                for name in self._names
            }

    def __len__(self) -> int:
        return self._count

    def batch(self, indices: np.ndarray, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The rows at `indices` [B] as tensors on `device`, half precision as float32."""
        if self._held is not None:
            return {name: as_tensor(values[indices]).to(device) for name, values in self._held.items()}
        rows = [(self._shards[index // SHARD], int(index % SHARD)) for index in indices]
        return {
            name: as_tensor(np.concatenate([shard.get_slice(name)[at : at + 1] for shard, at in rows])).to(
                device
            )
            for name in self._names
        }


class FeatureRows(KeptRows):
    """The features of `rows` (`compute_features`).

    Args:
        rows: before the networks.
        base: the networks, moved to `device`.
        memory: gigabytes up to which all features are held in RAM.

    Raises:
        ValueError: a row cannot be read, or the disk has no room for the features.
    """

    def __init__(
        self,
        rows: RawRows,
        base: FrozenBase,
        cache_dir: str | Path,
        device: torch.device,
        *,
        augmentation: Augment = "own",
        estimate: bool = False,
        memory: float = 8.0,
    ) -> None:
        def compute(numbers: np.ndarray) -> dict[str, np.ndarray]:
            read = rows.read(numbers)
            return compute_features(
                read,
                base.to(device),
                0,
                device,
                numbers=numbers,
                augmentation=augmentation,
                estimate=estimate,
            )

        folder = features_folder(rows, base, cache_dir, augmentation, estimate)
        super().__init__(folder, len(rows), compute, rows.fingerprint, memory)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other run is inside with the same folder, and says so; a run that dies lets go."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        tqdm.write(f"features: another run computes them in {folder}, waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fill(files: list[Path], count: int, compute: Compute) -> None:
    """Compute the shards that are missing."""
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    todo = sum(min(SHARD, count - number * SHARD) for number in missing)
    what = files[0].parent.name.partition("-")[0]
    with tqdm(desc=what, unit="row", total=todo, disable=not todo) as bar:
        for done, number in enumerate(missing):
            parts = []
            for low in range(number * SHARD, min((number + 1) * SHARD, count), BATCH):
                numbers = np.arange(low, min(low + BATCH, (number + 1) * SHARD, count))
                parts.append(compute(numbers))
                bar.update(len(numbers))
            _write(files[number], {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
            if done == 0:
                _require_room(files[number], len(missing) - 1)


def _write(file: Path, columns: dict[str, np.ndarray]) -> None:
    partial = file.with_suffix(f".{os.getpid()}.partial")
    try:
        # safetensors writes memory as it lies: channels-last arrays would come back scrambled
        save_file({name: np.ascontiguousarray(values) for name, values in columns.items()}, partial)
        with open(partial, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _require_room(first: Path, more: int) -> None:
    """Raises ValueError when the disk will not hold `more` shards like the first."""
    needed, free = more * first.stat().st_size, shutil.disk_usage(first.parent).free
    if needed > free:
        raise ValueError(
            f"the columns need {needed / 1e9:.1f} GB more and {first.parent.parent} has "
            f"{free / 1e9:.1f} GB free: choose another data.cache_dir or a smaller data.train_size; features "
            "can also be computed in the step with data.cache_features=false."
        )
