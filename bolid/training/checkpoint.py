"""Training state on disk: written whole or not at all, found again, pruned."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

STATE_FILE = "state.pt"
_NAME = re.compile(r"checkpoint-(\d+)")


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints under `output_dir`, oldest first."""
    found = [
        p
        for p in Path(output_dir).glob("checkpoint-*")
        if _NAME.fullmatch(p.name) and (p / STATE_FILE).is_file()
    ]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]))


def save_checkpoint(
    output_dir: str | Path, step: int, state: dict[str, Any], texts: dict[str, str], limit: int
) -> Path:
    """Write `checkpoint-{step}` atomically and prune old ones down to `limit` (0 keeps all).

    Everything goes into a hidden folder first, is flushed to disk and renamed: a kill at any moment leaves
    either
    the whole checkpoint or none. `texts` maps file names to contents (the resolved config, for example).

    Raises:
        OSError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    root = Path(output_dir)
    root.mkdir(parents=True, exist_ok=True)
    final, partial = root / f"checkpoint-{step}", root / f".partial-{step}-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with open(partial / STATE_FILE, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        for name, text in texts.items():
            (partial / name).write_text(text)
        if final.exists():  # a run that was resumed from before this step
            shutil.rmtree(final)
        os.replace(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for leftover in root.glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if limit:
        for old in list_checkpoints(root)[:-limit]:
            shutil.rmtree(old)
    return final


def load_checkpoint(output_dir: str | Path, which: str) -> dict[str, Any] | None:
    """The state of the checkpoint `which`: "latest" (None if there is none yet) or a folder.

    Raises:
        ValueError: the named folder holds no checkpoint, or the file is broken.
    """
    if which == "latest":
        found = list_checkpoints(output_dir)
        if not found:
            return None
        folder = found[-1]
    else:
        folder = Path(which)
        if not (folder / STATE_FILE).is_file():
            raise ValueError(
                f"resume_from_checkpoint={which!r}: no {STATE_FILE} there; give a checkpoint-N folder or "
                f"'latest'."
            )
    try:
        return torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{folder / STATE_FILE} can't be read ({error}); remove that folder and resume from the one "
            f"before."
        ) from error
