"""Rows on disk: parquet shards, the list of rejected pictures, and the data set's card.

The columns are those of `bolid.training.sources`, where each is described, and three more: same_picture (the
person has no other picture: the reference's columns are null, and training makes one from the picture
itself), reference_face_embedding and reference_file. image_prompt is the scene with the person blurred away.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage

from bolid.preparation.examine import encoded, scene_without
from bolid.preparation.gather import Rejected
from bolid.preparation.pairs import Pair
from bolid.preparation.settings import Settings
from bolid.preparation.work import write_table, write_text

DATA = "data"
GROUP = 32  # rows of a parquet row group: what a streaming reader holds at once
_TEXTS = ("caption", "identity", "file", "reference_file")
_PICTURES = ("image", "reference", "image_prompt", "masks", "reference_masks")


def features() -> Any:
    """The columns' types."""
    from datasets import Features, Image, List, Value

    points = List(List(Value("float32"), length=3), length=18)
    columns: dict[str, Any] = {name: Image() for name in _PICTURES}
    columns |= {name: Value("string") for name in _TEXTS}
    columns |= {"keypoints": points, "reference_keypoints": points, "same_picture": Value("bool")}
    face = List(Value("float32"))
    return Features({**columns, "face_embedding": face, "reference_face_embedding": face})


def shard_names(rows: int, per_shard: int) -> list[str]:
    """Names of the shards of so many rows."""
    count = math.ceil(rows / per_shard)
    return [f"train-{index:05d}-of-{count:05d}.parquet" for index in range(count)]


def write_shards(output: Path, pictures: Pictures, pairs: Sequence[Pair], settings: Settings) -> list[Path]:
    """Write all rows; shards of an earlier, different number are removed. Returns the files."""
    import pyarrow as pa

    folder, schema = output / DATA, features().arrow_schema
    folder.mkdir(exist_ok=True)
    names = shard_names(len(pairs), settings.rows_per_shard)
    for stale in folder.glob("train-*.parquet"):
        if stale.name not in names:
            stale.unlink()
    for index, name in enumerate(names):
        part = pairs[index * settings.rows_per_shard : (index + 1) * settings.rows_per_shard]
        rows = [row_of(pictures[pair.target], pictures[pair.reference], settings) for pair in part]
        write_table(pa.Table.from_pylist(rows, schema=schema), folder / name, row_group_size=GROUP)
    return [folder / name for name in names]


class Pictures:
    """The found pictures' results, read from their parts when asked for: not all fit in memory.

    `people`, `keys` and `digests` are lists over the pictures; indexing gives a picture's whole result.
    """

    def __init__(self, folder: Path, order: Sequence[str]) -> None:
        """folder: of the parts; order: keys of the pictures that count, in the order of the rows.

        Pictures of the same pixels as an earlier one are left out and listed in `rejected`, as are those
        without a person.
        """
        import pyarrow.parquet as parquet

        self._place: dict[str, tuple[Path, int]] = {}
        self._cached: tuple[Path, Any] | None = None
        light: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("part-*.parquet")):
            table = parquet.read_table(path, columns=["key", "person", "digest", "reason"])
            for index, row in enumerate(table.to_pylist()):
                light[row["key"]] = row
                self._place[row["key"]] = (path, index)
        self.rejected = [Rejected(key, light[key]["reason"]) for key in order if light[key]["reason"]]
        first: dict[str, str] = {}
        self.keys: list[str] = []
        for key in order:
            if light[key]["reason"]:
                continue
            other = first.setdefault(light[key]["digest"], key)
            if other == key:
                self.keys.append(key)
            else:
                self.rejected.append(Rejected(key, f"it is the same picture as {other}"))
        self.people = [light[key]["person"] for key in self.keys]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        import pyarrow.parquet as parquet

        path, row = self._place[self.keys[index]]
        if self._cached is None or self._cached[0] != path:
            self._cached = (path, parquet.read_table(path))
        return self._cached[1].slice(row, 1).to_pylist()[0]


def row_of(target: dict[str, Any], reference: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """One training row from two pictures' results."""
    scene = scene_without(_pixels(target["image"]), _pixels(target["masks"]))

    def picture(data: bytes) -> dict[str, Any]:
        return {"bytes": data, "path": None}

    alone = target["key"] == reference["key"]
    return {
        "image": picture(target["image"]),
        "masks": picture(target["masks"]),
        "keypoints": np.reshape(target["keypoints"], (18, 3)).tolist(),
        "face_embedding": target["face"] or [],
        "file": target["key"],
        "reference": None if alone else picture(reference["image"]),
        "reference_masks": None if alone else picture(reference["masks"]),
        "reference_keypoints": None if alone else np.reshape(reference["keypoints"], (18, 3)).tolist(),
        "reference_face_embedding": [] if alone else reference["face"] or [],
        "reference_file": None if alone else reference["key"],
        "same_picture": alone,
        "image_prompt": picture(encoded(scene, settings.picture_format)),
        "caption": target["caption"],
        "identity": target["person"],
    }


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(PilImage.open(io.BytesIO(data)))


def write_rejected(output: Path, rejected: Iterable[Rejected]) -> None:
    """rejected.csv: file and reason, sorted by file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "reason"))
    writer.writerows(sorted((each.key, each.reason) for each in rejected))
    write_text(text.getvalue(), output / "rejected.csv")


def write_card(output: Path, figures: dict[str, Any], settings: Settings) -> None:
    """README.md: the data set's card."""
    write_text(_CARD.format(**figures, settings=settings, data=DATA), output / "README.md")


_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: {data}/train-*.parquet
task_categories:
- text-to-image
tags:
- bolid
---
# Training rows for BoLID

{rows} rows of {pictures} pictures of {people} people, {settings.height} x {settings.width} pixels, made by \
`python train/prepare.py {settings.source}`. {alone} rows have no \
reference, since the person has no other picture (`same_picture`): training makes one from the picture \
itself. {rejected} pictures gave no row: `rejected.csv` says why.

| | |
|---|---|
| person, key-points, parts | {estimators} |
| face embedding | {face} |
| captions | {captions} |
| pairs | {settings.pairs_per_picture} a picture, seed {settings.seed} |

Every picture is stored once as a target and again wherever it is a reference.

| Column | |
|---|---|
| `image`, `reference` | the target, and another picture of the same person |
| `masks`, `reference_masks` | part labels: 0 background, 1 head, 2 upper, 3 lower, 4 feet |
| `keypoints`, `reference_keypoints` | [18, 3] in OpenPose's order: x, y in [0, 1], confidence (0 unknown, \
about 0.5 hidden, 1 seen) |
| `image_prompt` | the target's scene with the person blurred away |
| `caption` | what the picture shows |
| `identity` | the person |
| `face_embedding`, `reference_face_embedding` | not normalised; empty where no face was seen |
| `same_picture` | whether the person has no other picture |
| `file`, `reference_file` | the pictures' names |

`load_dataset({folder!r})` reads it. These are pictures of people: keep and use them only as those people \
agreed to.
"""
