"""The README's screenshots: `python tests/space_screenshots.py` writes docs/space-{desktop,phone,dark}.png.

Needs playwright and Debian's chromium, and bolid-mini.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]
from soak import running_app

DOCS = Path(__file__).resolve().parents[1] / "docs"
PERSON = DOCS.parent / "examples" / "people" / "plaid.png"
SHOTS = {  # name -> (width, height, dark)
    "desktop": (1400, 1180, False),
    "phone": (390, 1200, False),
    "dark": (1400, 1180, True),
}
LARGEST = 250_000  # bytes of one file
PATIENCE = 300_000  # milliseconds


def drawn(page: Any) -> None:
    """Two pictures of an example person on the page."""
    page.set_input_files("#reference input[type=file]", str(PERSON))
    page.get_by_text("Person found").wait_for()
    page.fill("#prompt textarea", "in the snow")
    page.fill("#count input[type=number]", "2")
    page.keyboard.press("Tab")
    page.locator("#generate").click()
    page.get_by_text("2 pictures done").wait_for()
    page.locator("#download:not([disabled])").wait_for()
    page.wait_for_timeout(1500)  # pictures still load


def save(data: bytes, path: Path) -> None:
    """As a PNG of few colours, small enough for a README. Raises ValueError if it is not."""
    with Image.open(io.BytesIO(data)) as opened:
        opened.convert("RGB").quantize(256).save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes; at most {LARGEST} are wanted")


def main() -> None:
    """Start the Space, take the pictures, end it."""
    with running_app() as (address, _, _), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (width, height, dark) in SHOTS.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(PATIENCE)
            page.goto(f"{address}?__theme={'dark' if dark else 'light'}", timeout=PATIENCE)
            page.wait_for_selector('#pose-editor [data-joint="4"]')
            drawn(page)
            if name == "phone":
                page.evaluate("document.querySelector('#live').scrollIntoView()")
            else:
                page.evaluate("scrollTo(0, 0)")
            page.wait_for_timeout(500)
            save(page.screenshot(), DOCS / f"space-{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
