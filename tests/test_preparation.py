"""Photographs into rows: folders, datasets, captions, pairs, bad files, kills, several processes."""

from __future__ import annotations

import csv
import io
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_estimators as tiny
from PIL import Image

from bolid.preparation import examine
from bolid.preparation.examine import Examiner, person_frame, scene_without
from bolid.preparation.gather import Photo, gather
from bolid.preparation.pairs import pair_up
from bolid.preparation.prepare import decided, forget_work, prepare
from bolid.preparation.settings import Settings
from bolid.preparation.work import FOLDER, examined

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "examples" / "photos"
SILENT = {"tell": lambda _: None}


def settings(source: Path, **given: Any) -> Settings:
    return decided({"source": str(source), "estimators": "mini", **given}, **SILENT)


def rows_of(output: Path) -> list[dict[str, Any]]:
    from datasets import load_dataset

    return list(load_dataset("parquet", data_files=str(output / "data" / "*.parquet"), split="train",
                             cache_dir=str(output.parent / "cache")))  # fmt: skip


def rejected(output: Path) -> dict[str, str]:
    with (output / "rejected.csv").open() as file:
        return {row["file"]: row["reason"] for row in csv.DictReader(file)}


def contents(output: Path) -> dict[str, bytes]:
    """Everything that a user gets: shards, card, list."""
    files = [path for path in output.rglob("*") if path.is_file() and FOLDER not in path.parts]
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(files)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/photos, prepared in one go."""
    output = tmp_path_factory.mktemp("whole") / "rows"
    assert str(prepare(settings(PHOTOS), output, **SILENT)).startswith(
        "12 rows of 12 pictures of 3 people in 1"
    )
    return output


def test_rows_of_the_shipped_photos(whole: Path) -> None:
    rows = rows_of(whole)
    assert len(rows) == 12
    assert rejected(whole) == {}
    for row in rows:
        person, name = row["file"].split("/")
        assert row["identity"] == person
        assert row["reference_file"].startswith(person)
        assert row["reference_file"] != row["file"]
        assert not row["same_picture"]
        source = Image.open(PHOTOS / row["file"]).convert("RGB")
        # bolid-mini's size, PNG: nothing is lost
        assert np.array_equal(np.asarray(row["image"]), np.asarray(source))
        assert np.array_equal(
            np.asarray(row["reference"]), np.asarray(Image.open(PHOTOS / row["reference_file"]))
        )
        points, masks = np.array(row["keypoints"]), np.asarray(row["masks"])
        assert points.shape == (18, 3)
        assert set(np.unique(masks)) == {0, 1, 2, 3, 4}
        assert 0.1 < (masks > 0).mean() < 0.5
        # the torso's joints lie on the person
        places = (points[[1, 8, 11], :2] * (128, 192)).astype(int)
        assert all(masks[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5].any() for x, y in places)
        told = (PHOTOS / person / name).with_suffix(".txt")
        if told.is_file():
            assert row["caption"] == told.read_text().strip()
    assert {row["caption"] for row in rows if row["identity"] == "cleo"} == {
        row["caption"] for row in csv.DictReader((PHOTOS / "cleo" / "metadata.csv").open())
    }
    assert sorted(row["reference_file"] for row in rows) == sorted(row["file"] for row in rows)


def test_the_card_opens_as_a_dataset(whole: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    rows = load_dataset(str(whole), split="train", cache_dir=str(tmp_path))
    assert len(rows) == 12
    assert rows.features["keypoints"].length == 18
    card = (whole / "README.md").read_text()
    assert "12 rows of 12 pictures of 3 people, 192 x 128 pixels" in card
    assert "mini estimators of bolid" in card


def test_a_finished_folder_stays_as_it_is(whole: Path) -> None:
    before, told = contents(whole), []
    prepare(settings(PHOTOS), whole, tell=told.append)
    assert contents(whole) == before
    assert "is complete already" in told[0]


@pytest.mark.parametrize("kill_after", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_any_part_and_run_again_gives_the_same_rows(
    whole: Path, tmp_path: Path, kill_after: int
) -> None:
    """SIGKILL once so many parts are there (2: before the shards are written), then the same again."""
    output = tmp_path / "rows"
    code = (
        "import os, sys, signal\n"
        "from bolid.preparation import work, prepare\n"
        f"write, left = work._write_part, [{kill_after}]\n"
        "def killing(path, rows):\n"
        "    write(path, rows)\n"
        "    left[0] -= 1\n"
        "    if not left[0]:\n"
        "        (path.parent / '.part-000009.parquet.1.partial').write_bytes(b'half')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "work._write_part = killing\n"
        f"given = {{'source': {str(PHOTOS)!r}, 'estimators': 'mini'}}\n"
        f"prepare.prepare(prepare.decided(given), {str(output)!r})\n"
    )
    died = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    parts = {path.name: path.stat().st_mtime_ns for path in (output / FOLDER).glob("part-*.parquet")}
    assert len(parts) == kill_after
    prepare(settings(PHOTOS), output, **SILENT)
    kept = {path.name: path.stat().st_mtime_ns for path in (output / FOLDER).glob("part-*.parquet")}
    assert parts.items() <= kept.items()  # what was done is not done again
    assert not list(output.rglob("*.partial"))
    ours, theirs = contents(output), contents(whole)
    for files in (ours, theirs):
        files.pop("README.md")  # names its folder
    assert ours == theirs


@pytest.mark.slow
def test_several_processes_give_the_same_rows_and_end_with_their_parent(whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows"
    prepare(settings(PHOTOS), output, workers=2, **SILENT)
    assert contents(output)["rejected.csv"] == contents(whole)["rejected.csv"]
    for ours, theirs in zip(rows_of(output), rows_of(whole), strict=True):
        assert (ours["file"], ours["reference_file"]) == (theirs["file"], theirs["reference_file"])
        np.testing.assert_allclose(ours["keypoints"], theirs["keypoints"], atol=1e-4)
    command = [
        sys.executable,
        "train/prepare.py",
        str(PHOTOS),
        "--output",
        str(tmp_path / "b"),
        "--workers",
        "2",
    ]
    parent = subprocess.Popen([*command, "--estimators", "mini"], cwd=ROOT)
    children = []
    while len(children) < 2 and parent.poll() is None:
        time.sleep(0.5)
        listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        children = [pid for pid in listed if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    time.sleep(10)  # they must be past their own imports
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


# --- what may lie in a folder


def test_bad_files_are_listed_with_their_reason(tmp_path: Path) -> None:
    """One good picture among everything that can go wrong; each has its sentence, and none stops the run."""
    folder, output = tmp_path / "photos", tmp_path / "rows"
    ann = folder / "ann"
    ann.mkdir(parents=True)
    good = Image.open(PHOTOS / "adam" / "1.png")
    good.save(ann / "good.png")
    good.save(ann / "twin.png")
    (ann / "text.jpg").write_text("no picture")
    (ann / "half.png").write_bytes((PHOTOS / "adam" / "1.png").read_bytes()[:3000])
    Image.new("RGB", (8, 8)).save(ann / "tiny.png")
    Image.new("1", (17_000, 20)).save(ann / "huge.png")
    Image.new("RGB", (128, 192), (120, 180, 90)).save(ann / "empty.png")
    good.resize((40, 60)).save(ann / "small.png")
    (ann / "film.mov").write_bytes(b"")
    (ann / "locked.png").mkdir()
    good.save(folder / "beside.png")
    (ann / "metadata.jsonl").write_text(
        '{"file_name": "good.png", "text": "a man"}\n{"file_name": "gone.png"}\n'
    )
    summary = prepare(settings(folder), output, **SILENT)
    assert (summary.rows, summary.alone) == (1, 1)
    told = rejected(output)
    for name, sentence in {
        "ann/twin.png": "it is the same picture as ann/good.png",
        "ann/text.jpg": "picture 'text.jpg' is not a picture, or is damaged; give",
        "ann/half.png": "damaged",
        "ann/tiny.png": "too small: 8 x 8 pixels",
        "ann/huge.png": "too large: it is 17000 x 20 pixels",
        "ann/empty.png": "no person was found",
        "ann/small.png": "the person is too small",
        "ann/film.mov": ".mov files are not read; save it as PNG or JPEG",
        "ann/gone.png": "the metadata names it, but there is no such picture",
        "beside.png": "it lies beside the persons' folders; move it",
    }.items():
        assert sentence in told.pop(name), name
    assert told == {}
    row = rows_of(output)[0]
    assert row["caption"] == "a man"
    # a person's only picture: flagged, no reference; training makes one from the picture itself
    assert row["same_picture"]
    assert row["reference"] is row["reference_keypoints"] is row["reference_masks"] is None


def test_one_flat_folder_is_one_person(tmp_path: Path) -> None:
    shutil.copytree(PHOTOS / "ben", tmp_path / "me")
    (tmp_path / "me" / "2.txt").unlink()
    given = settings(
        tmp_path / "me", caption_template="a picture of {person}", pairs_per_picture=5, rows_per_shard=5
    )
    summary = prepare(given, tmp_path / "rows", **SILENT)
    assert (summary.people, summary.rows, summary.shards) == (1, 12, 3)  # 4 pictures x 3 others
    names = [path.name for path in sorted((tmp_path / "rows" / "data").iterdir())]
    assert names == [f"train-0000{index}-of-00003.parquet" for index in range(3)]
    rows = rows_of(tmp_path / "rows")
    assert {row["identity"] for row in rows} == {"me"}
    assert {row["caption"] for row in rows if row["file"] == "2.png"} == {"a picture of me"}
    # a picture that comes later is taken in: the others are not done again
    parts = len(list((tmp_path / "rows" / FOLDER).glob("part-*")))
    shutil.copy(PHOTOS / "adam" / "1.png", tmp_path / "me" / "5.png")
    summary = prepare(given, tmp_path / "rows", **SILENT)
    assert summary.rows == 20
    assert len(list((tmp_path / "rows" / FOLDER).glob("part-*"))) == parts + 1
    forget_work(tmp_path / "rows")
    assert len(rows_of(tmp_path / "rows")) == 20


def test_a_dataset_of_the_datasets_library(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    files = [PHOTOS / "adam" / "1.png", PHOTOS / "adam" / "2.png", PHOTOS / "cleo" / "1.png"]
    data = {
        "photo": [{"bytes": path.read_bytes(), "path": None} for path in files]
        + [{"bytes": b"x", "path": None}],
        "who": ["a", "a", "c", "c"],
        "text": ["one", "two", "three", "four"],
    }
    types = Features({"photo": ImageFeature(), "who": Value("string"), "text": Value("string")})
    Dataset.from_dict(data, features=types).save_to_disk(str(tmp_path / "data"))
    with pytest.raises(
        ValueError, match="no column 'image'; its columns are photo, who, text: name one by --image_c"
    ):
        prepare(settings(tmp_path / "data"), tmp_path / "none", **SILENT)
    given = settings(tmp_path / "data", image_column="photo", person_column="who")
    summary = prepare(given, tmp_path / "rows", **SILENT)
    assert (summary.rows, summary.alone, summary.people) == (3, 1, 2)
    assert "row 3 is not a picture, or is damaged" in rejected(tmp_path / "rows")["row 3"]
    assert [row["caption"] for row in rows_of(tmp_path / "rows")] == ["one", "two", "three"]


# --- refusals


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"height": 100}, "height is 100; it must be a multiple of 8"),
        ({"pairs_per_picture": 0}, "pairs_per_picture is 0"),
        ({"min_person": -1}, "min_person is -1"),
        ({"caption_template": "a {thing}"}, "caption_template 'a {thing}' cannot be filled in"),
        ({"face": "arcface"}, "face='arcface' is no known model"),
        ({"estimators": "photo", "keypoints": "vitpos"}, "Did you mean 'vitpose'"),
    ],
)
def test_settings_are_checked_at_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(PHOTOS, **given)


def test_folders_that_cannot_be_used(tmp_path: Path, whole: Path) -> None:
    def refused(message: str, source: Path, output: Path, **given: Any) -> None:
        with pytest.raises(ValueError, match=message):
            prepare(settings(source, **given), output, **SILENT)

    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    refused("does not exist; give a folder of pictures", tmp_path / "nowhere", tmp_path / "o")
    refused("holds no picture .it is empty.; put PNG", tmp_path / "empty", tmp_path / "o")
    refused("holds no picture .only .txt.", tmp_path / "texts", tmp_path / "o")
    refused("is a file; give the folder", PHOTOS / "adam" / "1.png", tmp_path / "o")
    refused("is not empty .a.txt, ....; give a new or an empty folder", PHOTOS, tmp_path / "texts")
    refused("is a file; give a folder", PHOTOS, tmp_path / "texts" / "a.txt")
    refused("another run .width was 128, is 136.; give the same settings", PHOTOS, whole, width=136)
    assert not (tmp_path / "o").exists()
    with pytest.raises(ValueError, match="workers is 0"):
        prepare(settings(PHOTOS), tmp_path / "o", workers=0, **SILENT)
    (tmp_path / "empty" / "metadata.csv").write_text("name,text\n1.png,x\n")
    shutil.copy(PHOTOS / "adam" / "1.png", tmp_path / "empty")
    refused("metadata.csv row 1 has no file_name", tmp_path / "empty", tmp_path / "o")


def test_nothing_but_bad_pictures(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 1 pictures gave a row; a.png: .*rejected.csv"):
        prepare(settings(tmp_path / "photos"), tmp_path / "rows", **SILENT)
    assert list(rejected(tmp_path / "rows")) == ["a.png"]


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            RuntimeError, match="is full; make room and run the same command: what was done is kept"
        ):
            prepare(settings(PHOTOS / "adam"), tmp_path / "rows", **SILENT)
    assert not list(tmp_path.rglob("*.partial"))
    assert prepare(settings(PHOTOS / "adam"), tmp_path / "rows", **SILENT).rows == 4


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = runpy.run_path(str(ROOT / "train" / "prepare.py"))["main"]
    arguments = [str(PHOTOS / "ben"), "--output", str(tmp_path / "rows"), "--estimators", "mini"]
    assert (
        command([*arguments, "--height", "64", "--width", "64", "--min_person", "20", "--forget_work"]) == 0
    )
    assert capsys.readouterr().out.startswith("4 rows of 4 pictures of 1 people in 1 shards")
    assert not (tmp_path / "rows" / FOLDER).exists()
    assert command(arguments) == 2  # there are rows, and nothing to go on from
    told = capsys.readouterr().err
    assert told.startswith("prepare: output")
    assert len(told.strip().splitlines()) == 1


def test_a_mistake_is_told_before_torch_is_loaded() -> None:
    heavy = ("torch", "diffusers", "transformers")
    code = f"import sys, bolid.preparation.prepare; print([n for n in {heavy} if n in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


# --- photographs, with public models at tiny size


@pytest.fixture(scope="module")
def photo_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folders = tiny.all_three(tmp_path_factory.mktemp("models"))
    return decided({"source": "unused", "height": 96, "width": 64, **folders}, **SILENT)


def picture(seed: int = 0, height: int = 240, width: int = 200) -> Photo:
    """A picture's bytes, as of a dataset."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return Photo("p", "ann", None, "s", file.getvalue())


def test_two_people_small_people_and_crops(photo_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examiner on a real PhotoEstimator whose boxes are given: what it takes, and how it crops."""
    from bolid.estimators.networks import Boxes
    from bolid.pose import POSES

    examiner = Examiner(photo_settings)
    assert type(examiner.estimator).__name__ == "PhotoEstimator"

    def looking(boxes: list[list[float]]) -> None:
        found = np.array(boxes, np.float32)
        monkeypatch.setattr(
            examiner.estimator, "people", lambda image: Boxes.ordered(found, np.ones(len(found)), image.shape)
        )

    own_look = examiner.estimator.look

    def look(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        _, parts = own_look(image, box)  # the real networks run; random ones place nothing of use
        parts[10:60, 20:40] = 2
        return POSES["standing"].copy(), parts

    monkeypatch.setattr(examiner.estimator, "look", look)
    looking([[20, 20, 90, 200], [110, 20, 180, 200]])
    assert "it shows 2 people; crop it to one" in examined(examiner, picture())["reason"]
    looking([[20, 20, 90, 200], [180, 100, 195, 140]])  # a passer-by far behind does not count
    found = examined(examiner, picture())
    assert found["reason"] == ""
    assert found["caption"] == "a photo of a person"
    with Image.open(io.BytesIO(found["image"])) as image:
        assert (image.size, image.format) == ((64, 96), "JPEG")
    looking([[20, 20, 40, 60]])
    assert "the person is too small: 40 pixels high, at least 48" in examined(examiner, picture())["reason"]
    looking([])
    assert "no person was found; give a picture" in examined(examiner, picture())["reason"]


def test_frames_keep_the_person_whole_and_inside_the_picture() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(100, 900, 2)
        corners = rng.uniform(0, 1, (2, 2)) * (width, height)
        box = np.concatenate([corners.min(0), corners.max(0) + 2])
        box = np.minimum(box, (width, height, width, height)).astype(np.float32)
        frame = person_frame(box, (height, width), 96, 64)
        assert frame.height / frame.width == pytest.approx(1.5)
        assert frame.left <= box[0] + 1e-3
        assert frame.top <= box[1] + 1e-3
        assert frame.left + frame.width >= box[2] - 1e-3
        assert frame.top + frame.height >= box[3] - 1e-3
        if frame.height <= height:
            assert frame.top >= -1e-3
            assert frame.top + frame.height <= height + 1e-3
        assert max(box[3] - box[1], (box[2] - box[0]) * 1.5) >= 0.49 * frame.height  # close enough to be seen


def test_boxes_move_into_the_frame() -> None:
    frame = person_frame(np.array([40, 40, 80, 160]), (400, 300), 96, 64)
    moved = examine.within(np.array([40, 40, 80, 160]), frame, (96, 64))
    np.testing.assert_allclose((moved[3] - moved[1]) / 96, 120 / frame.height, rtol=1e-5)
    assert moved.min() >= 0


def test_a_scene_without_its_person() -> None:
    image = np.zeros((96, 64, 3), np.uint8)
    image[:48], image[48:] = (90, 160, 220), (60, 120, 40)
    person = np.zeros((96, 64), np.uint8)
    person[20:80, 20:44] = 2
    dressed = image.copy()
    dressed[person > 0] = (255, 0, 0)
    scene = scene_without(dressed, person)
    assert np.array_equal(scene[:, :10], image[:, :10])  # what is not the person stays
    assert np.abs(scene[24:40, 26:38].astype(int) - (90, 160, 220)).max() < 70  # sky in the hole's upper part
    assert np.abs(scene[62:76, 26:38].astype(int) - (60, 120, 40)).max() < 70
    assert scene_without(dressed, np.full_like(person, 2)).shape == image.shape  # nothing but a person


# --- pairs


@pytest.mark.parametrize("per_picture", [1, 3, 9])
def test_pairs_join_other_pictures_of_the_same_person(per_picture: int) -> None:
    people = list("aaaaabbcddd")
    pairs = pair_up(people, per_picture, seed=0)
    assert pairs == pair_up(people, per_picture, seed=0)
    assert all(people[pair.target] == people[pair.reference] for pair in pairs)
    for index, person in enumerate(people):
        wanted = max(1, min(per_picture, people.count(person) - 1))
        references = [pair.reference for pair in pairs if pair.target == index]
        assert len(set(references)) == len(references) == wanted
        assert (index in references) == (people.count(person) == 1)
        assert sum(pair.reference == index for pair in pairs) == wanted
    assert [pair.target for pair in pairs] == sorted(pair.target for pair in pairs)


def test_nothing_is_gathered_twice() -> None:
    photos = list(gather(settings(PHOTOS)).photos())
    assert len({photo.key for photo in photos}) == len(photos) == 12
