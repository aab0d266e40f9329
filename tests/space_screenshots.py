"""The README's screenshots: `python tests/space_screenshots.py` writes docs/space-{desktop,phone,dark}.png.

Needs playwright and Debian's chromium, and bolid-mini.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]
from soak import running_app

DOCS = Path(__file__).resolve().parents[1] / "docs"
PERSON = DOCS.parent / "examples" / "people" / "plaid.png"
SHOTS = {  # name -> (width, height, dark, what stands at the top: one screen each, side by side)
    "desktop": (1400, 1180, False, ("#head",)),
    "phone": (390, 844, False, ("#head", "#poses", "#live")),
    "dark": (1400, 1180, True, ("#head",)),
}
GAP, BETWEEN = 20, (128, 130, 140)  # pixels between two screens, and their colour
LARGEST = 250_000  # bytes of one file
COMMON = 64  # colours of 256 that are kept as they are
PATIENCE = 120_000  # milliseconds


def drawn(page: Any) -> None:
    """Two pictures of an example person on the page."""
    page.set_input_files("#reference input[type=file]", str(PERSON))
    page.get_by_text("Person found").wait_for()
    page.fill("#prompt textarea", "in the snow")
    folded = page.get_by_role("button", name="steps, guidance, size")
    folded.click()
    page.wait_for_timeout(800)  # while it opens, the page sets its controls once more
    page.fill("#count input[type=number]", "2")
    page.keyboard.press("Tab")
    page.locator("#generate").click()
    page.get_by_text("2 pictures done").wait_for()
    page.locator("#download:not([disabled])").wait_for()
    folded.click()  # folded before, the number was lost now and then
    page.wait_for_timeout(1500)  # pictures still load


def joined(screens: list[bytes]) -> Image.Image:
    """Screens of one size (PNG) side by side."""
    pictures = [Image.open(io.BytesIO(each)).convert("RGB") for each in screens]
    width, height = pictures[0].size
    canvas = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), BETWEEN)
    for place, picture in enumerate(pictures):
        canvas.paste(picture, (place * (width + GAP), 0))
    return canvas


def save(picture: Image.Image, path: Path) -> None:
    """As a PNG small enough for a README, of fewer colours if need be. Raises ValueError if it is too large.

    The palette holds the commonest colours (the page's own greys), and for the rest is made of
    the colours that occur, each counted once: by area, the thin bones of the skeletons would lose theirs.
    """
    picture.save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        colours, counts = np.unique(np.asarray(picture).reshape(-1, 3), axis=0, return_counts=True)
        common = colours[np.argsort(-counts)[:COMMON]]
        rest = Image.fromarray(colours[None]).quantize(256 - COMMON, kmeans=1).getpalette() or []
        palette = Image.new("P", (1, 1))
        palette.putpalette([*common.ravel().tolist(), *rest[: 3 * (256 - COMMON)]])
        picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes; at most {LARGEST} are wanted")


def screens(page: Any, tops: tuple[str, ...]) -> list[bytes]:
    """What the window shows with each of `tops` at its upper edge."""
    found = []
    for top in tops:
        page.evaluate("(top) => document.querySelector(top).scrollIntoView()", top)
        page.wait_for_timeout(500)
        found.append(page.screenshot())
    return found


def main() -> None:
    """Start the Space, take the pictures, end it."""
    with running_app() as (address, _, _), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (width, height, dark, tops) in SHOTS.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(PATIENCE)
            page.goto(f"{address}?__theme={'dark' if dark else 'light'}", timeout=PATIENCE)
            page.wait_for_selector('#pose-editor [data-joint="4"]')
            drawn(page)
            save(joined(screens(page, tops)), DOCS / f"space-{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
