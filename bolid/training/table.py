"""Rows of a map-style dataset, decoded as they are asked for, each with a reference of the same person."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bolid.training.config import DataConfig
from bolid.training.decoding import RowError, View, place_of, read_picture, read_view
from bolid.training.pairs import Partners
from bolid.training.sources import Columns

FACE = 512  # length of a face embedding, ArcFace's; others are cut or filled up
MOST_FAILURES = 100  # rows one after another that cannot be read, before even `skip` gives up
_log = logging.getLogger(__name__)


class Skipped:
    """The rows that could not be read: raised, or listed in a file as JSON lines and told of once."""

    def __init__(self, data: DataConfig, fingerprint: str) -> None:
        self._skip, self._seen = data.on_error == "skip", set[str]()
        self.file = Path(data.cache_dir) / f"skipped-{fingerprint}.jsonl"
        self._lock = threading.Lock()

    def note(self, row: int, error: RowError) -> None:
        """Raises the error again unless rows may be skipped."""
        if not self._skip:
            raise error
        line = json.dumps({"row": row, "reason": str(error)})
        with self._lock:
            if line in self._seen:
                return
            if not self._seen:
                _log.warning("%s; such rows are left out and listed in %s", error, self.file)
            self._seen.add(line)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            known = self.file.read_text().splitlines() if self.file.is_file() else []
            if line not in known:
                with open(self.file, "a") as file:
                    file.write(line + "\n")


class TableRows:
    """Some rows of a dataset, in `views` versions: number i is version i // N of the i % N-th of N rows.

    A row's place is taken by the next one that can be read, if `data.on_error` is "skip".

    Args:
        dataset: map-style, pictures undecoded.
        subset: numbers of the rows in the dataset.
        people: a key per row of the subset.
        fingerprint: of the dataset; that of the rows adds subset and versions.
    """

    def __init__(
        self,
        dataset: Any,
        columns: Columns,
        data: DataConfig,
        subset: np.ndarray,
        people: Sequence[str],
        fingerprint: str,
        views: int = 1,
    ) -> None:
        if not len(subset):
            raise ValueError(f"data.source={data.source!r} leaves no row to train on; give more rows.")
        self._dataset, self._columns, self._data, self._subset = dataset, columns, data, subset
        self._partners, self._views = Partners(people), views
        digest = hashlib.sha256(np.ascontiguousarray(subset, np.int64).tobytes())
        digest.update(f"{fingerprint}/{views}/{data.on_error}".encode())
        self.fingerprint = digest.hexdigest()[:16]
        self.skipped = Skipped(data, fingerprint)
        self._pool = ThreadPoolExecutor(
            max(1, data.workers), "decode", initializer=lambda: cv2.setNumThreads(1)
        )

    def __len__(self) -> int:
        return len(self._subset) * self._views

    def read(self, indices: np.ndarray) -> dict[str, Any]:
        """Columns of the rows at `indices`, decoded in threads.

        image, reference, image_prompt: uint8 [B, H, W, 3]; masks, reference_masks: uint8 [B, H, W];
        keypoints, reference_keypoints: float32 [B, 18, 3]; own_reference, has_prompt, face_seen: bool [B];
        face_embedding: float32 [B, 512]; time_ids: float32 [B, 6], SDXL's; caption,
        caption_without_identity: lists of str. Raises RowError (a ValueError) that names row and column.
        """
        rows = list(self._pool.map(self._row, np.asarray(indices).tolist()))
        return stacked(rows)

    def _row(self, index: int) -> dict[str, Any]:
        view, position = divmod(index, len(self._subset))
        for step in range(min(MOST_FAILURES, len(self._subset))):
            at = (position + step) % len(self._subset)
            try:
                return decoded_row(
                    self._cells(at), int(self._subset[at]), self._data, self._reference(at, view)
                )
            except RowError as error:
                self.skipped.note(int(self._subset[at]), error)
        raise RowError(
            f"none of {min(MOST_FAILURES, len(self._subset))} rows in a row can be read; see "
            f"{self.skipped.file}."
        )

    def _cells(self, position: int) -> dict[str, Any]:
        return self._columns.read(self._dataset[int(self._subset[position])])

    def _reference(self, position: int, view: int) -> Callable[[], View | None]:
        """Finds the reference among the person's other rows; None where there is none that can be read."""

        def find() -> View | None:
            for other in self._partners.of(position, view):
                number = int(self._subset[other])
                try:
                    cells = self._cells(other)
                    # the other row's own picture, as a reference is framed
                    cells |= {f"reference{tail}": cells[name] for tail, name in _AS_REFERENCE}
                    return read_view(
                        cells, "reference_", number, self._data.height, self._data.width, crop=False
                    )
                except RowError as error:
                    self.skipped.note(number, error)
            return None

        return find


_AS_REFERENCE = (("", "image"), ("_keypoints", "keypoints"), ("_masks", "masks"))


def decoded_row(
    cells: Mapping[str, Any], number: int, data: DataConfig, partner: Callable[[], View | None]
) -> dict[str, Any]:
    """One row as arrays at working size. partner: finds a reference where the row has none of its own.

    Raises RowError.
    """
    height, width = data.height, data.width
    target = read_view(cells, "", number, height, width)
    reference, own = None, False
    if cells["reference"] is not None:
        reference = read_view(cells, "reference_", number, height, width, crop=False)
    if reference is None:
        reference = partner()
    if reference is None:
        reference, own = target, True
    caption = _text(cells["caption"])
    prompt = cells["image_prompt"]
    face = np.asarray(
        cells["face_embedding"] if cells["face_embedding"] is not None else [], np.float32
    ).ravel()
    row: dict[str, Any] = {
        "image": target.image,
        "masks": target.masks,
        "keypoints": target.keypoints,
        "reference": reference.image,
        "reference_masks": reference.masks,
        "reference_keypoints": reference.keypoints,
        "own_reference": np.bool_(own),
        "has_prompt": np.bool_(prompt is not None),
        "image_prompt": np.zeros_like(target.image)
        if prompt is None
        else _prompt(prompt, f"image_prompt of {place_of(cells, number)}", height, width),
        "caption": caption,
        "caption_without_identity": caption
        if cells["caption_without_identity"] is None
        else _text(cells["caption_without_identity"]),
        "face_embedding": np.pad(face[:FACE], (0, max(0, FACE - len(face)))),
        "face_seen": np.bool_(len(face) > 0),
        "time_ids": np.asarray([*target.window, height, width], np.float32),
    }
    return row


def _prompt(cell: Any, what: str, height: int, width: int) -> np.ndarray:
    """The image prompt squeezed to the working size: encoders see it as a whole in any case."""
    picture = np.asarray(read_picture(cell, what))
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def _text(cell: Any) -> str:
    """A caption; of several (a list) the first."""
    if isinstance(cell, list | tuple):
        cell = cell[0] if cell else None
    return "" if cell is None else str(cell)


def stacked(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows as columns: arrays stacked, texts in lists."""
    return {
        name: [row[name] for row in rows]
        if isinstance(rows[0][name], str)
        else np.stack([row[name] for row in rows])
        for name in rows[0]
    }
