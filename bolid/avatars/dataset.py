"""The avatar world as a `datasets` dataset, and as plain arrays for training."""

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from .identity import ATTRIBUTES, AvatarIdentity
from .scene import SCENES
from .skeleton import POSE_FAMILIES, VIEWS
from .world import Split, sample_row

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

COLUMNS = (
    "image",
    "reference",
    "caption",
    "caption_without_identity",
    "image_prompt",
    "keypoints",
    "reference_keypoints",
    "masks",
    "reference_masks",
    "identity",
)
_CAPTIONS = ("caption", "caption_without_identity")
_PIXELS = (
    "image",
    "reference",
    "image_prompt",
    "masks",
    "reference_masks",
    "keypoints",
    "reference_keypoints",
)
_VOCABULARIES = {"pose_family": POSE_FAMILIES, "view": VIEWS, "scene": SCENES}
_CHUNK = 32  # rows a worker hands back at once: about 8 MB at 128x192


def render_arrays(
    split: Split,
    start: int,
    count: int,
    processes: int = 2,
    height: int = 192,
    width: int = 128,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Rows `start` ... `start + count - 1` of a split, stacked in RAM; the fast way to training data.

    image, reference, image_prompt: uint8 [N, H, W, 3]. masks, reference_masks: uint8 [N, H, W]. keypoints,
    reference_keypoints: float32 [N, 18, 3]. caption, caption_without_identity: lists of str. labels: int64
    [N, n_attributes], indices into `ATTRIBUTES`. visible, reference_visible: bool [N, n_attributes]. scene,
    pose_family, view and the same with `reference_`: int64 [N], indices into SCENES, POSE_FAMILIES, VIEWS.
    held_out: bool [N]. seed: int64 [N].

    With `cache_dir` the arrays are kept in a folder there, named after the arguments and the avatar sources,
    and read back next time. Folders of older sources are left alone: delete them when space is short.

    Raises: ValueError for a count or a number of processes below 1.
    """
    if count < 1 or processes < 1:
        raise ValueError(f"count {count} and processes {processes} must both be at least 1")
    if cache_dir is None:
        return _render(split, start, count, processes, height, width)
    folder = Path(cache_dir) / f"{split}-{start}-{count}-{height}x{width}-{source_fingerprint()}"
    if not folder.exists():
        _save(_render(split, start, count, processes, height, width), folder)
    return _load(folder)


def source_fingerprint() -> str:
    """A short hash of the avatar package's sources: what is drawn can only change with them."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def avatar_features() -> "Features":
    """Columns of `avatar_dataset` and their types. Masks are pictures of part labels 0..4."""
    from datasets import Features, Image, List, Value

    keypoints = List(List(Value("float32"), length=3), length=18)
    types = {str: Value("string"), float: Value("float32")}
    colour = List(Value("uint8"), length=3)
    fields = AvatarIdentity.__dataclass_fields__.items()
    identity = {name: types.get(field.type, colour) for name, field in fields}
    pictures = dict.fromkeys(("image", "reference", "image_prompt", "masks", "reference_masks"), Image())
    columns = pictures | dict.fromkeys(_CAPTIONS, Value("string"))
    columns |= {"keypoints": keypoints, "reference_keypoints": keypoints, "identity": identity}
    return Features({name: columns[name] for name in COLUMNS})


def avatar_dataset(
    split: Split,
    size: int,
    *,
    start: int = 0,
    streaming: bool = False,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    height: int = 192,
    width: int = 128,
) -> "Dataset | IterableDataset":
    """Rows `start` ... `start + size - 1` of a split with the columns of `avatar_features`.

    Streaming rows are drawn as they are read, in 16 shards at most. Otherwise they are written to the cache
    of `datasets` (or `cache_dir`) once, by `num_proc` processes.

    Raises: ValueError for a size below 1; ImportError when `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("avatar_dataset needs the package `datasets`: pip install datasets") from error
    if size < 1:
        raise ValueError(f"size {size} must be at least 1")
    seeds = range(start, start + size)
    shards = max(1, min(size, 16))
    bounds = [size * index // shards for index in range(shards + 1)]
    arguments = {
        # A list is what `datasets` spreads over processes and streaming workers.
        "shards": [list(seeds[low:high]) for low, high in pairwise(bounds)],
        "split": split,
        "height": height,
        "width": width,
        "fingerprint": source_fingerprint(),  # part of the cache's key
    }
    if streaming:
        return datasets.IterableDataset.from_generator(_examples, avatar_features(), gen_kwargs=arguments)
    return datasets.Dataset.from_generator(
        _examples,
        avatar_features(),
        cache_dir=None if cache_dir is None else str(cache_dir),  # pyright: ignore[reportArgumentType] - may be None
        gen_kwargs=arguments,
        num_proc=None if num_proc is None else min(num_proc, shards),
    )


def _examples(
    shards: Sequence[Sequence[int]],
    split: Split,
    height: int,
    width: int,
    fingerprint: str,  # noqa: ARG001 - `datasets` hashes it into the cache's key
) -> Iterator[dict[str, Any]]:
    for seeds in shards:
        for seed in seeds:
            row = sample_row(seed, split, height, width)
            yield {name: row[name] for name in COLUMNS}


def _render(split: Split, start: int, count: int, processes: int, height: int, width: int) -> dict[str, Any]:
    """The rows, drawn by a pool of processes (in this one for `processes` 1)."""
    lows = range(start, start + count, _CHUNK)
    tasks: list[tuple[Split, int, int, int, int]] = [
        (split, low, min(low + _CHUNK, start + count), height, width) for low in lows
    ]
    if processes == 1:
        return _joined(map(_render_chunk, tasks), count)
    # Fork: the workers use numpy and OpenCV only and start at once; spawning would import torch in each.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        return _joined(pool.map(_render_chunk, tasks), count)


def _render_chunk(task: tuple[Split, int, int, int, int]) -> dict[str, Any]:
    """Rows low ... high - 1, stacked."""
    split, low, high, height, width = task
    rows = [_numbered(sample_row(seed, split, height, width)) for seed in range(low, high)]
    return {
        name: [row[name] for row in rows] if name in _CAPTIONS else np.stack([row[name] for row in rows])
        for name in rows[0]
    }


def _numbered(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its words (captions apart) as indices into their vocabularies."""
    identity = row["identity"]
    numbers = {name: row[name] for name in (*_PIXELS, *_CAPTIONS)}
    numbers["labels"] = np.array(
        [values.index(identity[name]) for name, values in ATTRIBUTES.items()], np.int64
    )
    for prefix in ("", "reference_"):
        visible = row[f"{prefix}visible"]
        numbers[f"{prefix}visible"] = np.array([visible[name] for name in ATTRIBUTES], bool)
        for name, values in _VOCABULARIES.items():
            numbers[prefix + name] = np.int64(values.index(row[prefix + name]))
    return numbers | {"held_out": np.bool_(row["held_out"]), "seed": np.int64(row["seed"])}


def _joined(chunks: Iterator[dict[str, Any]], count: int) -> dict[str, Any]:
    """Chunks one after another, each array allocated once: the peak is one chunk above the result."""
    arrays: dict[str, Any] = {}
    done = 0
    for chunk in chunks:
        rows = len(chunk["seed"])
        for name, part in chunk.items():
            if name in _CAPTIONS:
                arrays.setdefault(name, []).extend(part)
            else:
                whole = arrays.setdefault(name, np.empty((count, *part.shape[1:]), part.dtype))
                whole[done : done + rows] = part
        done += rows
    assert done == count
    return arrays


def _save(arrays: dict[str, Any], folder: Path) -> None:
    """Writes a cache folder; it bears its name only once it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        for name, values in arrays.items():
            if name not in _CAPTIONS:
                np.save(temporary / f"{name}.npy", values)
        (temporary / "captions.json").write_text(json.dumps({name: arrays[name] for name in _CAPTIONS}))
        if not folder.exists():  # another process may have finished first, with the same rows
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _load(folder: Path) -> dict[str, Any]:
    """The arrays of a cache folder, in RAM: random reads from a memory map are slow."""
    arrays: dict[str, Any] = {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}
    return arrays | json.loads((folder / "captions.json").read_text())
