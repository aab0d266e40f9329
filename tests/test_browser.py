"""The page as people use it, in headless Chromium: `pytest -m browser` (playwright and Debian's chromium).

On bolid-mini where models/bolid-mini is there, else skipped: a model of random weights finds nobody.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
PERSON = ROOT / "examples" / "people" / "plaid.png"
WRIST = '#pose-editor [data-joint="4"]'
MINUTE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page on a free port."""
    if not (ROOT / "models" / "bolid-mini" / "model_index.json").is_file():
        pytest.skip("models/bolid-mini is not there")
    from bolid.__main__ import find_model, load
    from bolid.space.serve import make_app, serve
    from bolid.space.studio import Studio

    blocks = make_app(Studio(load(find_model(None), "cpu"), "bolid-mini"), ROOT / "examples")
    yield serve(blocks, "127.0.0.1", None, False, prevent_thread_lock=True, quiet=True)[1]
    blocks.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, headless."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A fresh visit, desktop size."""
    tab = browser.new_page(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    tab.set_default_timeout(MINUTE)
    tab.goto(address)
    tab.wait_for_selector(WRIST)
    yield tab
    tab.close()


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


def test_upload_generate_download_and_reload(page: Any, tmp_path: Path) -> None:
    upload(page)
    page.fill("#prompt textarea", "in the snow")
    page.get_by_role("button", name="Generate").click()
    results(page)
    source = page.locator("#results img").first.get_attribute("src")
    file = tmp_path / "result.png"
    file.write_bytes(page.request.get(source).body())
    page.fill("#prompt textarea", "something else")
    page.set_input_files('input[type=file][accept=".png"]', str(file))
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'in the snow'")


def test_a_dragged_joint_moves_the_preview(page: Any) -> None:
    before, preview = page.locator(WRIST).get_attribute("aria-label"), "#pose-preview img"
    old = page.locator(preview).get_attribute("src")
    drag(page, WRIST, (-40, -60))
    assert page.locator(WRIST).get_attribute("aria-label") != before
    page.wait_for_function("([s, old]) => document.querySelector(s).src !== old", arg=[preview, old])


def test_joints_move_by_keyboard_and_come_back(page: Any) -> None:
    count = page.locator("#pose-editor [data-joint]").count()
    before = page.locator(WRIST).get_attribute("aria-label")
    page.locator(WRIST).focus()
    page.keyboard.press("Shift+ArrowLeft")
    assert page.locator(WRIST).get_attribute("aria-label") != before
    page.keyboard.press("Delete")
    assert page.locator("#pose-editor [data-joint]").count() == count - 1
    page.get_by_role("button", name="Reset").first.click()
    page.wait_for_function("([s, t]) => document.querySelector(s)?.ariaLabel === t", arg=[WRIST, before])


def test_stop_ends_the_drawing(page: Any) -> None:
    upload(page)
    page.fill("#steps input[type=number]", "50")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("step 2 of 50").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()


def test_without_a_reference_nobody_is_drawn(page: Any) -> None:
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("There is no reference picture").wait_for()


def test_the_page_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
