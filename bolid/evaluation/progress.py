"""One line of progress with the time that is left."""

from __future__ import annotations

import sys
import time


class Progress:
    """Counts pictures of this process; those that were kept from before do not count for the rate."""

    def __init__(self, total: int, show: bool = True) -> None:
        self.total, self._show = total, show
        self.done = self._kept = 0
        self._began = time.perf_counter()

    def add(self, count: int, what: str, kept: bool = False) -> None:
        """`count` more pictures of row `what`."""
        self.done += count
        self._kept += count if kept else 0
        if self._show:
            sys.stderr.write(f"\r{self.line(what)}   ")
            sys.stderr.flush()

    def line(self, what: str) -> str:
        """`row: 320/2000, 3.1/s, 9 min 2 s left`."""
        seconds = time.perf_counter() - self._began
        drawn = self.done - self._kept
        if not drawn:
            return f"{what}: {self.done}/{self.total}"
        rate = drawn / max(seconds, 1e-9)
        left = duration((self.total - self.done) / rate)
        return f"{what}: {self.done}/{self.total}, {rate:.1f}/s, {left} left"

    def close(self) -> None:
        """Ends the line."""
        if self._show:
            sys.stderr.write("\n")


def duration(seconds: float) -> str:
    """`45 s`, `9 min 2 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"
