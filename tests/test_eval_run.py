"""eval/run.py from end to end on a tiny model: files, resuming, and mistakes that it names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import open_script
from tiny_pipelines import HEIGHT, WIDTH, make_mini

from bolid.avatars.identity import ATTRIBUTES
from bolid.evaluation.calls import Call, DrawOptions
from bolid.evaluation.dataset import open_pairs
from bolid.evaluation.drawing import DRAWERS, draw_row, same_pictures
from bolid.evaluation.pairs import Pairs, held_out_pairs
from bolid.evaluation.report import card_figures, fill, save_jpeg
from bolid.evaluators import AppearanceEvaluator, PoseEvaluator
from bolid.identity import Identity
from bolid.pipeline import BoLIDPipeline
from bolid.reference import Reference

PAIRS = 16


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return held_out_pairs(PAIRS, HEIGHT, WIDTH, processes=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A saved tiny model and saved tiny evaluators."""
    root = tmp_path_factory.mktemp("models")
    make_mini().save_pretrained(root / "mini")
    small = {"channels": (8, 16, 16), "point_channels": 8, "hidden": 16, "embedding": 8, "head_crop": 24}
    sizes = tuple(map(len, ATTRIBUTES.values()))
    pose = PoseEvaluator(HEIGHT, WIDTH, stem_channels=16, channels=16, context_channels=16)
    pose.save_pretrained(root / "evaluators" / "pose")
    appearance = AppearanceEvaluator(tuple(ATTRIBUTES), sizes, 8, HEIGHT, WIDTH, **small)
    appearance.save_pretrained(root / "evaluators" / "appearance")
    return root / "mini", root / "evaluators"


def arguments(folders: tuple[Path, Path], output: Path, *more: str) -> list[str]:
    model, evaluators = (str(folder) for folder in folders)
    given = ["--model", model, "--evaluators", evaluators, "--output", str(output), "--device", "cpu"]
    return [
        *given,
        "--pairs",
        str(PAIRS),
        "--sweep-pairs",
        str(PAIRS),
        "--steps",
        "1",
        "--processes",
        "1",
        *more,
    ]


def test_the_split_is_the_one_asked_for(
    folders: tuple[Path, Path], pairs: Pairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = open_script("eval/run")
    chosen = open_pairs("avatars", "validation", PAIRS, (HEIGHT, WIDTH), 1, tmp_path / "cache")
    assert not (chosen.image == pairs.image).all((1, 2, 3)).any()
    more = ("--rows", "truth", "--split", "validation")
    assert run.main(arguments(folders, tmp_path / "q", *more)) == 0
    assert "of the split validation" in (tmp_path / "q" / "results.md").read_text()
    kept = np.load(next((tmp_path / "q" / "pictures" / "truth").glob("*.npy")))
    assert (kept == chosen.image).all()
    assert run.main(arguments(folders, tmp_path / "no", "--split", "exam")) == 2
    assert "train, validation, test" in capsys.readouterr().err


def test_a_suite_writes_its_results_and_goes_on_where_it_was(folders: tuple[Path, Path], tmp_path: Path):
    run, output = open_script("eval/run"), tmp_path / "q"
    assert run.main(arguments(folders, output)) == 0
    results = json.loads((output / "results.json").read_text())
    assert set(results["rows"]) == {*run.MAIN, *run.SWEEPS}
    assert {gate["about"] for gate in results["gates"]} >= {"Words", "Strength", "Image prompt", "Speed"}
    differences = [gate for gate in results["gates"] if gate["sense"] in ("below", "not above")]
    assert differences
    assert all(np.isfinite(gate["measured"]["mean"]) for gate in differences)
    truth = results["rows"]["truth"]["all"]
    assert truth["error_head"]["mean"] == 0
    assert truth["psnr"]["mean"] == 99
    assert results["distribution"]["generated"]["fid_mini"] >= 0
    assert results["normalised_attributes"].keys() == results["rows"].keys()
    assert results["settings"]["model"]
    report = (output / "results.md").read_text()
    assert "| **Generated** |" in report
    assert "## Gates" in report
    words = report[report.index("## Words, by what they name") :]
    assert "| words | top | top's colour | bottom | bottom's colour |" in words
    assert "the first" not in card_figures(results)
    results["settings"]["pairs"] += 1
    assert f"| Base, text only (the first {PAIRS}) |" in card_figures(results)
    assert (output / "grid.jpg").stat().st_size <= 300_000
    kept = sorted((output / "pictures" / "generated").iterdir())[0]
    before = kept.stat().st_mtime_ns
    assert run.main(arguments(folders, output)) == 0
    assert kept.stat().st_mtime_ns == before
    assert json.loads((output / "results.json").read_text())["rows"] == results["rows"]


def test_a_sweep_s_point_at_the_call_s_own_strength_is_drawn_once():
    assert same_pictures("strength_1", DrawOptions()) == "generated"
    assert same_pictures("strength_0.5", DrawOptions()) == "strength_0.5"
    given = DrawOptions(id_strength=0.5)
    assert same_pictures("strength_0.5", given) == "generated"
    assert same_pictures("strength_1", given) == "strength_1"
    others = [row for row in DRAWERS if row != "strength_1"]
    assert [same_pictures(row, DrawOptions()) for row in others] == others


def test_several_processes_measure_what_one_does(folders: tuple[Path, Path], tmp_path: Path):
    run, rows = open_script("eval/run"), ("truth", "other_reference", "generated")
    found = []
    for count in ("1", "2"):
        output = tmp_path / count
        more = ("--rows", *rows, "--processes", count)
        assert run.main(arguments(folders, output, *more)) == 0
        found.append(json.loads((output / "results.json").read_text()))
    one, two = found
    assert list(one["rows"]) == list(two["rows"]) == list(rows)
    assert set(two["seconds_per_picture"]) == set(rows)
    for row in rows:
        for name, figure in one["rows"][row]["all"].items():
            assert two["rows"][row]["all"][name] == pytest.approx(figure, rel=1e-3, abs=1e-3, nan_ok=True)
    drawn = [np.load(next((tmp_path / count / "pictures" / "generated").glob("*.npy"))) for count in "12"]
    np.testing.assert_allclose(*(each.astype(int) for each in drawn), atol=1)


def test_kept_pictures_of_other_settings_are_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = open_script("eval/run")
    assert run.main(arguments(folders, tmp_path, "--rows", "truth")) == 0
    assert run.main(arguments(folders, tmp_path, "--rows", "truth", "--seed", "5")) == 2
    assert "seed: 0 then, 5 now" in capsys.readouterr().err


def test_evaluators_are_tried_on_spoilt_truth(folders: tuple[Path, Path], tmp_path: Path):
    run = open_script("eval/run")
    assert run.main(arguments(folders, tmp_path, "--suite", "mini-evaluators")) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    errors = {row: rows[row]["all"]["error_upper"]["mean"] for row in rows}
    assert errors["truth"] == 0
    assert 0 < errors["blurred"] < errors["swapped"]
    assert errors["recoloured"] > errors["blurred"]


def test_missing_evaluators_are_one_sentence_and_code_2(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = open_script("eval/run")
    assert run.main(arguments((folders[0], tmp_path / "none"), tmp_path / "q")) == 2
    assert "no evaluators" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run.parse(["--output", "x", "--pairs", "3"])
    for wrong in (["--dataset", "somebody/photos"], ["--suite", "mini-tokens", "--dataset", "rows"]):
        with pytest.raises(SystemExit):
            run.parse(["--output", "x", *wrong])
        assert "--models" in capsys.readouterr().err
    assert run.parse(["--output", "x", "--dataset", "rows", "--models", "a"]).dataset == "rows"


class Refusing:
    """The pipeline, with people for some references alone."""

    def __init__(self, pipe: BoLIDPipeline, people: list[Identity | None]) -> None:
        self.pipe, self.people = pipe, iter(people)

    def encode_identity(self, picture: np.ndarray) -> Identity:
        found = next(self.people)
        if found is None:
            raise ValueError(f"nobody in {picture.shape}")
        return found

    def __call__(self, *arguments: object, **named: object) -> object:
        return self.pipe(*arguments, **named)  # pyright: ignore[reportArgumentType]


def test_pairs_whose_reference_is_refused_are_drawn_without_one(
    mini: BoLIDPipeline, person: Reference, pairs: Pairs
):
    options, chunk, identity = DrawOptions(steps=1), slice(2, 5), mini.encode_identity(person)
    mixed = Call()(Refusing(mini, [identity, None, identity]), pairs, chunk, options)
    none = Call(person=None)(mini, pairs, chunk, options)
    assert mixed.shape == (3, HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(mixed[1].astype(int), none[1], atol=1)
    assert (mixed[0] != none[0]).any()


def test_pictures_do_not_depend_on_the_chunk(mini: BoLIDPipeline, person: Reference, pairs: Pairs):
    people = [mini.encode_identity(person)] * 4
    together = Call()(Refusing(mini, people), pairs, slice(0, 4), DrawOptions(steps=1))
    alone = Call()(Refusing(mini, people[:1]), pairs, slice(3, 4), DrawOptions(steps=1))
    np.testing.assert_allclose(together[3].astype(int), alone[0], atol=1)


def test_people_are_encoded_once_for_all_rows_but_again_with_a_hidden_head(
    mini: BoLIDPipeline, person: Reference, pairs: Pairs
):
    identity, options = mini.encode_identity(person), DrawOptions(steps=1)
    once = Refusing(mini, [identity, None, identity])  # a fourth is a StopIteration
    first = Call()(once, pairs, slice(0, 3), options)
    again = Call()(once, pairs, slice(0, 3), replace(options, seed=9))
    assert Call(pose=None)(once, pairs, slice(1, 3), options).shape == (2, HEIGHT, WIDTH, 3)
    assert (first[0] != again[0]).any()
    with pytest.raises(StopIteration):
        Call(hide="head")(once, pairs, slice(0, 1), options)


def test_unknown_rows_are_named(mini: BoLIDPipeline, pairs: Pairs, tmp_path: Path):
    with pytest.raises(ValueError, match="generated"):
        next(draw_row("nonsense", mini, pairs, DrawOptions(), tmp_path))
    assert "truth" in DRAWERS


def test_figures_are_filled_between_their_markers(tmp_path: Path):
    card = tmp_path / "card.md"
    card.write_text("a\n<!-- figures -->\nold\n<!-- /figures -->\nb\n")
    fill(card, "new")
    assert card.read_text() == "a\n<!-- figures -->\nnew\n<!-- /figures -->\nb\n"
    card.write_text("no markers")
    with pytest.raises(ValueError, match="figures"):
        fill(card, "new")


def test_jpegs_keep_their_limit(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    save_jpeg(noise, tmp_path / "a.jpg", limit=60_000)
    assert (tmp_path / "a.jpg").stat().st_size <= 60_000
    assert Image.open(tmp_path / "a.jpg").width < 600
