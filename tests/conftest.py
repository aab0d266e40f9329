"""Fixtures that several tests share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_pipelines import make_mini, make_reference, make_xl
from visitor import PATIENCE, ROOT, WRIST

from bolid.pipeline import BoLIDPipeline
from bolid.pipeline_xl import BoLIDXLPipeline
from bolid.reference import Reference

torch.set_num_threads(1)  # tiny networks; more threads only fight each other


@pytest.fixture(scope="session")
def mini() -> BoLIDPipeline:
    """A tiny bolid-mini. Tests must leave it as they found it."""
    return make_mini()


@pytest.fixture(scope="session")
def xl() -> BoLIDXLPipeline:
    """A tiny SDXL BoLID."""
    return make_xl()


@pytest.fixture(scope="session")
def person() -> Reference:
    """A drawn person with exact key-points and parts."""
    return make_reference()


@pytest.fixture(scope="session")
def space_address() -> Iterator[str]:
    """The Space's page over bolid-mini, on a free port."""
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


@pytest.fixture(scope="session")
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
def page(browser: Any, space_address: str) -> Iterator[Any]:
    """A fresh visit, desktop size."""
    tab = browser.new_page(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    tab.set_default_timeout(PATIENCE)
    tab.goto(space_address)
    tab.wait_for_selector(WRIST)
    yield tab
    tab.close()
