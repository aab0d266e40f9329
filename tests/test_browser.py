"""The page as people use it, in headless Chromium: `pytest -m browser` (playwright and Debian's chromium).

On bolid-mini where models/bolid-mini is there, else skipped: a model of random weights finds nobody.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from visitor import (
    PERSON,
    ROOT,
    WRIST,
    bad_pictures,
    download,
    drag,
    generate,
    others_drawing,
    results,
    upload,
)

pytestmark = pytest.mark.browser


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


SLOW_STREAM = """(late) => { const fetch = window.fetch; window.fetch = async (...given) => {
  const answer = await fetch(...given);
  if (!String(given[0].url ?? given[0]).includes('queue/data')) return answer;
  const pause = () => new Promise((go) => setTimeout(go, late));
  const later = { transform: async (part, out) => { await pause(); out.enqueue(part); } };
  return new Response(answer.body.pipeThrough(new TransformStream(later)), answer); }; }"""


def test_stop_is_the_last_word_on_a_slow_machine(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the news come late out of the drawing and to the page: nothing is cancelled under its hands."""
    from bolid.space.drawings import Drawings

    run = Drawings.run

    def slow(self: Drawings, *given: Any) -> Iterator[Any]:
        yield from run(self, *given)
        time.sleep(1)

    monkeypatch.setattr(Drawings, "run", slow)
    upload(page)
    page.evaluate(SLOW_STREAM, 400)  # ms for each of the news, of which a fast machine makes many
    generate(page, 50, 4)
    page.get_by_text("of 4, step").first.wait_for()
    page.locator("#stop").click()
    page.locator("#generate:not([disabled])").wait_for()
    page.wait_for_timeout(3000)
    assert page.locator("#live").inner_text().strip() == "Stopped."
    assert page.locator("#live .error").count() == 0


def test_stop_after_the_end_lets_the_last_news_come(page: Any) -> None:
    """On a slow line, where the pictures are all drawn when the page shows the first step."""
    upload(page)
    page.evaluate(SLOW_STREAM, 1500)
    generate(page, 2, 2)
    page.get_by_text("of 2, step").first.wait_for()
    page.wait_for_timeout(1000)
    page.locator("#stop").click()
    page.wait_for_timeout(500)
    assert page.get_by_text("Stopped.").count() == 0
    assert page.locator("#generate").is_disabled()  # until all has come
    results(page, 2)
    assert page.locator("#results .thumbnail-item").count() == 2


def test_without_a_reference_nobody_is_drawn(page: Any) -> None:
    page.locator("#generate").click()
    page.get_by_text("There is no reference picture").first.wait_for()
    page.get_by_text("Not drawn").wait_for()
    page.locator("#generate:not([disabled])").wait_for()


def test_a_bad_picture_is_told_in_words_and_nobody_is_drawn(page: Any, tmp_path: Path) -> None:
    """One after the other on one page, which lives on: at the end a good picture is drawn."""
    for name, words in bad_pictures(tmp_path).items():
        page.set_input_files("#reference input[type=file]", str(tmp_path / name))
        page.locator("#found-words .bad").get_by_text(words).wait_for()
        page.locator("#found-words").get_by_text("python app.py --model").wait_for()  # the way on
        with page.expect_response(re.compile("queue/join")):  # by then the last news are gone
            page.locator("#generate").click()
        page.get_by_text("Not drawn").wait_for()
        page.locator("#generate:not([disabled])").wait_for()
        assert page.locator("#results .thumbnail-item").count() == 0
        page.locator("#reference").get_by_label("Remove Image").click()
        page.get_by_text("No reference yet").wait_for()
    upload(page)
    generate(page, 2)
    results(page)
    assert page.get_by_text("Traceback").count() == 0


def test_a_long_prompt_and_html_are_taken_as_text(page: Any) -> None:
    alarms: list[Any] = []
    page.on("dialog", lambda dialog: (alarms.append(dialog), dialog.dismiss()))
    upload(page)
    page.fill("#prompt textarea", "x" * 10_000)
    page.locator("#generate").click()
    page.get_by_text("10,000 characters").first.wait_for()
    page.locator("#generate:not([disabled])").wait_for()
    words = "<img src=x onerror=alert(1)> <b>in the snow</b>"
    page.fill("#prompt textarea", words)
    generate(page, 2)
    results(page)
    page.locator("#details").get_by_text(words).wait_for()
    assert page.locator("#details img, #details b").count() == 0
    assert not alarms


def test_poses_come_from_gallery_picture_reference_and_none(page: Any) -> None:
    def wrist() -> str | None:
        return page.locator(WRIST).get_attribute("aria-label")

    def changes(act: Any) -> None:
        pose, preview = wrist(), page.locator("#pose-preview img").get_attribute("src")
        act()
        page.wait_for_function("([s, t]) => document.querySelector(s)?.ariaLabel !== t", arg=[WRIST, pose])
        page.wait_for_function(
            "([s, t]) => document.querySelector(s)?.src !== t", arg=["#pose-preview img", preview]
        )

    upload(page)
    changes(lambda: page.get_by_role("button", name="sitting", exact=True).click())
    changes(page.get_by_role("button", name="The reference's own pose").click)
    page.get_by_role("tab", name="From a picture").click()
    jumping = str(ROOT / "examples" / "poses" / "jumping.png")
    changes(lambda: page.set_input_files("#pose-picture input[type=file]", jumping))
    page.get_by_role("button", name="Free pose").click()
    page.get_by_text("free pose: choose one").wait_for()
    page.locator("#pose-preview img").wait_for(state="detached")
    generate(page, 2)
    results(page)
    page.locator("#details").get_by_text("free").wait_for()


def test_joints_are_added_hidden_and_mirrored(page: Any) -> None:
    def labels() -> list[str]:
        found = page.locator("#pose-editor [data-joint]")
        return [found.nth(place).get_attribute("aria-label") for place in range(found.count())]

    first = labels()
    page.locator(WRIST).focus()
    page.get_by_role("button", name="Remove joint").click()
    assert len(labels()) == len(first) - 1
    page.get_by_label("add a joint").select_option(label="right wrist")
    page.wait_for_function("s => document.querySelector(s)", arg=WRIST)
    assert len(labels()) == len(first)
    page.get_by_role("button", name="Behind / seen").click()
    assert "hidden behind the body" in page.locator(WRIST).get_attribute("aria-label")
    page.get_by_role("button", name="Mirror").click()
    assert "hidden behind the body" in page.locator('#pose-editor [data-joint="7"]').get_attribute(
        "aria-label"
    )
    for _ in range(4):
        page.get_by_role("button", name="Undo").click()
    assert labels() == first


def test_a_place_in_the_queue_is_shown_and_given_back(page: Any, space_address: str) -> None:
    """Others are drawing: the page says its place, Stop leaves the queue, and the others get theirs."""
    upload(page)
    with others_drawing(space_address, 2):
        page.locator("#generate").click()
        page.locator("#live").get_by_text(re.compile(r"queue: \d+/\d+")).wait_for()
        page.locator("#stop").click()
        page.get_by_text("Stopped.").wait_for()
        page.locator("#generate:not([disabled])").wait_for()
    page.locator("#generate").click()  # would hang if the first one still waited
    results(page)


def test_a_full_queue_is_told_and_the_page_lives_on(page: Any, space_address: str) -> None:
    from bolid.space.serve import MAX_QUEUE

    upload(page)
    with others_drawing(space_address, MAX_QUEUE + 3):
        page.locator("#generate").click()
        page.get_by_text("busy").first.wait_for()
        page.get_by_text("Not drawn").wait_for()
        page.locator("#generate:not([disabled])").wait_for()
        before = page.locator(WRIST).get_attribute("aria-label")
        page.get_by_role("button", name="sitting", exact=True).click()
        page.wait_for_function("([s, t]) => document.querySelector(s)?.ariaLabel !== t", arg=[WRIST, before])


def test_a_double_click_draws_once(page: Any) -> None:
    upload(page)
    page.locator("#generate").dblclick()
    results(page)
    page.wait_for_timeout(1500)
    assert page.locator("#generate").is_enabled()
    assert page.locator("#results .thumbnail-item").count() == 1
