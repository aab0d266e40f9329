"""Who is compared: the methods by name, further models by folder or Hub id, folders of pictures; and the rows
of the table that each of them gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bolid.baselines.body_methods import BODY_METHODS
from bolid.evaluation import probes
from bolid.evaluation.calls import Call, DrawOptions
from bolid.evaluation.drawing import STRENGTHS, Drawer, draw_truth
from bolid.evaluation.pairs import Pairs
from bolid.evaluation.provenance import files_hash, weights_hash

Group = Literal["reference", "without pose", "with pose", "sweep"]
STEPS = (1, 2, 4, 8, 20)  # of the sweep over denoising steps
METHODS = {name: method.title for name, method in BODY_METHODS.items()}
POSED_ALONE = {  # no rows without a pose: what needs one to show the person, and one of the parts left out
    name for name, method in BODY_METHODS.items() if method.tokens == "none" or name == "bolid_no_map"
}
POSE = "+pose"  # ending of the rows that get the pose


@dataclass(frozen=True)
class Contestant:
    """Weights that are compared: one folder (or Hub id) per training seed.

    pictures: the folder holds pictures that somebody else's model drew for the same pairs, in their order.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    pictures: bool = False

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """Of each training's weights, or of the pictures."""
        if self.pictures:
            return tuple(files_hash(Path(folder), picture_files(folder)) for folder in self.folders)
        return tuple(weights_hash(folder) for folder in self.folders)


@dataclass(frozen=True)
class Row:
    """A row of the table: whose pictures, drawn how.

    contestant: None for rows that no model draws. steps: denoising steps, None: the run's. sweep: (what is
    varied, its value) for the rows of a plot.
    """

    name: str
    title: str
    group: Group
    draw: Drawer
    contestant: Contestant | None = None
    steps: int | None = None
    sweep: tuple[str, float] | None = None

    @property
    def is_unposed(self) -> bool:
        """Whether a model draws it from text and reference alone."""
        return isinstance(self.draw, Call) and self.draw.pose is None


def draw_another(pipe: Any, pairs: Pairs, chunk: slice, options: DrawOptions) -> np.ndarray:  # noqa: ARG001
    """Another person in the truth's pose and scene: right in all but the person."""
    return np.stack(
        [probes.of_another(int(seed), pairs.avatars, *pairs.size).image for seed in pairs.seed[chunk]]
    )


@dataclass(frozen=True)
class PictureFolder:
    """Pictures of a folder in the order of their names, one per pair and sampling seed.

    Raises ValueError when it is empty, its pictures have several sizes, or there are too few.
    """

    folder: str
    files: tuple[Path, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", picture_files(self.folder))

    def __call__(self, pipe: Any, pairs: Pairs, chunk: slice, options: DrawOptions) -> np.ndarray:  # noqa: ARG002
        from PIL import Image

        rows = range(*chunk.indices(len(pairs)))
        if rows[-1] >= len(self.files):
            raise ValueError(
                f"{self.folder} has {len(self.files)} pictures, {len(pairs)} pairs are measured: one picture "
                "each is needed, named in the pairs' order; or lower --samples"
            )
        found = []
        for row in rows:
            picture = Image.open(self.files[row]).convert("RGB")
            found.append(np.asarray(picture.resize((pairs.size[1], pairs.size[0]), Image.Resampling.LANCZOS)))
        return np.stack(found)


def picture_files(folder: str) -> tuple[Path, ...]:
    """The pictures of a folder by name. Raises ValueError for none, or for pictures of several sizes."""
    from PIL import Image

    endings = (".png", ".jpg", ".jpeg", ".webp")
    files = tuple(sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in endings))
    if not files:
        raise ValueError(f"{folder} holds no pictures (.png, .jpg, .webp) and no model_index.json")
    sizes: dict[tuple[int, int], Path] = {}
    for path in files:
        with Image.open(path) as picture:
            sizes.setdefault(picture.size, path)
    if len(sizes) > 1:
        (a, first), (b, second) = list(sizes.items())[:2]
        raise ValueError(
            f"{folder} mixes sizes: {first.name} is {a[0]} x {a[1]}, {second.name} {b[0]} x {b[1]}. FID "
            "depends on the resize: bring all pictures to one size first"
        )
    return files


def find_contestants(names: Sequence[str], runs: str | Path, shipped: str | Path) -> list[Contestant]:
    """What `--models` names. A method's trainings are `runs/NAME/seed-*/export`; `bolid` without any is the
    shipped model.

    Raises ValueError for what cannot be found; the message has the command that trains it.
    """
    found: list[Contestant] = []
    for name in names:
        if name in METHODS:
            found.append(_method(name, Path(runs), str(shipped)))
        elif Path(name).is_dir() and not (Path(name) / "model_index.json").is_file():
            picture_files(name)
            found.append(Contestant(_label(name), f"{_label(name)} (pictures)", (name,), pictures=True))
        elif Path(name).is_dir() or name.count("/") == 1:
            found.append(Contestant(_label(name), _label(name), (name,)))
        else:
            raise ValueError(
                f"--models {name}: neither a method ({', '.join(METHODS)}) nor a folder nor a Hub id like "
                "owner/name"
            )
    labels = [contestant.name for contestant in found]
    if twice := {name for name in labels if labels.count(name) > 1}:
        raise ValueError(f"--models names {sorted(twice)[0]!r} twice (a folder counts by its last name)")
    return found


def _method(name: str, runs: Path, shipped: str) -> Contestant:
    folders = sorted(runs.glob(f"{name}/seed-*/export"))
    if folders:
        return Contestant(name, METHODS[name], tuple(map(str, folders)))
    if name == "bolid":
        return Contestant(name, f"{METHODS[name]}, as shipped", (shipped,))
    raise ValueError(
        f"--models {name}: there is no {runs}/{name}/seed-*/export. Train it: for s in 0 1 2; do "
        f"{BODY_METHODS[name].command} --seed $s --output_dir {runs}/{name}/seed-$s; done"
    )


def _label(source: str) -> str:
    """A folder's name, of a training run its own name rather than `export`; a Hub id with -- for /."""
    path = Path(source)
    if not path.is_dir():
        return source.replace("/", "--")
    return path.resolve().parent.name if path.name == "export" else path.resolve().name


def table_rows(contestants: Sequence[Contestant]) -> list[Row]:
    """The rows of the main table: ground truth and another person, the base alone, each method without and
    with the pose."""
    rows = [
        Row("truth", "Ground truth", "reference", draw_truth),
        Row("another", "Another person, same pose and scene", "reference", draw_another),
    ]
    models = [c for c in contestants if not c.pictures]
    if models:
        rows.append(Row("base", "Base, text only", "reference", Call(person=None, pose=None), models[0]))
    for c in contestants:
        if c.pictures:
            rows.append(Row(c.name, c.title, "with pose", PictureFolder(c.folders[0]), c))
            continue
        if c.name in POSED_ALONE:
            person: Literal["own"] | None = None if c.name == "pose_only" else "own"
            rows.append(Row(c.name + POSE, c.title, "with pose", Call(person=person), c))
            continue
        rows.append(Row(c.name, f"{c.title}, no pose", "without pose", Call(pose=None), c))
        rows.append(Row(c.name + POSE, c.title, "with pose", Call(), c))
    order: dict[Group, int] = {"reference": 0, "without pose": 1, "with pose": 2, "sweep": 3}
    return sorted(rows, key=lambda row: order[row.group])


def sweep_rows(contestants: Sequence[Contestant], kinds: Sequence[str]) -> list[Row]:
    """The rows of the plots: every method with pose over `strength` and `steps`, and with a hidden head
    (`head`).
    """
    rows = []
    for c in (c for c in contestants if not c.pictures and c.name != "pose_only"):

        def row(what: str, value: float, call: Call, steps: int | None = None, c: Contestant = c) -> Row:
            name = f"{c.name}{POSE}@{what}={value:g}"
            return Row(name, f"{c.title}, {what} {value:g}", "sweep", call, c, steps, (what, value))

        if "strength" in kinds:
            rows += [row("strength", s, Call(further={"id_strength": s})) for s in STRENGTHS]
        if "steps" in kinds:
            rows += [row("steps", n, Call(), n) for n in STEPS]
        if "head" in kinds:
            rows.append(row("head", 0, Call(hide="head")))
    return rows
