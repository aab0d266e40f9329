"""The Space as clients call it: /generate and /pose_preview over HTTP, and every kind of bad input."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_pipelines import HEIGHT, WIDTH, make_mini

from bolid.reference import Reference

gradio = pytest.importorskip("gradio")

import httpx  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

from bolid.pictures import load_picture  # noqa: E402
from bolid.pose import POSE_NAMES  # noqa: E402
from bolid.space.serve import MAX_QUEUE, make_app, serve  # noqa: E402
from bolid.space.settings import read_settings  # noqa: E402
from bolid.space.studio import Studio  # noqa: E402

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pipe(person: Reference) -> Any:
    """A tiny model that finds `person` in every picture but an all-black one.

    (Its estimator is of random weights and finds nobody; files are read as the real one reads them.)
    """
    pipe = make_mini()
    pipe.register_to_config(default_steps=2, default_steps_unposed=3)

    def find(picture: Any, what: str = "reference") -> Reference:
        if np.asarray(load_picture(picture, what)).max() == 0:
            raise ValueError(f"no person was found in the {what}")
        return person

    pipe.find_person = find  # pyright: ignore[reportAttributeAccessIssue]
    return pipe


@contextlib.contextmanager
def served(pipe: Any, folder: Path, examples: Path | None = None) -> Iterator[str]:
    """The address of a server over `pipe` that keeps its files in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        blocks = make_app(Studio(pipe, "tiny"), examples)
        yield serve(blocks, "127.0.0.1", None, False, prevent_thread_lock=True, quiet=True)[1]
        blocks.close()


@pytest.fixture(scope="module")
def address(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(pipe, tmp_path_factory.mktemp("gradio")) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


@pytest.fixture(scope="module")
def picture(person: Reference, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("pictures") / "person.png"
    Image.fromarray(person.image).save(path)
    return handle_file(path)


def test_clients_see_two_documented_endpoints(client: Client) -> None:
    told: Any = client.view_api(return_format="dict", print_info=False)
    endpoints = told["named_endpoints"]
    assert set(endpoints) == {"/generate", "/pose_preview"}
    names = [parameter["parameter_name"] for parameter in endpoints["/generate"]["parameters"]]
    assert names[:3] == ["reference", "prompt", "pose"]
    assert "request" not in names


def test_generate(client: Client, picture: Any) -> None:
    pictures, report = client.predict(
        reference=picture, prompt="in the snow", pose="sitting", seed=7, steps=2, api_name="/generate"
    )
    assert report[0]["seed"] == 7
    assert set(report[0]) == {"seed", "id_similarity", "pose_accuracy", "measured_by"}
    with Image.open(pictures[0]["image"]) as image:
        assert image.size == (WIDTH, HEIGHT)
        assert "trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]
    assert read_settings(pictures[0]["image"])["pose"] == "sitting"


@pytest.mark.parametrize(("pose", "steps"), [("sitting", 2), ("", 3)])
def test_steps_that_are_left_out_are_the_model_s_own_for_the_pose(
    client: Client, picture: Any, pose: str, steps: int
) -> None:
    pictures, _ = client.predict(reference=picture, pose=pose, api_name="/generate")
    assert read_settings(pictures[0]["image"])["steps"] == steps


def test_pose_preview(client: Client, picture: Any) -> None:
    skeleton, points = client.predict(pose="waving", reference=picture, api_name="/pose_preview")
    assert np.asarray(points).shape == (18, 3)
    with Image.open(skeleton) as image:
        assert np.asarray(image).max() > 200


def test_users_at_once_get_their_own_pictures(address: str, picture: Any) -> None:
    def draw(seed: int) -> tuple[int, bytes]:
        own = Client(address, verbose=False)
        pictures, report = own.predict(
            reference=picture, pose="sitting", seed=seed, steps=2, api_name="/generate"
        )
        return report[0]["seed"], Path(pictures[0]["image"]).read_bytes()

    alone = [draw(seed) for seed in (1, 2, 3)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(draw, (1, 2, 3))) == alone
    assert len({data for _, data in alone}) == 3


def test_a_cancelled_job_stops_the_model(client: Client, picture: Any, pipe: Any) -> None:
    """Of 4 x 50 steps, most are never computed, and the next request does not wait for them."""
    steps = []
    counting = pipe.unet.register_forward_hook(lambda *_: steps.append(1))
    job = client.submit(reference=picture, steps=50, count=4, guidance=1, api_name="/generate")
    deadline = time.monotonic() + 20
    while len(steps) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    job.cancel()
    assert client.predict(reference=picture, steps=1, guidance=1, api_name="/generate")[1]
    counting.remove()
    assert 5 <= len(steps) < 150


def test_a_full_queue_is_told(client: Client, picture: Any) -> None:
    long = {"reference": picture, "steps": 50, "count": 4, "api_name": "/generate"}
    jobs = [client.submit(**long) for _ in range(MAX_QUEUE + 4)]
    deadline = time.monotonic() + 60
    while not any(job.done() for job in jobs) and time.monotonic() < deadline:
        time.sleep(0.05)
    refused = [job.exception() for job in jobs if job.done()]
    for job in jobs:
        job.cancel()
    assert refused
    assert all("Queue is full" in str(error) for error in refused)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pose": "siting"}, "Did you mean 'sitting'"),
        ({"pose": __file__}, "No pose is called"),
        ({"steps": 1000}, "Steps is 1000"),
        ({"id_strength": -2}, "Id strength is -2"),
        ({"pose_strength": "much"}, "Pose strength is 'much'"),
        ({"prompt": "x" * 10_000}, "10,000 characters"),
        ({"keypoints": [[1, 2]]}, "18, 2"),
        ({"reference": None}, "no reference picture"),
    ],
)
def test_a_mistake_is_a_sentence_for_clients_too(
    client: Client, picture: Any, given: Any, words: str
) -> None:
    with pytest.raises(AppError, match=words):
        client.predict(**({"reference": picture} | given), api_name="/generate")


def broken_png() -> bytes:
    with io.BytesIO() as file:
        Image.effect_noise((64, 64), 50).save(file, "PNG")
        return file.getvalue()[:900]


def huge_png() -> bytes:
    with io.BytesIO() as file:
        Image.new("1", (20_000, 100)).save(file, "PNG")
        return file.getvalue()


def black_png() -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (128, 192)).save(file, "PNG")
        return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.txt", lambda: b"no picture", "is not a picture"),
        ("text.png", lambda: b"no picture", "is not a picture"),
        ("broken.png", broken_png, "damaged"),
        ("huge.png", huge_png, "too large"),
        ("empty.png", black_png, "no person was found|No person was found"),
    ],
)
def test_a_bad_file_is_a_sentence(
    client: Client, tmp_path: Path, name: str, content: Any, words: str
) -> None:
    (tmp_path / name).write_bytes(content())
    with pytest.raises(AppError, match=words) as told:
        client.predict(reference=handle_file(tmp_path / name), api_name="/generate")
    assert "Traceback" not in str(told.value)


def test_an_upload_beyond_the_limit_is_refused(address: str) -> None:
    files = {"files": ("large.png", b"\0" * (41 * 2**20), "image/png")}
    assert httpx.post(f"{address}gradio_api/upload", files=files).status_code == 413


def test_html_in_a_prompt_stays_text(client: Client, picture: Any) -> None:
    words = "<script>alert(1)</script> <b>in the snow</b>"
    pictures, _ = client.predict(reference=picture, prompt=words, steps=1, api_name="/generate")
    assert read_settings(pictures[0]["image"])["prompt"] == words


@pytest.mark.parametrize("path", [__file__, "/etc/passwd", "../../etc/passwd"])
def test_a_path_of_the_server_is_not_opened(address: str, path: str) -> None:
    body = {"data": ["sitting", {"path": path, "meta": {"_type": "gradio.FileData"}}, None, None, True]}
    start = httpx.post(f"{address}gradio_api/call/pose_preview", json=body)
    told = httpx.get(f"{address}gradio_api/call/pose_preview/{start.json()['event_id']}").text
    assert "event: error" in told
    assert "Traceback" not in told
    assert "root:" not in told


def test_a_path_instead_of_a_file_is_told(client: Client) -> None:
    with pytest.raises(AppError, match=r"^A picture is given as str, .*upload the file instead") as told:
        client.predict(reference="/etc/passwd", api_name="/generate")
    assert "pydantic" not in str(told.value)


def cached(folder: Path) -> list[str]:
    """Names of the uploaded and drawn pictures that are still kept."""
    return [path.name for path in folder.rglob("*.*") if path.is_file()]


def test_uploads_and_results_are_deleted_at_their_age(
    pipe: Any, picture: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an age of four seconds instead of an hour; what the page itself shows stays."""
    monkeypatch.setattr("bolid.space.page.KEPT", 4)
    monkeypatch.setattr("bolid.space.page.SWEPT", 1)
    with served(pipe, tmp_path, ROOT / "examples") as address:
        own = cached(tmp_path)
        client = Client(address, verbose=False)
        client.predict(reference=picture, steps=1, api_name="/generate")
        assert len(cached(tmp_path)) > len(own)  # the picture; a slow drawing may outlive its upload
        deadline = time.monotonic() + 30
        while len(cached(tmp_path)) > len(own) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert "person.png" not in cached(tmp_path)
        shown = json.dumps(httpx.get(f"{address}config").json())
        files = set(re.findall(r'"url": "([^"]+/file=[^"]+)"', shown))
        assert len(files) >= len(POSE_NAMES)
        assert {httpx.get(file).status_code for file in files} == {200}


def test_an_mcp_client_draws(address: str, person: Reference) -> None:
    """Both tools over the wire: a picture, and a mistake told in words."""
    pytest.importorskip("mcp", reason="pip install 'gradio[mcp]'")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    with io.BytesIO() as file:
        Image.fromarray(person.image).save(file, "PNG")
        given = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

    async def talk() -> tuple[dict[str, Any], Any, Any, Any]:
        async with (
            streamablehttp_client(f"{address}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            drawn = await session.call_tool("generate", {"reference": given, "pose": "sitting", "steps": 1})
            previewed = await session.call_tool("pose_preview", {"keypoints": person.keypoints.tolist()})
            wrong = await session.call_tool("pose_preview", {"pose": "wavng"})
            return tools, drawn, previewed, wrong

    tools, drawn, previewed, wrong = asyncio.run(talk())
    assert set(tools) == {"generate", "pose_preview"}
    assert "whole body" in tools["generate"].inputSchema["properties"]["reference"]["description"]
    assert not drawn.isError
    assert "image.png" in drawn.content[0].text
    assert not previewed.isError
    assert wrong.isError
    assert "Did you mean 'waving'" in wrong.content[0].text
