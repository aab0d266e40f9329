"""`python app.py` as people start it, on bolid-mini, and `gradio_client` as they call it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from visitor import PERSON, ROOT, bad_pictures

pytest.importorskip("gradio")

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from soak import running_app

from bolid.space.provenance import has_watermark
from bolid.space.settings import read_settings, read_text


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    if not (ROOT / "models" / "bolid-mini" / "model_index.json").is_file():
        pytest.skip("models/bolid-mini is not there")
    with running_app() as (address, _, _):
        yield Client(address, verbose=False)


def generated(client: Client, **given: Any) -> str:
    """The file of the first picture."""
    given = {"reference": handle_file(PERSON), "pose": "sitting", "seed": 7} | given
    return client.predict(**given, api_name="/generate")[0][0]["image"]


def test_a_file_and_a_pose_s_name_give_a_picture(client: Client) -> None:
    file = generated(client)
    with Image.open(file) as picture:
        assert picture.size == (128, 192)
    assert read_settings(file)["pose"] == "sitting"
    assert read_text(file)["measured"]["id_similarity"] > 0.5  # that person, by networks that took no part
    assert Path(generated(client)).read_bytes() == Path(file).read_bytes()


def test_a_large_picture_bears_the_watermark(client: Client) -> None:
    pytest.importorskip("imwatermark")
    with Image.open(generated(client, height=384, width=256)) as picture:
        assert picture.size == (256, 384)
        assert has_watermark(picture)


def test_no_stranger_is_drawn_for_a_bad_picture(client: Client, tmp_path: Path) -> None:
    for name, words in bad_pictures(tmp_path).items():
        with pytest.raises(AppError, match=words) as told:
            generated(client, reference=handle_file(tmp_path / name))
        assert "Traceback" not in str(told.value)
