"""What a visitor of the Space's page does, for the browser tests (fixtures: `conftest.py`)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
PERSON = ROOT / "examples" / "people" / "plaid.png"
WRIST = '#pose-editor [data-joint="4"]'
PHONE = {"width": 390, "height": 844}
PATIENCE = 120_000  # milliseconds; a machine that is busy with other things is slow


def upload(page: Any) -> None:
    page.set_input_files("#reference input[type=file]", str(PERSON))
    page.get_by_text("Person found").wait_for()


def drag(page: Any, joint: str, by: tuple[int, int]) -> None:
    place = page.locator(joint)
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by[0], y + by[1], steps=4)
    page.mouse.up()


def results(page: Any, count: int = 1) -> None:
    page.get_by_text(f"{count} picture{'s' if count > 1 else ''} done").wait_for()
    page.locator("#generate:not([disabled])").wait_for()


def number(page: Any, name: str, value: int) -> None:
    """A number typed, once more where the page, busy opening the section, put its own back."""
    box = page.locator(f"#{name} input[type=number]")
    for _ in range(5):
        box.fill(str(value))
        page.keyboard.press("Tab")
        page.wait_for_timeout(200)
        if box.input_value() == str(value):
            return
    raise AssertionError(f"{name} does not keep {value}")


def generate(page: Any, steps: int, count: int = 1) -> None:
    """Fewer steps than usual: what the page does is under test, not the picture."""
    page.get_by_role("button", name="steps, guidance, size").click()
    number(page, "steps", steps)
    number(page, "count", count)
    page.locator("#generate").click()


def download(page: Any, path: Path) -> Path:
    page.locator("#download:not([disabled])").wait_for()
    with page.expect_download() as told:
        page.locator("#download").click()
    told.value.save_as(path)
    return path


@contextlib.contextmanager
def others_drawing(address: str, count: int) -> Iterator[None]:
    """Long drawings of other visitors, cancelled at the end."""
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False)
    long = {"reference": handle_file(PERSON), "steps": 50, "count": 4, "api_name": "/generate"}
    jobs = [client.submit(**long) for _ in range(count)]
    while any(job.status().code.name in ("STARTING", "JOINING_QUEUE") for job in jobs):
        time.sleep(0.1)
    yield
    for job in jobs:
        job.cancel()


def bad_pictures(folder: Path) -> dict[str, str]:
    """File name -> what the page says of it. The photograph is a stand-in: shading, texture, sensor noise."""
    (folder / "notes.png").write_text("no picture")
    (folder / "broken.png").write_bytes(PERSON.read_bytes()[:900])
    Image.new("1", (20_000, 100)).save(folder / "huge.png")
    coarse = np.random.default_rng(0).normal(128, 45, (12, 8, 3)).clip(0, 255).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((512, 768), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(1).normal(0, 6, (768, 512, 3))
    Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)).save(folder / "photo.png")
    Image.new("RGB", (128, 192), "lightblue").save(folder / "empty.png")
    return {
        "notes.png": "is not a picture", "broken.png": "damaged", "huge.png": "too large",
        "photo.png": "looks like a photograph", "empty.png": "o person was found",
    }  # fmt: skip
