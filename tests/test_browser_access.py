"""The page for fingers, keyboards, screen readers, small screens and weak eyes: `pytest -m browser`."""

from __future__ import annotations

from typing import Any

import pytest
from visitor import PATIENCE, PHONE, WRIST, results, upload

pytestmark = pytest.mark.browser
# buttons, links and fields without a name for a screen reader
NAMELESS = """() => [...document.querySelectorAll('button, a[href], input, select, textarea, [tabindex="0"]')]
  .filter((node) => node.checkVisibility() && !node.closest('[aria-hidden=true]')
    && !(node.getAttribute('aria-label') || node.getAttribute('aria-labelledby') || node.title
      || node.labels?.length || node.querySelector('img[alt]:not([alt=""])') || node.innerText?.trim()
      || node.type === 'file'))
  .map((node) => node.outerHTML.slice(0, 120))"""
# texts whose contrast with the first ground behind them that is not transparent is below 4.5
FAINT = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const rgb = numbers(getComputedStyle(at).backgroundColor);
      if (rgb.length < 4 || rgb[3] === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const own = (node) => [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
  const texts = [...document.querySelectorAll('.gradio-container *')].filter((node) => own(node)
    && node.checkVisibility({ opacityProperty: true }) && !node.closest(':disabled, svg, footer')
    && node.getBoundingClientRect().width > 2);
  const ratio = (node) => {
    const [a, b] = [numbers(getComputedStyle(node).color), ground(node)].map(light).sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  };
  const faint = texts.filter((node) => ratio(node) < 4.5)
    .map((node) => `${ratio(node).toFixed(2)} ${node.innerText.slice(0, 40)}`);
  return { looked_at: texts.length, faint };
}"""


def test_a_finger_moves_a_joint_and_not_the_page(browser: Any, space_address: str) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(space_address)
    page.locator("#pose-preview img").wait_for()
    page.evaluate("document.querySelector('#pose-editor').scrollIntoView({ block: 'center' })")
    box = None
    while box != (box := page.locator(WRIST).bounding_box()):  # pictures that still load push it down
        page.wait_for_timeout(1000)
    before, height = page.locator(WRIST).get_attribute("aria-label"), page.evaluate("window.scrollY")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    finger = context.new_cdp_session(page)
    for kind, up in (("touchStart", 0), ("touchMove", -20), ("touchMove", -45), ("touchEnd", None)):
        points = [] if up is None else [{"x": x, "y": y + up}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    page.wait_for_function("([s, t]) => document.querySelector(s)?.ariaLabel !== t", arg=[WRIST, before])
    moved = page.locator(WRIST).bounding_box()
    assert moved["y"] == pytest.approx(box["y"] - 45, abs=3)
    assert page.evaluate("window.scrollY") == height
    context.close()


def test_everything_has_a_name_and_the_focus_goes_down_the_page(page: Any) -> None:
    upload(page)
    nameless = page.evaluate(NAMELESS)
    assert nameless == []
    page.evaluate("document.activeElement.blur()")
    wanted, order = ["reference", "poses", "pose-editor", "prompt", "generate"], []
    inside = "(ids) => ids.find((id) => document.activeElement.closest(`#${id}`))"
    while "generate" not in order and len(order) < 150:
        page.keyboard.press("Tab")
        order.append(page.evaluate(inside, wanted))
    assert sorted(wanted, key=order.index) == wanted


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_can_be_read(page: Any, space_address: str, theme: str) -> None:
    """Contrast of 4.5 and more (WCAG AA) between every text and what is behind it."""
    page.goto(f"{space_address}?__theme={theme}")
    page.wait_for_selector(WRIST)
    upload(page)
    page.wait_for_timeout(1000)
    found = page.evaluate(FAINT)
    assert found["looked_at"] > 40
    assert found["faint"] == []


def test_the_keyboard_reaches_the_button(page: Any) -> None:
    """From the prompt on, Tab comes to Generate, and Enter presses it; once more while the page still opens,
    as whoever sees that nothing happens does."""
    told = page.get_by_text("There is no reference picture").first
    for _ in range(3):
        page.locator("#prompt textarea").focus()
        passed: list[str] = []
        while "generate" not in passed and len(passed) < 20:
            page.keyboard.press("Tab")
            passed.append(page.evaluate("document.activeElement.id"))
        assert passed[-1] == "generate", passed
        page.keyboard.press("Enter")
        for _ in range(PATIENCE // 3000):
            if told.is_visible():
                return
            page.wait_for_timeout(1000)
    raise AssertionError(f"Enter on {passed[-1]!r} did nothing: {page.locator('#live').inner_text()!r}")


def test_the_page_is_used_on_a_phone(browser: Any, space_address: str) -> None:
    """Nothing is wider than the screen; Generate is in reach, and the picture comes into view whole."""
    page = browser.new_page(viewport=PHONE)
    page.set_default_timeout(PATIENCE)
    page.goto(space_address)
    page.wait_for_selector(WRIST)
    upload(page)
    page.locator("#generate").click(timeout=2000)
    results(page)
    page.wait_for_timeout(1000)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    picture, bar = (page.locator(s).bounding_box() for s in ("#results .thumbnail-item img", "#go-row"))
    assert picture["y"] >= 0
    assert picture["y"] + picture["height"] <= bar["y"]
    assert picture["width"] > 0.7 * PHONE["width"]
    caption, box = (page.locator(s).bounding_box() for s in ("#results .caption-label", "#results"))
    assert caption["y"] + caption["height"] <= box["y"] + box["height"]  # not cut off
    page.close()
