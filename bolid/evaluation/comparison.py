"""Drawing and measuring every picture of a comparison, by one process or several, piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bolid.evaluation.calls import DrawOptions, People
from bolid.evaluation.contestants import Contestant, Row
from bolid.evaluation.figures import further_figures, picture_figures
from bolid.evaluation.kept import Measured, Piece, load_row, save_piece
from bolid.evaluation.networks import Networks
from bolid.evaluation.pairs import Pairs
from bolid.evaluation.progress import Progress
from bolid.evaluators import Reading

SEED_STRIDE = (
    1_000_003  # between sampling seeds; pair i of sampling seed k is drawn from seed + k * stride + i
)
SHOWN = 8  # pairs whose pictures are kept for the grid
LEAST_PAIRS = 16  # for identification among 16


@dataclass(frozen=True)
class Size:
    """How many pictures. samples: of a row of the main table, over pairs, sampling seeds and trainings."""

    samples: int
    seeds: int
    trainings: int  # the most that any contestant has
    sweep_samples: int = 200

    def __post_init__(self) -> None:
        if self.pairs < LEAST_PAIRS:
            each = self.seeds * self.trainings
            raise ValueError(
                f"--samples {self.samples} over {self.seeds} sampling seeds and {self.trainings} trainings "
                f"are {self.pairs} pairs; at least {LEAST_PAIRS} are needed: --samples {LEAST_PAIRS * each}"
            )

    @property
    def pairs(self) -> int:
        """Pairs, each drawn by every training with every sampling seed."""
        return math.ceil(self.samples / (self.seeds * self.trainings))

    def of(self, row: Row) -> tuple[int, int, int]:
        """Trainings, sampling seeds and pairs of a row.

        A contestant of fewer trainings is drawn with more sampling seeds, so that all rows have as many
        pictures. The base alone is the same in all trainings.
        """
        if row.contestant is None or row.contestant.pictures:
            return 1, 1, self.pairs
        trainings = 1 if row.name == "base" else len(row.contestant.folders)
        if row.group == "sweep":
            return trainings, 1, min(self.pairs, max(LEAST_PAIRS, math.ceil(self.sweep_samples / trainings)))
        return trainings, math.ceil(self.seeds * self.trainings / trainings), self.pairs


@dataclass(frozen=True)
class Setting:
    """What all pieces share. open_pipe: folder -> pipeline; steps_unposed: of rows without a pose."""

    folder: Path
    pairs: Pairs
    networks: Networks
    open_pipe: Callable[[str], Any]
    steps: int | None = None
    steps_unposed: int | None = None
    guidance: float | None = None
    id_strength: float | None = None
    seed: int = 0
    batch_size: int = 16


def pieces_of(row: Row, size: Size, batch_size: int) -> list[Piece]:
    """A row cut into pieces of `batch_size` pairs."""
    trainings, samplings, count = size.of(row)
    hashes = ("-",) if row.contestant is None else row.contestant.hashes
    return [
        Piece(row.name, hashes[t], t, k, start, min(start + batch_size, count))
        for t in range(trainings)
        for k in range(samplings)
        for start in range(0, count, batch_size)
    ]


def measure_rows(
    rows: Sequence[Row], size: Size, setting: Setting, rank: int = 0, processes: int = 1, show: bool = True
) -> None:
    """Draw and measure what is not kept yet; process `rank` of `processes` takes every so-many-th piece."""
    work = [(row, piece) for row in rows for piece in pieces_of(row, size, setting.batch_size)]
    work.sort(key=lambda each: _folder(*each) or "")  # one pipeline after the other
    mine = work[rank::processes]
    progress = Progress(sum(piece.stop - piece.start for _, piece in mine), show)
    drawer = _Drawer(setting)
    for row, piece in mine:
        kept = piece.path(setting.folder).exists()
        if not kept:
            drawer.measure(row, piece)
        progress.add(piece.stop - piece.start, row.name, kept)
    progress.close()


def load_rows(rows: Sequence[Row], size: Size, setting: Setting) -> dict[str, Measured]:
    """Everything that `measure_rows` kept, by row."""
    return {row.name: load_row(setting.folder, pieces_of(row, size, setting.batch_size)) for row in rows}


def _folder(row: Row, piece: Piece) -> str | None:
    contestant: Contestant | None = row.contestant
    return None if contestant is None or contestant.pictures else contestant.folders[piece.training]


class _Drawer:
    """One pipeline at a time, and what the networks read in references and truths."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._opened: tuple[str, Any] = ("", None)
        self._people: People = {}  # of the opened pipeline
        self._read: dict[tuple[int, int], tuple[Reading, Reading]] = {}

    def measure(self, row: Row, piece: Piece) -> None:
        s = self._setting
        chunk = slice(piece.start, piece.stop)
        pipe = self._pipe(_folder(row, piece))
        options = DrawOptions(
            steps=self._steps(row),
            guidance=s.guidance,
            id_strength=s.id_strength,
            seed=s.seed + piece.sampling * SEED_STRIDE,
            batch_size=s.batch_size,
            people=self._people,
        )
        drawn = row.draw(pipe, s.pairs, chunk, options)
        pairs, (reference, truth) = s.pairs.part(chunk), self._readings(chunk)
        seen = s.networks.read(drawn)
        values = picture_figures(drawn, pairs, s.networks, seen, reference)
        values |= further_figures(drawn, pairs, s.networks, seen, reference, truth)
        embeddings = {name: getattr(seen[1], name) for name in ("body", "head", "features")}
        first = piece.training == piece.sampling == 0
        shown = {i: drawn[i - piece.start] for i in range(piece.start, min(piece.stop, SHOWN)) if first}
        save_piece(piece.path(s.folder), piece, values, embeddings, shown)

    def _steps(self, row: Row) -> int | None:
        s = self._setting
        if row.steps is not None:
            return row.steps
        return s.steps_unposed if row.is_unposed and s.steps_unposed is not None else s.steps

    def _pipe(self, folder: str | None) -> Any:
        if folder is not None and self._opened[0] != folder:
            self._opened, self._people = ("", None), {}  # the old one's memory first
            self._opened = (folder, self._setting.open_pipe(folder))
        return self._opened[1] if folder is not None else None

    def _readings(self, chunk: slice) -> tuple[Reading, Reading]:
        """What the networks read in these pairs' references and truths."""
        key = (chunk.start, chunk.stop)
        if key not in self._read:
            pairs, networks = self._setting.pairs, self._setting.networks
            self._read[key] = (
                networks.read(pairs.reference[chunk])[1],
                networks.read(pairs.image[chunk])[1],
            )
        return self._read[key]


def truth_features(setting: Setting, more: Callable[[], Pairs]) -> np.ndarray:
    """Features of the truths that FID and KID compare with, [N, D]; kept in the output folder.

    more: the N pairs, of which those that were drawn are the first.
    """
    path = setting.folder / "truth.npy"
    if path.exists():
        return np.load(path)
    pairs = more()
    found = [
        setting.networks.read(pairs.image[start : start + 64])[1].features
        for start in range(0, len(pairs), 64)
    ]
    features = np.concatenate(found)
    np.save(path, features)
    return features
