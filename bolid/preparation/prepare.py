"""The whole of `train/prepare.py`: pictures in, rows out."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bolid.estimators.catalogue import Task, find_weights
from bolid.estimators.choice import PHOTO_TASKS, automatic
from bolid.preparation.gather import Gathered, gather
from bolid.preparation.pairs import pair_up
from bolid.preparation.settings import Settings
from bolid.preparation.shards import Pictures, write_card, write_rejected, write_shards
from bolid.preparation.work import FOLDER, begin, results_of, write_text

MINI_DEFAULTS: Mapping[str, Any] = MappingProxyType({"height": 192, "width": 128, "picture_format": "png"})
DONE = "done.json"  # in the folder of the work, once the rows are whole


@dataclass(frozen=True)
class Summary:
    """What a preparation gave."""

    rows: int
    pictures: int
    people: int
    alone: int  # rows without a reference: the person has one picture
    rejected: int
    shards: int

    def __str__(self) -> str:
        alone = f" ({self.alone} of them from a person's only picture)" if self.alone else ""
        return (
            f"{self.rows} rows{alone} of {self.pictures} pictures of {self.people} people in {self.shards} "
            f"shards; {self.rejected} pictures rejected (rejected.csv says why)"
        )


def prepare(
    settings: Settings,
    output: str | Path,
    *,
    workers: int = 1,
    device: str = "cpu",
    tell: Callable[[str], None] = print,
) -> Summary:
    """Turn pictures of people into training rows in `output`; a run that was stopped goes on.

    settings: as `decided` gives them; workers: processes; device: where the networks run (several workers
    share it); tell: where notes go.
    Raises ValueError for anything that cannot be used, RuntimeError when a worker dies or the disk is full;
    what was done by then is kept.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; it must be 1 or more")
    output = Path(output)
    gathered = gather(settings)
    resumed = begin(output, settings)
    try:
        return _prepare(gathered, settings, output, workers, device, tell, resumed)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RuntimeError(
            f"the disk of {str(output)!r} is full; make room and run the same command: what was done is kept"
        ) from error


def decided(given: Mapping[str, Any], tell: Callable[[str], None] = print) -> Settings:
    """Settings from the given ones: "auto" decided, so that a resumed run uses the same networks, and the
    rest at its default (for the mini estimator bolid-mini's size, without loss).

    Raises ValueError for a value that cannot be used.
    """
    values = dict(given)
    photo_models = [task for task in PHOTO_TASKS if values.get(task)]
    if values.get("estimators", "auto") == "auto":
        choice, names = ("photo", {}) if photo_models else automatic()
        values |= {"estimators": choice, **names}
        if choice == "mini":
            tell(
                "no models for photographs are on this machine: using the mini estimator, which knows drawn "
                "avatars only (python -m bolid doctor tells how to get the others)"
            )
    if values["estimators"] == "mini":
        values = {**MINI_DEFAULTS, **values}
    named: dict[Task, Any] = {task: values.get(task) for task in PHOTO_TASKS}
    named["face"] = values.get("face")
    named["caption"] = values.get("captioner")
    for task, source in named.items():
        if source is not None:
            find_weights(task, source)
    return Settings(**values)


def _prepare(
    gathered: Gathered,
    settings: Settings,
    output: Path,
    workers: int,
    device: str,
    tell: Callable[[str], None],
    resumed: bool,
) -> Summary:
    from tqdm.auto import tqdm

    keys, stamps = [], []

    def listed() -> Any:
        for photo in gathered.photos():
            keys.append(photo.key)
            stamps.append(photo.stamp)
            yield photo

    folder = output / FOLDER
    before = _finished(folder)
    with tqdm(total=gathered.count, unit="picture", desc="pictures", disable=None) as bar:
        rejected = 0
        for done, bad in results_of(listed(), settings, output, workers, device):
            rejected += bad
            bar.update(done)
            bar.set_postfix(rejected=rejected)
        fresh = bar.n
    if resumed and before == {"keys": keys, "stamps": stamps} and not fresh:
        tell(f"{output} is complete already: nothing was done")
    pictures = Pictures(folder, keys)
    if not len(pictures):
        write_rejected(output, [*gathered.rejected, *pictures.rejected])
        first = pictures.rejected[0]
        raise ValueError(
            f"none of the {gathered.count} pictures gave a row; {first.key}: {first.reason} "
            f"(all reasons: {output / 'rejected.csv'})"
        )
    return _finish(pictures, gathered, settings, output, {"keys": keys, "stamps": stamps})


def _finished(folder: Path) -> Any:
    path = folder / DONE
    return json.loads(path.read_text()) if path.is_file() else None


def _finish(
    pictures: Pictures, gathered: Gathered, settings: Settings, output: Path, record: dict[str, Any]
) -> Summary:
    """Shards, list and card; written anew each time, since they follow from the parts alone."""
    (output / FOLDER / DONE).unlink(missing_ok=True)
    pairs = pair_up(pictures.people, settings.pairs_per_picture, settings.seed)
    files = write_shards(output, pictures, pairs, settings)
    rejected = [*gathered.rejected, *pictures.rejected]
    write_rejected(output, rejected)
    summary = Summary(
        rows=len(pairs),
        pictures=len(pictures),
        people=len(set(pictures.people)),
        alone=sum(pair.target == pair.reference for pair in pairs),
        rejected=len(rejected),
        shards=len(files),
    )
    used = {task: getattr(settings, task) for task in PHOTO_TASKS}
    figures = {
        **vars(summary),
        "estimators": ", ".join(f"{task} {name}" for task, name in used.items() if name)
        or f"{settings.estimators} estimators of bolid",
        "face": settings.face or "none",
        "captions": "the pictures' own, else "
        + (settings.captioner or f"the template {settings.caption_template!r}"),
        "folder": str(output),
    }
    write_card(output, figures, settings)
    write_text(json.dumps(record), output / FOLDER / DONE)
    return summary


def forget_work(output: str | Path) -> None:
    """Remove what a resumed run would need: about half of the space that the folder takes."""
    shutil.rmtree(Path(output) / FOLDER)
