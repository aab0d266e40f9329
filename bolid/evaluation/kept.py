"""Measured pictures on disk: parquet files of a few rows each, written whole or not at all."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

EMBEDDINGS = ("body", "head", "features")  # columns that hold a vector a picture


@dataclass(frozen=True)
class Piece:
    """Some pairs of a row: drawn by one training with one sampling seed."""

    row: str
    weights: str  # hash of what drew them
    training: int
    sampling: int
    start: int
    stop: int

    def path(self, folder: Path) -> Path:
        """Where it is kept. Other weights are another file: a model trained anew is drawn anew."""
        name = f"{self.weights}-{self.sampling}-{self.start:05d}-{self.stop:05d}.parquet"
        return folder / "rows" / self.row / name


@dataclass
class Measured:
    """All pictures of a row. values: figure -> [T, K, P], NaN where not measured or not drawn; embeddings:
    name -> [T, K, P, D]; pictures: pair -> uint8 [H, W, 3] of the first training and sampling seed."""

    values: dict[str, np.ndarray]
    embeddings: dict[str, np.ndarray]
    pictures: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def trainings(self) -> int:
        return next(iter(self.values.values())).shape[0]

    def of(self, figure: str) -> np.ndarray:
        """[T, P]: the figure averaged over sampling seeds; NaN for a figure that was not measured."""
        if figure not in self.values:
            first = next(iter(self.values.values()))
            return np.full((first.shape[0], first.shape[2]), np.nan)
        found = self.values[figure]
        seen = np.isfinite(found)
        total = np.where(seen, found, 0.0).sum(1)
        return np.where(seen.any(1), total / np.maximum(seen.sum(1), 1), np.nan)

    def stacked(self, name: str) -> np.ndarray:
        """An embedding of all pictures [N, D]; those never drawn are left out."""
        return np.concatenate(self.drawings(name))

    def drawings(self, name: str) -> list[np.ndarray]:
        """The same for each training and sampling seed, [n, D] with a pair in it once."""
        found = self.embeddings[name]
        return [each[np.isfinite(each).all(1)] for each in found.reshape(-1, *found.shape[2:])]


def save_piece(
    path: Path,
    piece: Piece,
    values: Mapping[str, np.ndarray],
    embeddings: Mapping[str, np.ndarray],
    pictures: Mapping[int, np.ndarray],
) -> None:
    """Write a piece. values: figure -> [n]; embeddings: name -> [n, D]; pictures: pair -> uint8 [H, W, 3]."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pairs = range(piece.start, piece.stop)
    columns: dict[str, Any] = {
        "row": [piece.row] * len(pairs),
        "pair": list(pairs),
        "training": [piece.training] * len(pairs),
        "sampling": [piece.sampling] * len(pairs),
        "weights": [piece.weights] * len(pairs),
    }
    columns |= {name: value.astype(np.float32) for name, value in values.items()}
    columns |= {name: list(value.astype(np.float32)) for name, value in embeddings.items()}
    columns["picture"] = pa.array(
        [_png(pictures[pair]) if pair in pictures else None for pair in pairs], pa.binary()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        pq.write_table(pa.table(columns), file)
    os.replace(temporary, path)


def load_row(folder: Path, pieces: list[Piece]) -> Measured:
    """All pieces of one row together."""
    import pyarrow.parquet as pq

    trainings, samplings = (1 + max(getattr(p, name) for p in pieces) for name in ("training", "sampling"))
    shape = (trainings, samplings, max(p.stop for p in pieces))
    values: dict[str, np.ndarray] = {}
    embeddings: dict[str, np.ndarray] = {}
    pictures: dict[int, np.ndarray] = {}
    for piece in pieces:
        table = pq.read_table(piece.path(folder))
        place = (piece.training, piece.sampling, slice(piece.start, piece.stop))
        for name in table.column_names:
            column = table.column(name)
            if name in ("row", "pair", "training", "sampling", "weights"):
                continue
            if name == "picture":
                if piece.training == piece.sampling == 0:
                    shown = enumerate(column.to_pylist(), piece.start)
                    pictures |= {pair: _picture(png) for pair, png in shown if png is not None}
            elif name in EMBEDDINGS:
                found = np.stack(column.to_pylist())
                if name not in embeddings:
                    embeddings[name] = np.full((*shape, found.shape[1]), np.nan, np.float32)
                embeddings[name][place] = found
            else:
                values.setdefault(name, np.full(shape, np.nan))[place] = column.to_numpy()
    return Measured(values, embeddings, pictures)


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _picture(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
