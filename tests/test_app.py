"""The Space without a browser: settings, what is drawn, and the endpoints as clients call them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_pipelines import HEIGHT, WIDTH, make_mini

from bolid.pose import POSE_NAMES, Pose
from bolid.reference import Reference

gradio = pytest.importorskip("gradio")

from bolid.space import views  # noqa: E402
from bolid.space.editor import editor_pose, editor_value  # noqa: E402
from bolid.space.settings import Settings, checked, picture_text, read_settings  # noqa: E402
from bolid.space.studio import Drawn, Progress, Stopped, Studio  # noqa: E402

SIZE = (HEIGHT, WIDTH)
DEFAULTS = {"steps": 2, "guidance": 2.0, "seed": 7}


@pytest.fixture(scope="module")
def studio(person: Reference) -> Studio:
    """A tiny model that finds `person` in every picture but an all-black one (its estimator is random)."""
    pipe = make_mini()

    def find(picture: Any, what: str = "reference") -> Reference:
        if np.asarray(Image.open(picture)).max() == 0:
            raise ValueError(f"no person was found in the {what}")
        return person

    pipe.find_person = find  # pyright: ignore[reportAttributeAccessIssue]
    return Studio(pipe, "tiny")


def settings(**given: Any) -> Settings:
    return checked(DEFAULTS | given, SIZE)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": 500}, "steps is 500; it must be a whole number from 1 to 50"),
        ({"steps": 2.5}, "whole number"),
        ({"id_strength": -1}, "id strength is -1"),
        ({"id_strength": float("nan")}, "id strength is nan"),
        ({"head": 2}, "head is 2"),
        ({"seed": 2**40}, "from 0 to 4294967295"),
        ({"count": True}, "count is 'True'|count is True"),
        ({"prompt": "x" * 10_000}, "10,000 characters"),
        ({"prompt": 3}, "give a text"),
        ({"width": 100}, "multiple of 8"),
        ({"height": 4096}, "multiple of 8"),
    ],
)
def test_a_value_out_of_range_is_refused_in_words(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**given)


def test_without_a_seed_a_random_one_is_taken() -> None:
    seeds = {checked({"steps": 2, "guidance": 1}, SIZE).seed for _ in range(4)}
    assert len(seeds) > 1


def test_shares_by_part_scale_the_strength() -> None:
    assert settings().strengths == 0.8
    assert settings(upper=0, head=0.5).strengths == {"head": 0.4, "upper": 0.0, "lower": 0.8, "feet": 0.8}
    assert not settings(head=0, upper=0, lower=0, feet=0).uses_person


def test_settings_survive_the_png(tmp_path: Path) -> None:
    wanted = settings(prompt="<b>snow</b>", head=0.5, upper=0.25, retarget=False)
    points = Pose.named("sitting").keypoints
    image = Image.new("RGB", (64, 96))
    image.info["bolid"] = picture_text(wanted, 9, {"keypoints": points, "name": "sitting"}, "tiny")
    from gradio.processing_utils import save_pil_to_cache

    values = read_settings(save_pil_to_cache(image, cache_dir=str(tmp_path), format="png"))
    assert values["seed"] == 9
    assert values["pose"] == "sitting"
    np.testing.assert_allclose(values["keypoints"], points, atol=1e-4)
    for name in ("prompt", "steps", "guidance", "retarget", "width", "height"):
        assert values[name] == getattr(wanted, name)
    assert (
        checked(DEFAULTS | {k: values[k] for k in ("id_strength", "head", "upper")}, SIZE).strengths
        == wanted.strengths
    )


@pytest.mark.parametrize("text", [None, "no json", "[1]", '{"steps": 1e9}', '{"id_strength": {"head": -1}}'])
def test_a_picture_without_good_settings_is_refused(tmp_path: Path, text: str | None) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if text is not None:
        info.add_text("bolid", text)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(ValueError, match=r"settings|steps|strength"):
        read_settings(str(tmp_path / "a.png"))
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(ValueError, match="not a PNG"):
        read_settings(str(tmp_path / "b.png"))


def test_the_editor_and_back() -> None:
    points = Pose.named("waving").keypoints
    pose = editor_pose(editor_value(points, "waving"))
    assert pose is not None
    assert pose["name"] == "waving"
    np.testing.assert_allclose(pose["keypoints"], points, atol=1e-4)
    assert editor_pose(None) is None
    for wrong in (
        {"keypoints": [[1, 2]]},
        {},
        "x",
        {"keypoints": [[0, 0, 0]] * 18},
        {"keypoints": [["a"] * 3] * 18},
    ):
        with pytest.raises(ValueError, match=r"."):
            editor_pose(wrong)


def test_views(person: Reference) -> None:
    assert views.found_picture(person).height >= views.SHOWN_HEIGHT
    assert "of 18 joints" in views.found_words([person])
    assert "<script>" not in views.trouble("<script>alert(1)</script>")
    assert [name for _, name in views.thumbnails()] == list(POSE_NAMES)
    assert "step 1 of 4" in views.progress_view(Progress(1, 2, 1, 4, Image.new("RGB", (8, 8))))


def test_drawing_tells_every_step_and_repeats_itself(studio: Studio, person: Reference) -> None:
    pose = {"keypoints": Pose.named("sitting").keypoints, "name": "sitting"}
    news = list(studio.draw(settings(count=2), [person], pose, None, threading.Event()))
    assert [item.step for item in news if isinstance(item, Progress)] == [1, 2, 1, 2]
    drawn = [item for item in news if isinstance(item, Drawn)]
    assert [item.seed for item in drawn] == [7, 8]
    kept = json.loads(drawn[1].image.info["bolid"])
    assert kept["seed"] == 8
    assert "generated" in kept["made_with"]
    again = [
        x
        for x in studio.draw(settings(seed=8), [person], pose, None, threading.Event())
        if isinstance(x, Drawn)
    ]
    assert again[0].image.tobytes() == drawn[1].image.tobytes()


def test_stop_ends_at_the_next_step(studio: Studio, person: Reference) -> None:
    stop = threading.Event()
    drawing = studio.draw(settings(steps=50, count=4), [person], None, None, stop)
    next(drawing)
    stop.set()
    with pytest.raises(Stopped):
        list(drawing)
    left = studio.draw(settings(steps=50), [person], None, None, threading.Event())
    next(left)
    left.close()  # a client that went away
    assert threading.active_count() < 20


def test_a_refusal_of_the_pipeline_reaches_the_listener(studio: Studio) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        list(studio.draw(settings(), [], None, "/nowhere.png", threading.Event()))


@pytest.fixture(scope="module")
def client(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from gradio_client import Client

    from bolid.space.serve import make_app, serve

    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
    patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    blocks = make_app(studio)
    _, address, _ = serve(blocks, "127.0.0.1", None, False, prevent_thread_lock=True, quiet=True)
    yield Client(address, verbose=False)
    blocks.close()
    patch.undo()


@pytest.fixture(scope="module")
def picture(person: Reference, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from gradio_client import handle_file

    path = tmp_path_factory.mktemp("pictures") / "person.png"
    Image.fromarray(person.image).save(path)
    return handle_file(path)


def test_clients_see_two_documented_endpoints(client: Any) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/generate", "/pose_preview"}
    names = [parameter["parameter_name"] for parameter in endpoints["/generate"]["parameters"]]
    assert names[:3] == ["reference", "prompt", "pose"]
    assert "request" not in names


def test_generate(client: Any, picture: Any) -> None:
    pictures, report = client.predict(
        reference=picture, prompt="in the snow", pose="sitting", seed=7, steps=2, api_name="/generate"
    )
    assert report[0]["seed"] == 7
    with Image.open(pictures[0]["image"]) as image:
        assert image.size == (WIDTH, HEIGHT)
    assert read_settings(pictures[0]["image"])["pose"] == "sitting"


def test_pose_preview(client: Any, picture: Any) -> None:
    skeleton, points = client.predict(pose="waving", reference=picture, api_name="/pose_preview")
    assert np.asarray(points).shape == (18, 3)
    with Image.open(skeleton) as image:
        assert np.asarray(image).max() > 200


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pose": "siting"}, "Did you mean 'sitting'"),
        ({"pose": __file__}, "No pose is called"),
        ({"steps": 1000}, "Steps is 1000"),
        ({"prompt": "x" * 10_000}, "10,000 characters"),
        ({"keypoints": [[1, 2]]}, "18, 2"),
        ({"reference": None}, "no reference picture"),
    ],
)
def test_a_mistake_is_a_sentence_for_clients_too(client: Any, picture: Any, given: Any, words: str) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=words):
        client.predict(**({"reference": picture} | given), api_name="/generate")


def test_a_path_of_the_server_is_not_opened(client: Any) -> None:
    import httpx

    body = {"data": ["sitting", {"path": __file__, "meta": {"_type": "gradio.FileData"}}, None, None, True]}
    start = httpx.post(f"{client.src}gradio_api/call/pose_preview", json=body)
    told = httpx.get(f"{client.src}gradio_api/call/pose_preview/{start.json()['event_id']}").text
    assert "event: error" in told
    assert "Traceback" not in told
