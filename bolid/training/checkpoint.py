"""Training state on disk: written whole or not at all, found again, pruned."""

import logging
import os
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

STATE_FILE = "state.pt"
_NAME = re.compile(r"checkpoint-(\d+)")
_log = logging.getLogger(__name__)


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints under `output_dir`, oldest first."""
    found = [
        p
        for p in Path(output_dir).glob("checkpoint-*")
        if _NAME.fullmatch(p.name) and (p / STATE_FILE).is_file()
    ]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]))


def save_checkpoint(
    output_dir: str | Path, step: int, state: Mapping[str, Any], texts: Mapping[str, str], limit: int
) -> Path:
    """Write `checkpoint-{step}` atomically and prune old ones down to `limit` (0 keeps all).

    Everything goes into a hidden folder first, is flushed to disk and renamed: a kill at any moment leaves
    either the whole checkpoint or none. Older ones go only after that. `texts` maps file names to contents
    (the resolved config, for example).

    Raises:
        OSError: it can't be written (a full disk, for example); earlier checkpoints are untouched.
    """
    root = Path(output_dir)
    root.mkdir(parents=True, exist_ok=True)
    final, partial = root / f"checkpoint-{step}", root / f".partial-{step}"
    for leftover in root.glob(".partial-*"):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        for name, text in texts.items():
            (partial / name).write_text(text)
        with open(partial / STATE_FILE, "wb") as file:
            _write(state, file)
            file.flush()
            os.fsync(file.fileno())
        if final.exists():  # a run that was resumed from before this step
            _discard(final)
        os.replace(partial, final)
        _flush_folder(root)
    except OSError as error:
        raise OSError(
            f"checkpoint-{step} could not be written to {root} ({error}); earlier checkpoints are untouched. "
            "Free some space there, or lower checkpoints_total_limit."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if limit:
        for old in list_checkpoints(root)[:-limit]:
            _discard(old)
    return final


def _write(state: Mapping[str, Any], file: Any) -> None:
    """torch.save, whose zip writer hides the disk's error behind one of its own."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        cause = error.__context__ or error
        raise (cause if isinstance(cause, OSError) else OSError(str(error).splitlines()[0])) from error


def _discard(checkpoint: Path) -> None:
    """Remove a checkpoint; it stops being one at once, by a rename, however long the removal takes."""
    hidden = checkpoint.with_name(f".partial-old-{checkpoint.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    os.replace(checkpoint, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _flush_folder(folder: Path) -> None:
    """A rename survives a power cut only when its folder was flushed too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(output_dir: str | Path, which: str) -> dict[str, Any] | None:
    """The state of the checkpoint `which`: "latest" (None if there is none yet) or a folder.

    "latest" passes over a checkpoint whose file is broken, with a warning, to the one before it.

    Raises:
        ValueError: the named folder holds no checkpoint, or nothing that is there can be read.
    """
    if which != "latest":
        folder = Path(which)
        if not (folder / STATE_FILE).is_file():
            there = ", ".join(str(p) for p in list_checkpoints(output_dir)) or "none"
            raise ValueError(
                f"resume_from_checkpoint={which!r}: no {STATE_FILE} there; give a checkpoint-N folder or "
                f"'latest' (complete checkpoints in {output_dir}: {there})."
            )
        return _read(folder)
    found = list_checkpoints(output_dir)
    for folder in reversed(found):
        try:
            return _read(folder)
        except ValueError as error:
            _log.warning("%s", error)
    if found:
        raise ValueError(f"none of the {len(found)} checkpoints in {output_dir} can be read; see above.")
    return None


def _read(folder: Path) -> dict[str, Any]:
    try:
        return torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{folder / STATE_FILE} can't be read ({str(error).splitlines()[0]}); remove that folder and "
            "resume from the one before."
        ) from error
