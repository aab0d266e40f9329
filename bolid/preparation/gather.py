"""The pictures of a folder or a dataset, with the person each shows and its caption."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bolid.estimators.catalogue import hub_reachable
from bolid.preparation.settings import Settings

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".tga"}
# Pictures and films that people have and that are not read: they are told of instead of passed over.
UNREAD = {".heic", ".heif", ".cr2", ".nef", ".arw", ".dng", ".psd", ".svg", ".mov", ".mp4", ".jxl"}
METADATA = ("metadata.csv", "metadata.jsonl")
_PERSON_COLUMNS = ("person", "person_id", "identity")
_CAPTION_COLUMNS = ("caption", "text")


@dataclass(frozen=True)
class Photo:
    """One picture to be prepared. key: its name in messages; data: its path, or the bytes of its file."""

    key: str
    person: str
    caption: str | None
    stamp: str  # changes when the picture, its person or its caption does
    data: Path | bytes


@dataclass(frozen=True)
class Rejected:
    """A file that gives no row, and why."""

    key: str
    reason: str


@dataclass
class Gathered:
    """What was found. `photos` yields them in a fixed order; `count` is how many there are."""

    count: int
    source: Any
    rejected: list[Rejected] = field(default_factory=list)

    def photos(self) -> Iterator[Photo]:
        return iter(self.source)


def gather(settings: Settings) -> Gathered:
    """The pictures that `settings.source` names.

    A folder: a sub-folder per person, or pictures of one person; captions in a .txt of the same name or in
    metadata.csv / metadata.jsonl (file_name, caption or text, and person to override the folder). A dataset:
    a folder of `save_to_disk`, of parquet files, or a Hub id.
    Raises ValueError where there is no such thing, or no picture in it.
    """
    folder = Path(settings.source)
    if folder.is_file():
        raise ValueError(f"{settings.source!r} is a file; give the folder that holds the pictures")
    if folder.is_dir() and not _is_dataset(folder):
        return _from_folder(folder)
    if not folder.is_dir() and (
        settings.source.count("/") != 1 or settings.source.startswith((".", "/", "~"))
    ):
        raise ValueError(
            f"the folder {settings.source!r} does not exist; give a folder of pictures (one sub-folder per "
            "person), a saved dataset, or a dataset's Hub id"
        )
    return _from_dataset(settings)


def _is_dataset(folder: Path) -> bool:
    saved = any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
    return saved or any(folder.glob("*.parquet")) or any(folder.glob("data/*.parquet"))


def _from_folder(folder: Path) -> Gathered:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder))
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    rejected = [
        Rejected(str(path.relative_to(folder)), f"{path.suffix} files are not read; save it as PNG or JPEG")
        for path in files
        if path.suffix.lower() in UNREAD
    ]
    if not pictures:
        seen = ", ".join(sorted({path.suffix or path.name for path in files})[:5])
        raise ValueError(
            f"the folder {str(folder)!r} holds no picture ({f'only {seen}' if files else 'it is empty'}); "
            "put PNG or JPEG files into it, one sub-folder per person"
        )
    table = _metadata(folder)
    by_person = any(path.parent != folder for path in pictures)
    photos = []
    for path in pictures:
        row = table.get(path, {})
        person = row.get("person") or (
            path.relative_to(folder).parts[0] if by_person else folder.resolve().name
        )
        if by_person and path.parent == folder and not row.get("person"):
            reason = "it lies beside the persons' folders; move it into the folder of the person it shows"
            rejected.append(Rejected(path.name, reason))
            continue
        photos.append(_photo_of(path, folder, person, row.get("caption")))
    there = set(pictures)
    rejected += [
        Rejected(str(path.relative_to(folder)), "the metadata names it, but there is no such picture")
        for path in table
        if path not in there
    ]
    return Gathered(len(photos), photos, rejected)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)


def _photo_of(path: Path, folder: Path, person: str, caption: str | None) -> Photo:
    beside = path.with_suffix(".txt")
    if caption is None and beside.is_file():
        caption = " ".join(beside.read_text(encoding="utf-8", errors="replace").split()) or None
    state = path.stat()
    stamp = _hash(state.st_size, state.st_mtime_ns, person, caption)
    return Photo(str(path.relative_to(folder)), person, caption, stamp, path)


def _hash(*values: Any) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def _metadata(folder: Path) -> dict[Path, dict[str, str]]:
    """Path -> caption and person, of all metadata files below the folder. Raises ValueError for a bad one."""
    table: dict[Path, dict[str, str]] = {}
    for file in sorted(path for name in METADATA for path in folder.rglob(name)):
        for number, row in enumerate(_rows_of(file), start=1):
            if not isinstance(row, dict) or not row.get("file_name"):
                raise ValueError(
                    f"{file} row {number} has no file_name; every row names a picture and its caption or text"
                )
            named = {"caption": _first(row, _CAPTION_COLUMNS), "person": _first(row, _PERSON_COLUMNS)}
            table[file.parent / row["file_name"]] = {name: text for name, text in named.items() if text}
    return table


def _rows_of(file: Path) -> list[Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".csv":
            return list(csv.DictReader(text.splitlines()))
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read ({error}); save it as UTF-8, one row per picture") from error


def _first(row: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((" ".join(str(row[name]).split()) for name in names if row.get(name)), None)


def _from_dataset(settings: Settings) -> Gathered:
    dataset = _open_dataset(settings)
    columns = {
        "image": _column(dataset, settings.image_column, ("image",), required=True),
        "person": _column(dataset, settings.person_column, _PERSON_COLUMNS),
        "caption": _column(dataset, settings.caption_column, _CAPTION_COLUMNS),
    }
    if not len(dataset):
        raise ValueError(f"the dataset {settings.source!r} has no rows in its split {settings.split!r}")
    return Gathered(len(dataset), _DatasetPhotos(dataset, columns, Path(settings.source).name))


def _open_dataset(settings: Settings) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("preparing a dataset needs the package `datasets`: pip install datasets") from error
    folder = Path(settings.source)
    if not folder.is_dir() and not os.environ.get("HF_HUB_OFFLINE") and not hub_reachable():
        raise ValueError(
            f"{settings.source!r} is no folder here, and the Hub cannot be reached; give a folder of "
            "pictures, or set HF_HUB_OFFLINE=1 to use a data set that was downloaded before"
        )
    try:
        if any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
            opened = datasets.load_from_disk(str(folder))
            if isinstance(opened, datasets.DatasetDict):
                opened = opened[settings.split]
            return opened
        return datasets.load_dataset(settings.source, split=settings.split)
    except (OSError, ValueError, KeyError) as error:  # ConnectionError and the Hub's errors are OSErrors
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"the dataset {settings.source!r} (split {settings.split!r}) cannot be opened: {first}; give a "
            "folder of pictures, a saved dataset, or a Hub id that can be reached"
        ) from error


def _column(dataset: Any, asked: str | None, usual: tuple[str, ...], *, required: bool = False) -> str | None:
    """The column's name. Raises ValueError for one that is not there."""
    found = asked or next((name for name in usual if name in dataset.column_names), None)
    if (found is None and required) or (found is not None and found not in dataset.column_names):
        raise ValueError(
            f"the dataset has no column {found or usual[0]!r}; its columns are "
            f"{', '.join(dataset.column_names)}: name one by --{usual[0]}_column"
        )
    return found


class _DatasetPhotos:
    """A dataset's rows as photos, read one by one and undecoded: a damaged picture is one bad row."""

    def __init__(self, dataset: Any, columns: dict[str, str | None], name: str) -> None:
        from datasets import Image

        self.columns, self.name = columns, name
        self.dataset = dataset.cast_column(columns["image"], Image(decode=False))

    def __iter__(self) -> Iterator[Photo]:
        for index, row in enumerate(self.dataset):
            image = row[self.columns["image"]] or {}
            data = image.get("bytes") or Path(image.get("path") or f"row {index} without a picture")
            person = str(row[self.columns["person"]]) if self.columns["person"] else self.name
            caption = row[self.columns["caption"]] if self.columns["caption"] else None
            stamp = _hash(
                hashlib.sha256(data).digest() if isinstance(data, bytes) else str(data), person, caption
            )
            yield Photo(f"row {index}", person, caption, stamp, data)
