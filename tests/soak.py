"""Many visitors at once, for a bounded time: `python tests/soak.py [--users 20] [--seconds 300]`.

Starts `app.py` on a free port (this machine only), measures page and first picture, lets one user draw alone
(which also tells what each picture must be), then all of them together, then one again, and stops by itself,
after the given time and what the single user takes. Exit code 1
where something is amiss: an error other than "queue is full", another's picture, less than 80 % of the single
user's pictures per second, or a growth of the server's memory by more than 5 %.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client, handle_file

ROOT = Path(__file__).resolve().parents[1]
PEOPLE = sorted((ROOT / "examples" / "people").glob("*.png"))
POSES = ("standing", "sitting", "waving", "running", "kneeling")
SEEDS = 2  # pictures that each user asks for, in turn
WARM = 0.2  # share of the time after which memory is compared with the end
FULL = "Queue is full"


@dataclass
class Tally:
    """What the users report. Guarded by `lock`."""

    done: int = 0
    full: int = 0
    waits: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextlib.contextmanager
def running_app(*options: str) -> Iterator[tuple[str, int, float]]:
    """`app.py` as people start it: (address, process id, seconds until it answers its page)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, started = f"http://127.0.0.1:{port}/", time.monotonic()
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(address, timeout=5).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() - started > 600:
                raise RuntimeError(f"app.py did not come up (exit code {process.poll()})")
            time.sleep(0.1)
        yield address, process.pid, time.monotonic() - started
    finally:
        process.terminate()
        process.wait(20)


def request(user: int, turn: int) -> dict[str, Any]:
    """What user `user` asks for in turn `turn`: person, pose and seed of its own."""
    return {
        "reference": handle_file(PEOPLE[user % len(PEOPLE)]),
        "pose": POSES[user % len(POSES)],
        "seed": 100 * user + turn % SEEDS,
        "prompt": "in a park",
    }


def draw(client: Client, user: int, turn: int) -> str:
    """One picture; its hash. Raises what the client raises."""
    pictures, report = client.predict(**request(user, turn), api_name="/generate")
    path = Path(pictures[0]["image"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    if report[0]["seed"] != 100 * user + turn % SEEDS:
        return f"seed {report[0]['seed']}"
    return digest


def memory_mb(process: int) -> float:
    """Resident memory in MB (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def cpu_seconds(process: int) -> float:
    """CPU time that the process has used (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def visit(address: str, folder: str, user: int, truth: dict[Any, str], until: float, tally: Tally) -> None:
    """One user who draws again and again until the time is over."""
    client, turn = Client(address, verbose=False, download_files=folder), 0
    while time.monotonic() < until:
        asked = time.monotonic()
        try:
            found, wrong = draw(client, user, turn), ""
            if found != truth[user, turn % SEEDS]:
                wrong = f"user {user} got another picture"
        except Exception as error:  # every error is counted and told at the end
            found, wrong = "", f"{type(error).__name__}: {error}"
        with tally.lock:
            if FULL in wrong:
                tally.full += 1
            elif wrong:
                tally.wrong.append(wrong)
            else:
                tally.done += 1
                tally.waits.append(time.monotonic() - asked)
        if wrong:
            time.sleep(1)  # as a polite client would
        turn += 1


def alone(client: Client, users: int) -> tuple[dict[Any, str], list[float]]:
    """What every user will ask for, drawn by one: the pictures' hashes, and seconds per picture."""
    truth, times = {}, []
    for user in range(users):
        for turn in range(SEEDS):
            started = time.monotonic()
            truth[user, turn] = draw(client, user, turn)
            times.append(time.monotonic() - started)
    return truth, times


def together(address: str, folder: str, truth: dict[Any, str], users: int, seconds: float) -> Tally:
    """All users at once, until the time is over."""
    tally, until = Tally(), time.monotonic() + seconds
    threads = [
        threading.Thread(target=visit, args=(address, folder, user, truth, until, tally))
        for user in range(users)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def preview_seconds(client: Client) -> float:
    """Median of five pose previews."""
    times = []
    for _ in range(5):
        started = time.monotonic()
        client.predict(pose="waving", reference=handle_file(PEOPLE[0]), api_name="/pose_preview")
        times.append(time.monotonic() - started)
    return statistics.median(times)


def soak(address: str, process: int, users: int, seconds: float, folder: str) -> dict[str, Any]:
    """The single user, then all of them, then the single one again; the figures.

    The single user's rate is the mean of before and after: other work on the machine may come and go.
    """
    client = Client(address, verbose=False, download_files=folder)
    started = time.monotonic()
    draw(client, 0, 0)
    first = time.monotonic() - started
    truth, before = alone(client, users)
    preview, used = preview_seconds(client), cpu_seconds(process)
    warm: list[float] = []
    watch = threading.Timer(WARM * seconds, lambda: warm.append(memory_mb(process)))
    watch.start()
    begun = time.monotonic()
    tally = together(address, folder, truth, users, seconds)
    took, used, end = time.monotonic() - begun, cpu_seconds(process) - used, memory_mb(process)
    watch.join()
    after = alone(client, users)[1]
    single = (1 / statistics.mean(before) + 1 / statistics.mean(after)) / 2
    return {
        "first_picture_s": first, "picture_s": statistics.median(before + after), "preview_s": preview,
        "alone_per_s": [1 / statistics.mean(before), 1 / statistics.mean(after)],
        "together_per_s": tally.done / took, "share": tally.done / took / single, "pictures": tally.done,
        "longest_wait_s": max(tally.waits, default=0.0), "server_cores": used / took,
        "load": os.getloadavg()[1], "queue_full": tally.full, "memory_warm_mb": warm[0], "memory_end_mb": end,
        "memory_growth": end / warm[0] - 1, "wrong": tally.wrong[:5], "wrongs": len(tally.wrong),
    }  # fmt: skip


def main() -> int:
    """Run it; print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Many users at once on this machine's own app.py.")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_app() as (address, process, up):
        figures = soak(address, process, options.users, options.seconds, folder)
    figures = {"page_s": up} | figures
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    right = not figures["wrongs"] and figures["share"] >= 0.8 and abs(figures["memory_growth"]) <= 0.05
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
