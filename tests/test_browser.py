"""The page as people use it, in headless Chromium: `pytest -m browser` (playwright and Debian's chromium).

On bolid-mini where models/bolid-mini is there, else skipped: a model of random weights finds nobody.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
PERSON = ROOT / "examples" / "people" / "plaid.png"
WRIST = '#pose-editor [data-joint="4"]'
PATIENCE = 120_000  # milliseconds; a machine that is busy with other things is slow


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page on a free port."""
    if not (ROOT / "models" / "bolid-mini" / "model_index.json").is_file():
        pytest.skip("models/bolid-mini is not there")
    from bolid.__main__ import find_model, load
    from bolid.space.measures import choose_networks
    from bolid.space.serve import make_app, serve
    from bolid.space.studio import Studio

    pipe = load(find_model(None), "cpu")
    studio = Studio(pipe, "bolid-mini", choose_networks(pipe, ROOT / "models" / "evaluators"))
    blocks = make_app(studio, ROOT / "examples")
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
    tab.set_default_timeout(PATIENCE)
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
    page.locator("#generate:not([disabled])").wait_for()


def generate(page: Any, steps: int, count: int = 1) -> None:
    """Fewer steps than usual: what the page does is under test, not the picture."""
    page.get_by_role("button", name="Steps, guidance, size").click()
    page.fill("#steps input[type=number]", str(steps))
    page.keyboard.press("Tab")
    page.fill("#count input[type=number]", str(count))
    page.keyboard.press("Tab")
    page.locator("#generate").click()


def download(page: Any, path: Path) -> Path:
    page.locator("#download:not([disabled])").wait_for()
    with page.expect_download() as told:
        page.locator("#download").click()
    told.value.save_as(path)
    return path


def wrist_height(file: Path) -> float:
    """Where the evaluator, which is no part of the pipeline, finds the right wrist: 0 top, 1 bottom."""
    from bolid.evaluators import PoseEvaluator

    evaluator = PoseEvaluator.from_pretrained(ROOT / "models" / "evaluators" / "pose")
    with Image.open(file) as picture:
        return float(evaluator.predict(np.array(picture.convert("RGB"))[None])[0, 4, 1])


def test_upload_preview_generate_download_and_reload(page: Any, tmp_path: Path) -> None:
    from bolid.space.settings import read_settings

    upload(page)
    page.locator("#found img").wait_for()
    page.fill("#prompt textarea", "in the snow")
    generate(page, 4, 2)
    results(page, 2)
    page.get_by_text("ID similarity").first.wait_for()
    file = download(page, tmp_path / "result.png")
    assert read_settings(str(file))["prompt"] == "in the snow"
    page.fill("#prompt textarea", "something else")
    page.set_input_files('input[type=file][accept=".png"]', str(file))
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'in the snow'")
    page.get_by_text("most like the person").click()  # two pictures: they can be ordered
    assert page.locator("#results img").count() >= 2


def test_a_dragged_joint_is_followed_by_preview_and_picture(page: Any, tmp_path: Path) -> None:
    """The right arm goes up; the drawn person's right wrist is found higher than before."""
    upload(page)
    generate(page, 12)
    results(page)
    before = wrist_height(download(page, tmp_path / "before.png"))
    box = page.locator("#pose-editor svg").bounding_box()
    old = page.locator("#pose-preview img").get_attribute("src")
    drag(page, '#pose-editor [data-joint="3"]', (-round(0.06 * box["width"]), -round(0.16 * box["height"])))
    drag(page, WRIST, (-round(0.06 * box["width"]), -round(0.42 * box["height"])))
    arg = ["#pose-preview img", old]
    page.wait_for_function("([s, old]) => document.querySelector(s).src !== old", arg=arg)
    page.locator("#generate").click()
    page.locator("#generate[disabled]").wait_for()  # for as long as it draws; the old "done" still stands
    results(page)
    assert wrist_height(download(page, tmp_path / "after.png")) < before - 0.15


def test_vary_and_sweep(page: Any) -> None:
    upload(page)
    generate(page, 2)
    results(page)
    page.locator("#vary").click()
    results(page, 4)
    page.get_by_role("button", name="Strength sweep").click()
    page.locator("#sweep").click()
    page.locator("#strip img").wait_for()


def test_other_poses_and_comparison(page: Any) -> None:
    upload(page)
    generate(page, 2)
    results(page)
    page.get_by_role("button", name="Compare with the reference").click()
    page.locator("#compare img").first.wait_for()
    page.locator("#others").click()
    results(page, 4)
    page.locator("#results .thumbnail-item").nth(2).click()
    page.locator("#details").get_by_text("hands on hips").wait_for()  # the third after "standing"


def test_several_pictures_of_one_person(page: Any) -> None:
    upload(page)
    page.get_by_role("button", name="More pictures of the same person").click()
    page.set_input_files("#more input[type=file]", str(PERSON.with_name("cap.png")))
    page.get_by_text("Picture 2: person found").wait_for()


def test_joints_move_by_keyboard_and_come_back(page: Any) -> None:
    count = page.locator("#pose-editor [data-joint]").count()
    before = page.locator(WRIST).get_attribute("aria-label")
    page.locator(WRIST).focus()
    page.keyboard.press("Shift+ArrowLeft")
    assert page.locator(WRIST).get_attribute("aria-label") != before
    page.keyboard.press("Delete")
    assert page.locator("#pose-editor [data-joint]").count() == count - 1
    page.locator('#pose-editor [data-do="reset"]').click()
    page.wait_for_function("([s, t]) => document.querySelector(s)?.ariaLabel === t", arg=[WRIST, before])


def test_stop_ends_the_drawing_without_an_error(page: Any) -> None:
    upload(page)
    generate(page, 50, 4)
    page.get_by_text("of 4, step").first.wait_for()
    assert page.locator("#generate").is_disabled()  # a second click does nothing
    page.locator("#stop").click()
    page.get_by_text("Stopped.").wait_for()
    page.locator("#generate:not([disabled])").wait_for()
    assert page.locator("#live .error").count() == 0
    assert page.get_by_text("Error", exact=True).count() == 0


def test_without_a_reference_nobody_is_drawn(page: Any) -> None:
    page.locator("#generate").click()
    page.get_by_text("There is no reference picture").first.wait_for()
    page.get_by_text("Not drawn").wait_for()
    page.locator("#generate:not([disabled])").wait_for()


def test_a_text_file_is_told_in_words(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    page.set_input_files("#reference input[type=file]", str(tmp_path / "notes.png"))
    page.get_by_text("is not a picture").first.wait_for()
    assert page.get_by_text("Traceback").count() == 0


def test_the_keyboard_reaches_the_button(page: Any) -> None:
    """From the seed on, Tab comes to Generate, and Enter presses it."""
    page.locator("#seed input").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "generate":
            break
    page.keyboard.press("Enter")
    page.get_by_text("There is no reference picture").first.wait_for()


def test_the_page_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
