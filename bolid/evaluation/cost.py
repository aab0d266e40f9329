"""What a model costs: bytes on disk, seconds a picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from bolid import metrics
from bolid.evaluation.calls import Call, DrawOptions
from bolid.evaluation.gates import Gate
from bolid.evaluation.pairs import Pairs
from bolid.metrics import Interval

STEPS, CALLS = 20, 5


def cost_gates(pipe: Any, folder: str, pairs: Pairs) -> list[Gate]:
    """Size of the folder (left out for a Hub repository), and seconds for one picture at `STEPS` steps.

    The time is that of this machine now, reference included; other work on it makes it longer.
    """
    found = []
    if Path(folder).is_dir():
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
        found.append(Gate("Size", "MB on disk", "at most", 30, Interval(size, size, size, 1)))
    seconds = []
    for row in range(CALLS + 1):
        began = time.perf_counter()
        Call()(pipe, pairs, slice(row, row + 1), DrawOptions(steps=STEPS))
        seconds.append(time.perf_counter() - began)
    measured = metrics.bootstrap(np.array(seconds[1:]))  # the first call warms up
    return [*found, Gate("Speed", f"seconds a picture, {STEPS} steps", "at most", 2, measured)]
