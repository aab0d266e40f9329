"""All pictures through the examiner: in parallel, and kept part by part so that a killed run goes on.

Beside the rows to come lies the folder `.prepare`: `settings.json` and numbered parts, each with a few
pictures' results. A part bears its name only once it is whole, and every result carries its picture's stamp,
so what changed since is done anew.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bolid.estimators.catalogue import MissingModel
from bolid.preparation.examine import Examiner, Found
from bolid.preparation.gather import Photo
from bolid.preparation.settings import Settings

FOLDER = ".prepare"
CHUNK = 8  # pictures of a part: what a kill can cost
WAITING = 2  # chunks kept ready per worker; a dataset's pictures must not pile up in memory

Result = dict[str, Any]  # a row of a part: key, stamp, person, reason ("" if it was found), fields of Found


def results_of(
    photos: Iterable[Photo], settings: Settings, output: Path, workers: int, device: str = "cpu"
) -> Iterator[tuple[int, int]]:
    """Examine every photo that has no result yet; yields (pictures done, pictures rejected) as it goes.

    Raises RuntimeError when a worker dies (out of memory), OSError when the disk is full; what was done by
    then stays.
    """
    folder = output / FOLDER
    stamps = done_stamps(folder)
    number = 1 + max((int(path.stem.split("-")[1]) for path in folder.glob("part-*.parquet")), default=-1)
    todo = (photo for photo in photos if stamps.get(photo.key) != photo.stamp)
    for rows in _examined(_chunks(todo), settings, workers, device):
        _write_part(folder / f"part-{number:06d}.parquet", rows)
        number += 1
        yield len(rows), sum(bool(row["reason"]) for row in rows)


def done_stamps(folder: Path) -> dict[str, str]:
    """Key -> stamp of the pictures that have a result; later parts overrule earlier ones."""
    import pyarrow.parquet as parquet

    stamps: dict[str, str] = {}
    for path in sorted(folder.glob("part-*.parquet")):
        table = parquet.read_table(path, columns=["key", "stamp"])
        stamps.update(zip(table["key"].to_pylist(), table["stamp"].to_pylist(), strict=True))
    return stamps


def _chunks(photos: Iterable[Photo]) -> Iterator[list[Photo]]:
    chunk: list[Photo] = []
    for photo in photos:
        chunk.append(photo)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _examined(
    chunks: Iterator[list[Photo]], settings: Settings, workers: int, device: str
) -> Iterator[list[Result]]:
    """The chunks' results, in whatever order they are finished."""
    if workers == 1:
        for chunk in chunks:
            yield examine_chunk(settings, device, chunk)
        return
    context = multiprocessing.get_context("spawn")  # a forked torch may deadlock
    with ProcessPoolExecutor(workers, context, initializer=_start_worker) as pool:
        waiting: set[Future[list[Result]]] = set()
        try:
            for chunk in chunks:
                waiting.add(pool.submit(examine_chunk, settings, device, chunk))
                if len(waiting) >= WAITING * workers:
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in finished)
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process died, most likely for want of memory; what was done is kept: run the same "
                "command with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End with the parent, also when it is killed: a pool's worker would wait for it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@functools.lru_cache(maxsize=1)
def _examiner(settings: Settings, device: str) -> Examiner:
    """The process's examiner: its networks are opened once, not for every chunk."""
    return Examiner(settings, device)


def examine_chunk(settings: Settings, device: str, photos: list[Photo]) -> list[Result]:
    """Results of a few photos, in their order."""
    examiner = _examiner(settings, device)
    return [examined(examiner, photo) for photo in photos]


def examined(examiner: Examiner, photo: Photo) -> Result:
    """A photo's result; a picture that gives no row keeps its reason."""
    named = {"key": photo.key, "stamp": photo.stamp, "person": photo.person}
    try:
        found = examiner(photo)
    except MissingModel:
        raise
    except ValueError as error:
        return {**named, **_nothing(), "reason": " ".join(str(error).split())}
    return {**named, **_flat(found), "reason": ""}


def _flat(found: Found) -> Result:
    face = None if found.face is None else found.face.astype(np.float32).tolist()
    return {**asdict(found), "keypoints": found.keypoints.ravel().tolist(), "face": face}


def _nothing() -> Result:
    return {"image": None, "masks": None, "keypoints": None, "face": None, "caption": None, "digest": None}


def _write_part(path: Path, rows: list[Result]) -> None:
    import pyarrow as pa

    text, data, numbers = pa.string(), pa.binary(), pa.list_(pa.float32())
    types = {"key": text, "stamp": text, "person": text, "image": data, "masks": data, "keypoints": numbers,
             "face": numbers, "caption": text, "digest": text, "reason": text}  # fmt: skip
    write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(types.items()))), path)


def write_table(table: Any, path: Path, **options: Any) -> None:
    """A parquet file, whole or not at all."""
    import pyarrow.parquet as parquet

    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            parquet.write_table(table, file, **options)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(text: str, path: Path) -> None:
    """A text file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def begin(output: Path, settings: Settings) -> bool:
    """Make the output folder ready; True where an earlier run of the same settings goes on.

    Raises ValueError for a folder that holds something else, rows of other settings, or cannot be written.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"output {str(output)!r} is a file; give a folder")
    record = output / FOLDER / "settings.json"
    if record.is_file():
        before = json.loads(record.read_text())
        now = json.loads(json.dumps(asdict(settings)))
        changed = sorted(name for name in now if before.get(name) != now[name])
        if changed:
            told = "; ".join(f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in changed[:3])
            raise ValueError(
                f"output {str(output)!r} holds rows of another run ({told}); give the same settings to go "
                "on, or another folder"
            )
        for partial in [*output.rglob(".*.partial")]:
            partial.unlink()
        return True
    if output.is_dir() and any(output.iterdir()):
        names = ", ".join(sorted(path.name for path in output.iterdir())[:3])
        raise ValueError(f"output {str(output)!r} is not empty ({names}, ...); give a new or an empty folder")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text(json.dumps(asdict(settings), indent=1), record)
    except OSError as error:
        raise ValueError(
            f"output {str(output)!r} cannot be written ({error.strerror}); give another folder"
        ) from error
    return False
