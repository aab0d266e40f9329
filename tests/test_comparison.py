"""eval/run.py --models on tiny models: every file of it, resuming, sharding, and mistakes that it names."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scripts import open_script
from tiny_pipelines import HEIGHT, WIDTH, make_mini

from bolid import BoLIDPipeline
from bolid.avatars.identity import ATTRIBUTES
from bolid.evaluation.calls import Call, DrawOptions
from bolid.evaluation.contestants import METHODS, find_contestants
from bolid.evaluation.pairs import held_out_pairs
from bolid.evaluation.progress import Progress, duration
from bolid.evaluation.provenance import weights_hash
from bolid.evaluation.session import unlike
from bolid.evaluators import AppearanceEvaluator, PoseEvaluator
from bolid.training.checkpoint import STATE_FILE

ROOT = Path(__file__).parents[1]
ENV = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
SMALL = {"channels": (8, 8, 16), "point_channels": 8, "hidden": 16, "embedding": 8, "head_crop": 24}


def save_evaluators(folder: Path) -> None:
    """Tiny ones with random weights."""
    PoseEvaluator(HEIGHT, WIDTH, stem_channels=16, channels=16, context_channels=16).save_pretrained(
        folder / "pose"
    )
    sizes = tuple(map(len, ATTRIBUTES.values()))
    AppearanceEvaluator(tuple(ATTRIBUTES), sizes, 8, HEIGHT, WIDTH, **SMALL).save_pretrained(
        folder / "appearance"
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/METHOD/seed-K/export` with two trainings of bolid and one of ip_adapter, and `evaluators`."""
    root = tmp_path_factory.mktemp("comparison")
    for method, seed in (("bolid", 0), ("bolid", 1), ("ip_adapter", 2)):
        make_mini(seed).save_pretrained(root / "runs" / method / f"seed-{seed}" / "export")
    run = root / "runs" / "ip_adapter" / "seed-2" / "checkpoint-7"
    run.mkdir()
    (run / STATE_FILE).touch()
    (run / "run.json").write_text(json.dumps({"step": 7, "global_batch": 16}))
    save_evaluators(root / "evaluators")
    return root


def arguments(home: Path, output: Path, *models: str, more: tuple[str, ...] = ()) -> list[str]:
    given = ["--models", *models, "--runs", str(home / "runs"), "--evaluators", str(home / "evaluators")]
    given += ["--samples", "64", "--seeds", "2", "--steps", "1", "--steps-unposed", "2"]
    given += ["--processes", "1", "--device", "cpu"]
    return [*given, "--output", str(output), *more]


@pytest.fixture(scope="module")
def done(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison."""
    output = tmp_path_factory.mktemp("output") / "c"
    more = ("--sweeps", "strength", "steps", "head", "--sweep-samples", "16")
    assert open_script("eval/run").main(arguments(home, output, "ip_adapter", "bolid", more=more)) == 0
    return output


def test_every_row_has_its_pictures_and_intervals(done: Path) -> None:
    results = json.loads((done / "results.json").read_text())
    assert [row["name"] for row in results["table"]] == [
        "truth", "another", "base", "ip_adapter", "bolid", "ip_adapter+pose", "bolid+pose",
    ]  # fmt: skip
    pictures = {row: found["pictures"] for row, found in results["distribution"].items()}
    # 16 pairs x 2 sampling seeds x 2 trainings; one training is drawn with 4 sampling seeds
    assert pictures["bolid+pose"] == pictures["ip_adapter+pose"] == pictures["base"] == 64
    assert len(list((done / "rows" / "bolid+pose").iterdir())) == 4
    pck = results["rows"]["bolid+pose"]["all"]["pck"]
    assert pck["low"] <= pck["mean"] <= pck["high"]
    assert results["rows"]["truth"]["all"]["lpips"]["mean"] == pytest.approx(0, abs=1e-6)
    assert 0 <= results["rows"]["bolid+pose"]["all"]["identified"]["mean"] <= 1
    assert results["rows"]["bolid+pose"]["all"]["diversity"]["mean"] > 0
    assert results["distribution"]["bolid+pose"]["fid"] >= 0  # 64 pictures bear 32 features
    assert {test["row"] for test in results["tests"]} == {"base", "bolid", "ip_adapter", "ip_adapter+pose"}
    assert {tuple(test["trainings"]) for test in results["tests"]} == {(2, 1), (2, 2)}
    training = {row["name"]: row["training"] for row in results["table"]}
    assert training["ip_adapter"] == "7 steps of 16 rows"
    assert training["bolid"] == "2 x see its card"


def test_each_picture_has_a_row_in_parquet(done: Path) -> None:
    table = pq.read_table(sorted((done / "rows" / "ip_adapter+pose").iterdir())[0])
    assert {"row", "pair", "training", "sampling", "weights", "pck", "lpips", "body", "picture"} <= set(
        table.column_names
    )
    assert table.column("pair").to_pylist() == list(range(16))
    assert set(table.column("row").to_pylist()) == {"ip_adapter+pose"}


def test_rows_without_a_pose_have_steps_of_their_own(home: Path, done: Path) -> None:
    pipe = BoLIDPipeline.from_pretrained(home / "runs" / "bolid" / "seed-0" / "export")
    pairs = held_out_pairs(16, HEIGHT, WIDTH, 1)
    for row, steps in (("bolid", 2), ("bolid+pose", 1)):
        call = Call() if row.endswith("pose") else Call(pose=None)
        drawn = call(pipe, pairs, slice(0, 16), DrawOptions(steps=steps))
        weights = weights_hash(str(home / "runs" / "bolid" / "seed-0" / "export"))
        kept = pq.read_table(done / "rows" / row / f"{weights}-0-00000-00016.parquet").column("picture")
        picture = np.asarray(Image.open(io.BytesIO(kept[0].as_py())).convert("RGB"))
        assert np.array_equal(picture, drawn[0])


def test_the_verdict_says_what_the_methods_do_not_share(home: Path, done: Path, tmp_path: Path) -> None:
    verdict = json.loads((done / "results.json").read_text())["answers"][0]["verdict"]
    assert "not one amount of training (BoLID see its card, IP-Adapter 7 steps of 16 rows)" in verdict
    assert re.search(
        r"not one base \(BoLID \w{12}, BoLID \w{12}, IP-Adapter \w{12}\)", verdict
    )  # random ones
    shutil.copytree(home / "runs" / "bolid", tmp_path / "bolid")
    first, second = (tmp_path / "bolid" / f"seed-{seed}" / "export" / "unet" for seed in (0, 1))
    shutil.rmtree(second)
    shutil.copytree(first, second)
    assert unlike(find_contestants(["bolid"], tmp_path, "models/none")) == ()


def test_strength_and_guidance_of_all_rows_are_used_and_told(home: Path, done: Path, tmp_path: Path) -> None:
    more = ("--id-strength", "0", "--guidance", "1", "--samples", "32")
    assert open_script("eval/run").main(arguments(home, tmp_path / "o", "ip_adapter", more=more)) == 0
    results = json.loads((tmp_path / "o" / "results.json").read_text())
    found = [results["rows"][row]["all"]["id_similarity"]["mean"] for row in ("base", "ip_adapter")]
    assert found[0] == pytest.approx(found[1], abs=1e-6)  # at strength 0 nobody is shown
    assert "guidance 1, id_strength 0;" in (tmp_path / "o" / "results.md").read_text()
    assert "each model's own guidance, each model's own id_strength;" in (done / "results.md").read_text()


def test_the_report_holds_everything(done: Path) -> None:
    text, markdown = (done / "report.html").read_text(), (done / "results.md").read_text()
    assert not re.search(r'(src|href)="(?!data:)', text)  # nothing beside it is needed
    assert text.count("<svg") == len(list(done.glob("*.svg")))
    assert {path.name for path in done.glob("*.svg")} >= {
        "pck-by-strength.svg", "pck-by-steps.svg", "pck-by-pose.svg", "identity-against-pose.svg",
    }  # fmt: skip
    for part in (text, markdown):
        assert "ID_sim-mini" in part
        assert "Does each approach carry from the face to the body?" in part
        assert "weights" in part
        assert "Appendix: denoising steps" in part
        assert "without detection scores" in part
    assert re.search(r"^\| BoLID \| 20 \| 32 \|", markdown, re.MULTILINE)  # no row of the table has 20
    assert text.index("<img") < text.index("<svg") < text.index("Every figure")
    assert "FID-mini" in markdown
    assert Image.open(done / "grid.jpg").width == (2 + 7) * WIDTH


def test_questions_are_answered_from_the_rows(done: Path) -> None:
    answers = {a["question"]: a for a in json.loads((done / "results.json").read_text())["answers"]}
    for question in (
        "What is left when the reference's head is hidden?",
        "How does identity fall with strength?",
    ):
        assert answers[question]["lines"]
    assert (
        "InstantID, PuLID not compared"
        in answers["Is BoLID ahead of every baseline at the same pose?"]["verdict"]
    )
    assert "seed" in answers["Is BoLID ahead of every baseline at the same pose?"]["verdict"]


def test_what_is_kept_is_not_drawn_again_and_a_crash_loses_nothing(
    home: Path, done: Path, tmp_path: Path
) -> None:
    output = tmp_path / "again"
    shutil.copytree(done, output)
    pieces = sorted((output / "rows" / "bolid").iterdir())
    before = {path.name: path.stat().st_mtime_ns for path in pieces}
    pieces[1].unlink()  # as a crash would leave it
    (pieces[1].parent / "half.part").write_bytes(b"PAR1")
    assert open_script("eval/run").main(arguments(home, output, "ip_adapter", "bolid")) == 0
    after = {path.name: path.stat().st_mtime_ns for path in pieces}
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == [pieces[1].name]
    first, second = (json.loads((each / "results.json").read_text())["rows"] for each in (done, output))
    assert first["bolid"]["all"]["pck"] == second["bolid"]["all"]["pck"]


def test_other_settings_are_refused_and_other_weights_drawn_anew(
    home: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = open_script("eval/run")
    assert run.main(arguments(home, done, "bolid", more=("--seed", "3"))) == 2
    assert "seed: 0 then, 3 now" in capsys.readouterr().err
    runs = tmp_path / "runs"
    make_mini(9).save_pretrained(runs / "bolid" / "seed-0" / "export")
    output = tmp_path / "c"
    shutil.copytree(done, output)
    given = arguments(home, output, "bolid")
    given[given.index("--runs") + 1] = str(runs)
    given[given.index("--samples") + 1] = "32"
    assert run.main(given) == 2  # 32 samples are other settings
    given[given.index("--samples") + 1] = "64"
    given[given.index("--seeds") + 1] = "2"
    assert run.main(given) == 2
    assert "pairs: 16 then, 32 now" in capsys.readouterr().err


def test_two_processes_draw_what_one_draws(home: Path, tmp_path: Path) -> None:
    output, few = tmp_path / "two", ("--samples", "32")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        str(ROOT / "eval" / "run.py"), *arguments(home, output, "ip_adapter", more=few),
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=300)
    assert found.returncode == 0, found.stderr[-2000:]
    results = json.loads((output / "results.json").read_text())
    assert results["distribution"]["ip_adapter"]["pictures"] == 32
    alone = tmp_path / "one"
    assert open_script("eval/run").main(arguments(home, alone, "ip_adapter", more=few)) == 0
    one, two = (json.loads((each / "results.json").read_text())["rows"] for each in (alone, output))
    assert one["ip_adapter"]["all"]["pck"]["mean"] == pytest.approx(two["ip_adapter"]["all"]["pck"]["mean"])


def test_the_card_gets_what_the_hub_reads(home: Path, done: Path, tmp_path: Path) -> None:
    output, card = tmp_path / "c", tmp_path / "model_card.md"
    shutil.copytree(done, output)
    card.write_text((ROOT / "model_card.md").read_text())
    told = tmp_path / "README.md"
    told.write_text("a\n<!-- comparison -->\n<!-- /comparison -->\nb\n")
    more = ("--update-card", str(card), "--update", str(told))
    assert open_script("eval/run").main(arguments(home, output, "ip_adapter", "bolid", more=more)) == 0
    for word in (
        "FID-mini",
        "LPIPS-mini",
        "ID_sim-mini",
        "PCK@0.1-mini",
        "IP-Adapter, no pose",
        "64 pictures",
    ):
        assert word in told.read_text()
    from huggingface_hub import ModelCard

    found = ModelCard.load(card)
    names = {result.metric_name for result in found.data.eval_results}  # pyright: ignore
    assert {"ID_sim-mini", "PCK@0.1-mini", "LPIPS-mini", "KID-mini"} <= names
    body = card.read_text().split("---\n", 2)[2]
    assert body == (ROOT / "model_card.md").read_text().split("---\n", 2)[2]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (("pulid",), r"no .*pulid/seed-\*/export. Train it: .*baseline-pulid.yaml"),
        (("nonsense",), "neither a method .* nor a folder nor a Hub id"),
        (("bolid", "bolid"), "names 'bolid' twice"),
    ],
)
def test_models_that_cannot_be_found_are_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], models: tuple[str, ...], message: str
) -> None:
    assert open_script("eval/run").main(arguments(home, tmp_path / "o", *models)) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_plain_base_is_no_bolid(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = make_mini()
    pipe.unload_bolid_adapter()
    pipe.save_pretrained(tmp_path / "plain")
    assert open_script("eval/run").main(arguments(home, tmp_path / "o", str(tmp_path / "plain"))) == 2
    assert "is no BoLID: it has no adapter" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text(
        json.dumps({"_class_name": "FluxPipeline", "adapter": ["a", "B"]})
    )
    assert open_script("eval/run").main(arguments(home, tmp_path / "o", str(other))) == 2
    assert "FluxPipeline; BoLID works with" in capsys.readouterr().err


def test_empty_and_mixed_folders_of_pictures_are_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = open_script("eval/run"), tmp_path / "drawn"
    folder.mkdir()
    assert run.main(arguments(home, tmp_path / "o", str(folder))) == 2
    assert "holds no pictures" in capsys.readouterr().err
    for i, size in enumerate([(64, 96), (64, 96), (32, 48)]):
        Image.new("RGB", size, "red").save(folder / f"{i}.png")
    assert run.main(arguments(home, tmp_path / "o", str(folder))) == 2
    assert "mixes sizes: 0.png is 64 x 96, 2.png 32 x 48" in capsys.readouterr().err
    Image.new("RGB", (64, 96), "red").save(folder / "2.png")
    assert run.main(arguments(home, tmp_path / "o", str(folder))) == 2
    assert "3 pictures, 32 pairs are measured" in capsys.readouterr().err


def test_pictures_of_somebody_elses_model_are_measured(home: Path, tmp_path: Path) -> None:
    folder, rng = tmp_path / "theirs", np.random.default_rng(0)
    folder.mkdir()
    for i in range(32):
        noise = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i:05d}.png")
    output = tmp_path / "o"
    assert open_script("eval/run").main(arguments(home, output, "ip_adapter", str(folder))) == 0
    results = json.loads((output / "results.json").read_text())
    assert results["distribution"]["theirs"]["pictures"] == results["distribution"]["theirs"]["pairs"] == 32
    first = results["rows"]["theirs"]["all"]["lpips"]["mean"]
    assert first > 0
    for file in folder.iterdir():
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(file)
    assert open_script("eval/run").main(arguments(home, output, "ip_adapter", str(folder))) == 0
    results = json.loads((output / "results.json").read_text())
    assert results["rows"]["theirs"]["all"]["lpips"]["mean"] != pytest.approx(first)  # not what was kept


def test_too_few_samples_are_refused_and_few_have_kid_alone(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = open_script("eval/run")
    assert run.main(arguments(home, tmp_path / "o", "bolid", more=("--samples", "8"))) == 2
    assert "at least 16 are needed: --samples 64" in capsys.readouterr().err
    assert run.main(arguments(home, tmp_path / "p", "ip_adapter", more=("--samples", "32"))) == 0
    found = json.loads((tmp_path / "p" / "results.json").read_text())
    entry = found["distribution"]["ip_adapter"]
    assert entry["fid"] is None
    assert np.isfinite(entry["kid"])
    told = next(remark for remark in found["remarks"] if "too few for FID" in remark)
    assert told.startswith("No FID of Another person, same pose and scene: 16 pictures")


def test_missing_standard_networks_are_told_and_refused_by_name(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bolid.evaluation.standard import open_networks

    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    assert (
        open_script("eval/run").main(
            arguments(home, tmp_path / "o", "bolid", more=("--networks", "standard"))
        )
        == 2
    )
    assert "torch_fidelity is not installed: pip install torch-fidelity" in capsys.readouterr().err
    told: list[str] = []
    networks = open_networks("auto", str(home / "evaluators"), "cpu", False, told.append)
    assert networks.kind == "mini"
    assert "Measuring with the mini networks instead" in told[0]


def test_methods_have_configs_and_are_found_by_their_trainings(home: Path) -> None:
    (found,) = find_contestants(["bolid"], home / "runs", "shipped")
    assert len(found.folders) == 2
    (shipped,) = find_contestants(["bolid"], home / "nowhere", "shipped")
    assert shipped.folders == ("shipped",)
    assert "as shipped" in shipped.title
    assert set(METHODS) >= {"ip_adapter", "instantid", "pulid", "bolid"}


def test_progress_tells_what_is_left() -> None:
    progress = Progress(100, show=False)
    progress.add(10, "a", kept=True)
    assert progress.line("a") == "a: 10/100"
    progress.add(10, "a")
    assert re.fullmatch(r"a: 20/100, [\d.]+/s, \d+ s left", progress.line("a"))
    assert [duration(s) for s in (45, 542, 7500)] == ["45 s", "9 min 2 s", "2 h 5 min"]
