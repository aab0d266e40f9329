"""The Space without a browser and without a server: settings, what is drawn, measured and shown."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny_pipelines import HEIGHT, WIDTH, make_layout, make_mini, make_reference

from bolid.estimator import Estimate
from bolid.pose import POSE_NAMES, Pose
from bolid.reference import Reference

gradio = pytest.importorskip("gradio")

from bolid.space import views  # noqa: E402
from bolid.space.editor import editor_pose, editor_value  # noqa: E402
from bolid.space.handlers import Handlers  # noqa: E402
from bolid.space.measures import Measured, OwnNetworks, measure, similarity  # noqa: E402
from bolid.space.provenance import MESSAGE, has_watermark, marked  # noqa: E402
from bolid.space.results import ordered  # noqa: E402
from bolid.space.settings import Settings, checked, picture_text, read_settings, read_text  # noqa: E402
from bolid.space.stops import Stops  # noqa: E402
from bolid.space.studio import Drawn, Job, Progress, Studio  # noqa: E402
from bolid.space.zero import on_gpu  # noqa: E402

SIZE = (HEIGHT, WIDTH)
DEFAULTS = {"steps": 2, "guidance": 2.0, "seed": 7}


@pytest.fixture(scope="module")
def studio() -> Studio:
    """A tiny model, its pictures measured by its own networks (of random weights: figures of no meaning)."""
    pipe = make_mini()
    return Studio(pipe, "tiny", OwnNetworks(pipe))


SITTING = {"keypoints": Pose.named("sitting").keypoints, "name": "sitting"}


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
    assert settings().strengths == 1
    assert settings(upper=0, head=0.5).strengths == {"head": 0.5, "upper": 0.0, "lower": 1, "feet": 1}
    assert not settings(head=0, upper=0, lower=0, feet=0).uses_person


def test_settings_survive_the_png(tmp_path: Path) -> None:
    wanted = settings(prompt="<b>snow</b>", head=0.5, upper=0.25, retarget=False, seed=9)
    points = Pose.named("sitting").keypoints
    image = Image.new("RGB", (64, 96))
    image.info["bolid"] = picture_text(wanted, {"keypoints": points, "name": "sitting"}, "tiny")
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
    assert editor_pose("") is None  # so gradio sends None
    for wrong in (
        {"keypoints": [[1, 2]]},
        {},
        "x",
        {"keypoints": [[0, 0, 0]] * 18},
        {"keypoints": [["a"] * 3] * 18},
    ):
        with pytest.raises(ValueError, match=r"."):
            editor_pose(wrong)


def test_the_model_s_own_steps_follow_the_pose_and_a_user_s_do_not() -> None:
    pipe = make_mini()
    pipe.register_to_config(default_steps=4, default_guidance_scale=1.5)
    pipe.register_to_config(default_steps_unposed=20, default_guidance_scale_unposed=3.0)
    handlers = Handlers(Studio(pipe, "tiny"))
    posed = editor_value(SITTING["keypoints"], "sitting")
    assert handlers.own_numbers(None, 4, 1.5) == [20, 3.0]
    assert handlers.own_numbers(posed, 20, 3) == [4, 1.5]
    skipped = [gradio.skip(), gradio.skip()]
    assert handlers.own_numbers(None, 7, 1.5) == skipped
    assert handlers.own_numbers(posed, 4, 1.5) == skipped
    pipe.register_modules(layout=make_layout(pipe))  # a free pose is one too
    assert handlers.studio.own(posed=False) == handlers.studio.own(posed=True)


def test_views(person: Reference) -> None:
    assert views.found_picture(person).height >= views.SHOWN_HEIGHT
    assert "of 18 joints; face seen" in views.found_words([person])
    assert "no face seen" in views.found_words([make_reference("standing from behind")])
    assert "<script>" not in views.trouble("<script>alert(1)</script>")
    assert [name for _, name in views.thumbnails()] == list(POSE_NAMES)
    assert "step 1 of 4" in views.progress_view(Progress(1, 2, 1, 4, Image.new("RGB", (8, 8))))


def drawn(studio: Studio, jobs: list[Job], people: list[Reference]) -> list[Drawn]:
    return [item for item in studio.draw(jobs, people, None) if isinstance(item, Drawn)]


def test_drawing_tells_every_step_and_repeats_itself(studio: Studio, person: Reference) -> None:
    jobs = [Job(settings(seed=seed), SITTING) for seed in (7, 8)]
    news = list(studio.draw(jobs, [person], None))
    assert [item.step for item in news if isinstance(item, Progress)] == [1, 2, 1, 2]
    pictures = [item for item in news if isinstance(item, Drawn)]
    assert [item.seed for item in pictures] == [7, 8]
    kept = json.loads(pictures[1].image.info["bolid"])
    assert kept["seed"] == 8
    assert "generated" in kept["made_with"]
    assert "pipeline's own" in kept["measured"]["measured_by"]
    again = drawn(studio, jobs[1:], [person])
    assert again[0].image.tobytes() == pictures[1].image.tobytes()


def test_two_drawings_at_once_do_not_mix(studio: Studio, person: Reference) -> None:
    """The same seeds, side by side in two threads, give what they give alone."""
    jobs = [[Job(settings(seed=seed, steps=6), SITTING)] for seed in (7, 8)]
    alone = [drawn(studio, each, [person])[0].image.tobytes() for each in jobs]
    together: dict[int, bytes] = {}

    def work(place: int) -> None:
        together[place] = drawn(studio, jobs[place], [person])[0].image.tobytes()

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[place] for place in range(2)] == alone
    assert alone[0] != alone[1]


def test_closing_ends_at_the_next_step(studio: Studio, person: Reference) -> None:
    before = threading.active_count()
    drawing = studio.draw([Job(settings(steps=50), SITTING)] * 4, [person], None)
    next(drawing)
    drawing.close()  # a client that went away, or Stop
    assert threading.active_count() == before


LEAVING = """
import threading
from test_app import SITTING, settings
from tiny_pipelines import make_mini, make_reference
from bolid.space.studio import Job, Studio

studio = Studio(make_mini(), "tiny")  # kept, as the page keeps it: a daemon thread must not free its tensors
drawing = studio.draw([Job(settings(steps=50), SITTING)] * 40, [make_reference()], None)
next(drawing)
threading.Thread(target=lambda: list(drawing), daemon=True).start()  # as gradio's own threads are
"""


def test_a_program_that_ends_while_it_draws_ends_well() -> None:
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", LEAVING], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_a_refusal_of_the_pipeline_reaches_the_listener(studio: Studio) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        list(studio.draw([Job(settings(), None)], [], "/nowhere.png"))


def test_stop_reaches_the_visitor_s_own_drawings_only() -> None:
    stops, ended = Stops(), []

    def work() -> None:
        with stops.running("ann") as flag:
            started.set()
            assert flag.wait(10)
            ended.append("ann")

    started = threading.Event()
    thread = threading.Thread(target=work)
    with stops.running("bob") as other:
        thread.start()
        started.wait()
        assert stops.stop("ann")
        assert ended == ["ann"]  # it waits for the end
        assert not other.is_set()
    thread.join()
    assert not stops.stop("ann")


def test_similarity_counts_what_both_show() -> None:
    unseen = [np.nan, np.nan]
    a, b = np.array([[1.0, 0], unseen, [0, 1]]), np.array([[0.6, 0.8], [1, 0], unseen])
    assert similarity(a, b) == pytest.approx(0.6)
    assert np.isnan(similarity(a, np.array([unseen] * 3)))


def test_measured_on_the_reference_itself_is_perfect(person: Reference) -> None:
    pipe = make_mini()
    found = Estimate(person.keypoints[None], person.parts[None], np.ones(1, np.float32))
    # the tiny estimator is random; what is made of its findings is under test
    pipe.estimator.predict = lambda _picture: found  # pyright: ignore[reportAttributeAccessIssue]
    image = Image.fromarray(person.image)
    figures = measure(OwnNetworks(pipe), image, [person], person.keypoints)
    assert figures.likeness == pytest.approx(1, abs=1e-3)
    assert figures.accuracy == 1
    moved = person.keypoints.copy()
    moved[:, 0] += 0.4
    assert measure(OwnNetworks(pipe), image, [person], moved).accuracy == 0
    assert measure(OwnNetworks(pipe), image, [], None) == Measured()
    assert measure(None, image, [person], moved) == Measured()


def test_marks_survive_the_png(tmp_path: Path) -> None:
    pytest.importorskip("imwatermark")
    from gradio.processing_utils import save_pil_to_cache

    people = sorted((Path(__file__).parents[1] / "examples" / "people").glob("*.png"))
    assert people
    for path in people[:4]:
        with Image.open(path) as opened:
            large = opened.convert("RGB").resize((256, 384), Image.Resampling.BICUBIC)
        file = save_pil_to_cache(marked(large, "{}"), cache_dir=str(tmp_path), format="png")
        with Image.open(file) as saved:
            assert has_watermark(saved), path.name
            assert "trainedAlgorithmicMedia" in saved.info["XML:com.adobe.xmp"]
            change = np.abs(np.asarray(saved.convert("RGB"), np.int16) - np.asarray(large, np.int16))
        assert change.mean() < 3  # of 255: not to be seen
        assert not has_watermark(large)
    small = Image.new("RGB", (128, 192), (90, 120, 200))
    assert marked(small, "{}").tobytes() == small.tobytes()
    assert marked(large, "{}", watermark=False).tobytes() == large.tobytes()
    assert len(MESSAGE) == 6


def test_best_first_by_what_the_pictures_say(tmp_path: Path) -> None:
    files = []
    for name, value in (("a", 0.2), ("b", None), ("c", 0.9)):
        text = PngInfo()
        text.add_text("bolid", picture_text(settings(), None, "tiny", measured={"id_similarity": value}))
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png", pnginfo=text)
        files.append((str(tmp_path / f"{name}.png"), name))
    assert [name for _, name in ordered(files, "most like the person")] == ["c", "a", "b"]
    assert [name for _, name in ordered(files, "as drawn")] == ["a", "b", "c"]
    assert ordered(None, "best pose") == []
    assert "0.90" in views.details(read_text(files[2][0]))


def test_a_strip_holds_every_picture() -> None:
    pictures = [Image.new("RGB", (32, 48), colour) for colour in ("red", "lime", "blue")]
    strip = np.asarray(views.strip(pictures, ["a", "b", "c"]))
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)):
        assert (strip == colour).all(-1).sum() == 32 * 48


def test_without_zero_gpu_a_function_stays_itself() -> None:
    if importlib.util.find_spec("spaces") is None or not os.environ.get("SPACES_ZERO_GPU"):
        assert on_gpu(len) is len
