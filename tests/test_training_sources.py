"""Rows of datasets: every kind of source, pairs, cropping, what is refused, skipped rows, streams."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from bolid.avatars.dataset import avatar_dataset
from bolid.training.config import DataConfig
from bolid.training.decoding import person_frame
from bolid.training.draws import step_draws
from bolid.training.pairs import Partners, hold_out
from bolid.training.person_rows import _tables
from bolid.training.sources import Columns, open_dataset
from bolid.training.streams import StreamRows

HEIGHT, WIDTH, COUNT = 64, 48, 12


@pytest.fixture(scope="module")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Twelve rows of three people, each with a reference; larger than the working size."""
    cache = tmp_path_factory.mktemp("cache")
    made = avatar_dataset("train", COUNT, height=96, width=72, cache_dir=cache)
    names = [f"person {row % 3}" for row in range(COUNT)]
    return made.remove_columns("identity").add_column("identity", names)  # pyright: ignore


@pytest.fixture(scope="module")
def lone(avatars: Any) -> Any:
    """The same without reference columns."""
    return avatars.remove_columns(["reference", "reference_keypoints", "reference_masks"])


def data(tmp_path: Path, source: Any, **changes: Any) -> DataConfig:
    base = DataConfig(
        source=str(source),
        height=HEIGHT,
        width=WIDTH,
        cache_dir=str(tmp_path / "cache"),
        workers=2,
        validation_size=2,
    )
    return dataclasses.replace(base, **changes)


def save_parquet(rows: Any, folder: Path, shards: int = 2) -> Path:
    (folder / "data").mkdir(parents=True)
    for index in range(shards):
        part = rows.shard(shards, index, contiguous=True)
        part.to_parquet(folder / "data" / f"train-{index:05d}-of-{shards:05d}.parquet")
    return folder


def save_tar(rows: Any, file: Path) -> Path:
    import tarfile

    with tarfile.open(file, "w") as tar:
        for number, row in enumerate(rows):
            rest = {"keypoints": row["keypoints"], "caption": row["caption"], "identity": row["identity"]}
            members = {
                "png": png(row["image"]),
                "masks.png": png(row["masks"]),
                "json": json.dumps(rest).encode(),
            }
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{number:04d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file


def save_pictures(rows: Any, folder: Path) -> Path:
    """imagefolder: pictures and a metadata.jsonl; masks as a second file of the row."""
    folder.mkdir()
    lines = []
    for number, row in enumerate(rows):
        row["image"].save(folder / f"{number}.png")
        row["masks"].save(folder / f"{number}-masks.png")
        fields = {"keypoints": row["keypoints"], "caption": row["caption"], "identity": row["identity"]}
        names = {"file_name": f"{number}.png", "masks_file_name": f"{number}-masks.png"}
        lines.append(json.dumps(names | fields))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def png(picture: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


WEBDATASET = {
    "image": "png",
    "masks": "masks.png",
    "keypoints": "json.keypoints",
    "caption": "json.caption",
    "identity": "json.identity",
}


@pytest.mark.parametrize("kind", ["parquet", "file", "saved", "tar", "pictures"])
def test_every_source_gives_the_same_rows(tmp_path, lone, kind):
    changes: dict[str, Any] = {}
    if kind in ("parquet", "file"):
        source: Any = save_parquet(lone, tmp_path / "rows")
        source = source / "data" / "*.parquet" if kind == "file" else source
    elif kind == "saved":
        lone.save_to_disk(tmp_path / "rows")
        source = tmp_path / "rows"
    elif kind == "tar":
        source, changes = save_tar(lone, tmp_path / "rows.tar"), {"column_map": WEBDATASET}
    else:
        source = save_pictures(lone, tmp_path / "rows")
    train, held = _tables(data(tmp_path, source, **changes))
    assert len(train) + len(held) == COUNT
    rows = train.read(np.arange(3))
    assert rows["image"].shape == rows["reference"].shape == (3, HEIGHT, WIDTH, 3)
    assert rows["masks"].shape == (3, HEIGHT, WIDTH)
    assert rows["keypoints"].shape == (3, 18, 3)
    expected = [str(lone[int(number)]["caption"]) for number in train._subset[:3]]
    assert rows["caption"] == expected
    assert not rows["own_reference"].any()  # four rows a person
    assert (rows["reference"] != rows["image"]).any((1, 2, 3)).all()
    again = _tables(data(tmp_path, source, **changes))[0]
    assert again.fingerprint == train.fingerprint


def test_key_points_and_masks_follow_the_crop(tmp_path, lone):
    """The person's joints lie on the person's mask after cropping as before it."""

    def on_person(points: np.ndarray, masks: np.ndarray) -> float:
        seen = points[points[:, 2] > 0]
        places = (seen[:, :2] * (masks.shape[1], masks.shape[0])).astype(int)
        inside = ((places >= 0) & (places < (masks.shape[1], masks.shape[0]))).all(1)
        return float((masks[places[inside, 1], places[inside, 0]] > 0).mean())

    source = save_parquet(lone, tmp_path / "rows")
    train, _ = _tables(data(tmp_path, source, height=64, width=32))  # narrower than 96 x 72
    rows = train.read(np.arange(len(train)))
    after = [on_person(p, m) for p, m in zip(rows["keypoints"], rows["masks"], strict=True)]
    before = [
        on_person(np.asarray(lone[int(n)]["keypoints"]), np.asarray(lone[int(n)]["masks"]))
        for n in train._subset
    ]
    assert np.mean(after) > np.mean(before) - 0.05
    assert np.mean(after) > 0.8


def test_the_frame_moves_to_the_person_and_opens_for_a_wide_one():
    points = np.zeros((18, 3), np.float32)
    points[:2] = ((0.9, 0.2, 1), (0.92, 0.8, 1))
    frame = person_frame((100, 200), points, 64, 32)
    assert (frame.width, frame.height) == (50, 100)
    assert frame.left == 150  # as far right as the picture reaches
    points[2] = (0.1, 0.5, 1)
    assert person_frame((100, 200), points, 64, 32).width == 200


def test_references_are_other_rows_of_the_person():
    people = ["a", "b", "a", "c", "a"]
    partners = Partners(people)
    assert sorted(partners.of(0, 0)) == [2, 4]
    assert {partners.of(0, view)[0] for view in range(4)} == {2, 4}  # every version its own
    assert partners.of(1, 0) == []


def test_held_out_people_are_in_no_training_row():
    people = [f"p{row // 4}" for row in range(80)]
    train, held = hold_out(people, 8)
    assert len(held) == 8
    assert not {people[row] for row in train} & {people[row] for row in held}
    train, held = hold_out(["one"] * 20, 2)
    assert len(train) == 18
    assert [len(part) for part in hold_out(["one"] * 2, 2)] == [2, 2]


def test_own_picture_is_the_reference_of_a_lone_one(tmp_path, lone):
    source = save_parquet(lone.remove_columns("identity"), tmp_path / "rows")
    rows = _tables(data(tmp_path, source))[0].read(np.arange(4))
    assert rows["own_reference"].all()
    np.testing.assert_array_equal(rows["reference"], rows["image"])


def test_references_of_their_own_and_views(tmp_path, avatars):
    source = save_parquet(avatars, tmp_path / "rows")
    train, _ = _tables(data(tmp_path, source, views=3))
    count = len(train._subset)
    assert len(train) == 3 * count
    rows = train.read(np.array([0, count]))
    np.testing.assert_array_equal(rows["image"][0], rows["image"][1])
    np.testing.assert_array_equal(rows["reference"][0], rows["reference"][1])  # the row's own column
    assert rows["has_prompt"].all()


def broken(rows: Any, folder: Path, number: int, **cells: Any) -> Path:
    """The rows with cells of one of them replaced."""
    rows = rows.cast_column("image", datasets.Image(decode=False))
    rows = rows.cast_column("masks", datasets.Image(decode=False))
    kept = [dict(row) for row in rows]
    kept[number] |= cells
    return save_parquet(datasets.Dataset.from_list(kept, features=rows.features), folder, 1)


KEYPOINTS = np.zeros((18, 3), np.float32)
BAD = {
    "picture": ({"image": {"bytes": b"no picture", "path": None}}, "image of row 5.*damaged"),
    "nothing": ({"image": None}, "image of row 5 is empty"),
    "pixels": (
        {"keypoints": np.add(KEYPOINTS, (40, 70, 1)).tolist()},
        "keypoints of row 5 reach 70.*divide x",
    ),
    "nan": ({"keypoints": (KEYPOINTS + np.nan).tolist()}, "keypoints of row 5 hold NaN"),
    "confidence": ({"keypoints": np.add(KEYPOINTS, (0, 0, 7)).tolist()}, "third value is 7"),
    "size": ({"masks": {"bytes": png(Image.new("L", (9, 9))), "path": None}}, "masks of row 5 are 9 x 9"),
    "labels": ({"masks": {"bytes": png(Image.new("L", (72, 96), 255)), "path": None}}, "up to 255"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_named_with_its_cure_or_skipped_and_listed(tmp_path, lone, kind):
    cells, message = BAD[kind]
    source = broken(lone, tmp_path / "rows", 5, **cells)
    held = {"validation_split": "train[:1]"}
    train, _ = _tables(data(tmp_path, source, **held))
    with pytest.raises(ValueError, match=message):
        train.read(np.array([4, 5]))
    train, _ = _tables(data(tmp_path, source, on_error="skip", **held))
    rows = train.read(np.array([5, 6]))
    np.testing.assert_array_equal(rows["image"][0], rows["image"][1])  # the next one stands in
    train.read(np.array([5]))
    (line,) = train.skipped.file.read_text().splitlines()
    assert json.loads(line)["row"] == 5


def test_missing_columns_wrong_maps_and_empty_sources_are_sentences(tmp_path, lone):
    source = save_parquet(lone.rename_column("keypoints", "points"), tmp_path / "rows")
    with pytest.raises(ValueError, match=r"no column 'keypoints'.*data.column_map.keypoints=NAME"):
        _tables(data(tmp_path, source))
    with pytest.raises(ValueError, match="did you mean 'points'"):
        _tables(data(tmp_path, source, column_map={"keypoints": "point"}))
    with pytest.raises(ValueError, match="did you mean 'keypoints'"):
        _tables(data(tmp_path, source, column_map={"keypoint": "points"}))
    assert len(_tables(data(tmp_path, source, column_map={"keypoints": "points"}))[0]) == COUNT - 1
    with pytest.raises(ValueError, match=r"split 'test'"):
        _tables(data(tmp_path, source, split="test"))
    (tmp_path / "empty").mkdir()
    for place, message in (
        ("empty", "the folder is empty"),
        ("none.parquet", "no such file"),
        ("x/y", "no such"),
    ):
        with pytest.raises(ValueError, match=message):
            _tables(data(tmp_path, tmp_path / place))
    nothing = save_parquet(lone.select([]), tmp_path / "nothing", 1)
    with pytest.raises(ValueError, match="has no rows; make rows"):
        _tables(data(tmp_path, nothing))


def test_the_hub_out_of_reach_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"data\.source='somebody/nothing'"):
        open_dataset(data(tmp_path, "somebody/nothing"), "train")


def stream(tmp_path: Path, source: Path, **changes: Any) -> StreamRows:
    config = data(tmp_path, source, streaming=True, **changes)
    dataset = open_dataset(config, "train")
    columns = Columns(config.column_map, next(iter(dataset)), config.source)
    return StreamRows(dataset, columns, config, "f", seed=0)


def captions(rows: StreamRows, steps: range, rank: int = 0, processes: int = 1) -> list[str]:
    return [
        text
        for step in steps
        for text in rows.read(step_draws(0, step, 2, rank=rank, processes=processes))["caption"]
    ]


def test_a_stream_reads_every_row_once_and_goes_on_where_it_was(tmp_path, lone):
    source = save_parquet(lone, tmp_path / "rows", shards=4)
    straight = captions(stream(tmp_path, source), range(15))
    assert sorted(straight[:COUNT]) == sorted(lone["caption"])
    assert sorted(straight[COUNT : 2 * COUNT]) == sorted(lone["caption"])
    assert straight[:COUNT] != straight[COUNT : 2 * COUNT]
    for learned in (True, False):  # with and without the shards' row counts
        if not learned:
            (tmp_path / "cache" / "stream-f.json").unlink()
        assert captions(stream(tmp_path, source), range(8, 15)) == straight[16:]


@pytest.mark.parametrize("shards", [4, 1])
def test_two_processes_share_a_stream(tmp_path, lone, shards):
    source = save_parquet(lone, tmp_path / "rows", shards=shards)
    parts = [captions(stream(tmp_path, source), range(3), rank, 2) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == sorted(lone["caption"])


def test_a_stream_skips_and_lists_bad_rows(tmp_path, lone):
    source = broken(lone, tmp_path / "rows", 5, **BAD["picture"][0])
    rows = stream(tmp_path, source, on_error="skip")
    assert len(captions(rows, range(6))) == COUNT
    assert len(rows.skipped.file.read_text().splitlines()) == 1
    with pytest.raises(ValueError, match="image of row 5"):
        captions(stream(tmp_path, source), range(6))
