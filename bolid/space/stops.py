"""Which drawings of which visitors are running, so that Stop ends them at the next step."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stops:
    """One flag per running drawing, by visitor. Gradio's own cancelling closes a generator from outside,
    which the page at times shows as an error; a drawing that ends by itself is shown as done.
    """

    def __init__(self) -> None:
        self._running: dict[str, list[threading.Event]] = {}
        self._lock = threading.Condition()

    @contextmanager
    def running(self, visitor: str) -> Iterator[threading.Event]:
        """For the time of a drawing: its flag, which `stop` sets."""
        flag = threading.Event()
        with self._lock:
            self._running.setdefault(visitor, []).append(flag)
        try:
            yield flag
        finally:
            with self._lock:
                self._running[visitor].remove(flag)
                if not self._running[visitor]:
                    del self._running[visitor]
                self._lock.notify_all()

    def stop(self, visitor: str, patience: float = 10.0) -> bool:
        """Set the visitor's flags and wait until those drawings have ended, `patience` seconds at most.

        Returns whether any was running.
        """
        until = time.monotonic() + patience
        with self._lock:
            flags = list(self._running.get(visitor, ()))
            for flag in flags:
                flag.set()
            while any(flag in self._running.get(visitor, ()) for flag in flags):
                left = until - time.monotonic()
                if left <= 0 or not self._lock.wait(left):
                    break
        return bool(flags)
