"""Training rows from any `datasets` dataset: where they come from, and what a row must hold.

`data.source` is `avatars` (drawn here, the default) or a dataset: a Hub id, a folder or files of parquet, a
folder of pictures (imagefolder, with a `metadata.jsonl`), webdataset tars, or a folder of `save_to_disk`.
`data.column_map` gives our names theirs (`data.column_map.image=jpg`); `json.caption` is a field of a struct.

The schema, which `train/prepare.py` writes as parquet (`data/train-00000-of-00012.parquet`):

- image: `Image()`. The picture, RGB, any size, one person. Needed.
- keypoints: `List(List(Value("float32"), length=3), length=18)`. In the order of `bolid.pose.JOINTS`; x by
  the picture's width and y by its height, in [0, 1] (a joint outside of the frame may leave that); the
  third value lies in [0, 1]: 1 seen, 0 hidden (its place, if not (0, 0), is then a guess that is used; (0,
  0, 0) is unknown), a detector's confidence between. Needed.
- masks: `Image()`, a PNG of mode L. Part labels of the picture's size: 0 background, 1 head, 2 upper, 3
  lower, 4 feet. Needed.
- reference, reference_keypoints, reference_masks: the same of another picture of the person; all three or
  none. Without them the reference is another row of the same `identity`, and where there is none the row's
  own picture, changed (`bolid.training.augmentation`).
- identity: `Value("string")` (int or a struct do as well). The person; without it every row is somebody else.
- caption: `Value("string")`. What the picture shows, the person's looks included; empty where not given.
- caption_without_identity: `Value("string")`. The same without the looks; `caption` where not given.
- image_prompt: `Image()`. The scene with another person or nobody; else the picture without its person.
- face_embedding: `List(Value("float32"))`. Of the picture's face; null or empty where none was seen.
- file: `Value("string")`. Where the row comes from, for messages.

Null in a column that is not needed counts as not given, row by row.
"""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bolid.training.config import DataConfig

AVATARS = "avatars"
NEEDED = ("image", "keypoints", "masks")
REFERENCE = ("reference", "reference_keypoints", "reference_masks")
OPTIONAL = (
    *REFERENCE,
    "identity",
    "caption",
    "caption_without_identity",
    "image_prompt",
    "face_embedding",
    "file",
)
FILE_BUILDERS = {  # by the ending of a file
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".arrow": "arrow",
}
PREPARE = "make rows from photographs with: python train/prepare.py PICTURES --output FOLDER"


class Columns:
    """Which columns of a dataset hold ours.

    Args:
        column_map: our names -> theirs; `a.b` is field b of the struct a.
        first: a row of the dataset.

    Raises:
        ValueError: a needed column is missing, the map names an unknown column, or a reference is incomplete.
    """

    def __init__(self, column_map: Mapping[str, str], first: Mapping[str, Any], source: str) -> None:
        known = (*NEEDED, *OPTIONAL)
        for ours, theirs in column_map.items():
            if ours not in known:
                raise ValueError(
                    f"data.column_map names {ours!r}, which is no column of training rows"
                    f"{_close(ours, known)}. Ours are {', '.join(known)}."
                )
            if not _has(first, theirs):
                raise ValueError(
                    f"data.column_map.{ours}={theirs!r}: {source!r} has no such column"
                    f"{_close(theirs, first)}. It has {', '.join(first)}."
                )
        names = {name: column_map.get(name, name) for name in known}
        self.names = {name: theirs for name, theirs in names.items() if _has(first, theirs)}
        missing = [name for name in NEEDED if name not in self.names]
        if missing:
            raise ValueError(
                f"{source!r} has no column {missing[0]!r}; it has {', '.join(first)}. If it is there under "
                f"another name, say data.column_map.{missing[0]}=NAME; otherwise {PREPARE}."
            )
        given = [name for name in REFERENCE if name in self.names]
        if given and len(given) < len(REFERENCE):
            raise ValueError(
                f"{source!r} has {', '.join(given)} but not all of {', '.join(REFERENCE)}: give all three, "
                "or map none (then the reference is another row of the same identity)."
            )

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of the dataset by our names; columns that are not given are None."""
        return {
            name: _cell(row, self.names[name]) if name in self.names else None
            for name in (*NEEDED, *OPTIONAL)
        }


def _has(row: Mapping[str, Any], name: str) -> bool:
    head, _, field = name.partition(".")
    return name in row or (isinstance(row.get(head), Mapping) and field in row[head])


def _cell(row: Mapping[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    head, _, field = name.partition(".")
    inner = row.get(head)
    return inner.get(field) if isinstance(inner, Mapping) else None


def _close(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def open_dataset(data: DataConfig, split: str) -> Any:
    """The dataset of `data.source`, map-style or streaming, its pictures left undecoded.

    Raises:
        ValueError: there is no such dataset or split, it has no rows, or it cannot be read or reached.
        ImportError: `datasets` is not installed.
    """
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise ImportError(
            "data.source of a dataset needs the package `datasets`: pip install datasets"
        ) from error
    try:
        opened = _load(datasets, data, split)
    except (OSError, ValueError, DatasetsError) as error:
        text = str(error).strip().splitlines()
        if text and "corresponds to no data" in text[0]:  # what `datasets` says of parquet without rows
            raise ValueError(
                f"data.source={data.source!r}, split {split!r} has no rows; {PREPARE}."
            ) from None
        raise ValueError(
            f"data.source={data.source!r}, split {split!r}: {text[0] if text else type(error).__name__} "
            "Give a Hub id that can be reached, parquet files or their folder, a folder of pictures, "
            "webdataset tars, or a folder of save_to_disk."
        ) from error
    if isinstance(opened, datasets.IterableDataset):
        return opened.decode(False)
    if not len(opened):
        raise ValueError(f"data.source={data.source!r}, split {split!r} has no rows; {PREPARE}.")
    for name, feature in (opened.features or {}).items():
        if isinstance(feature, datasets.Image):
            opened = opened.cast_column(name, datasets.Image(decode=False))
    return opened


def _load(datasets: Any, data: DataConfig, split: str) -> Any:
    source, place = data.source, Path(data.source)
    streaming = {"streaming": data.streaming, "split": split}
    if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
        saved = datasets.load_from_disk(source)
        if isinstance(saved, dict):
            if split not in saved:
                raise ValueError(f"there is no such split; there are {', '.join(saved)}.")
            saved = saved[split]
        return saved.to_iterable_dataset(num_shards=min(16, len(saved))) if data.streaming else saved
    if place.is_dir():
        if not any(item for item in place.rglob("*") if item.is_file()):
            raise ValueError("the folder is empty.")
        return datasets.load_dataset(source, **streaming)
    builder = FILE_BUILDERS.get(place.suffix.lower())
    if builder is not None:
        files = sorted(glob.glob(source))
        if not files:
            raise ValueError("no such file.")
        return datasets.load_dataset(builder, data_files={split.partition("[")[0]: files}, **streaming)
    if place.is_absolute() or source.startswith(".") or source.count("/") > 1:
        raise ValueError("there is no such folder.")
    return datasets.load_dataset(source, **streaming)


def fingerprint_of(dataset: Any, data: DataConfig, split: str) -> str:
    """A hash of a dataset's content and of how its rows are read.

    A stream has no fingerprint of its own: its name, split and features stand for it.
    """
    own = getattr(dataset, "_fingerprint", None) or repr(dataset.features)
    options = [data.source, split, own, data.column_map, data.height, data.width]
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]
