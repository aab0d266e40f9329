"""Repositories on the Hub, against a stand-in on this machine: pushing, both readers, and what is missing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from diffusers import ModelMixin
from local_hub import local_hub
from tiny_pipelines import make_sd15

from bolid.hub import MODULES, card_text, write_hub_layout
from bolid.loading import ADAPTERS

TESTS = Path(__file__).parent
# One process for all of it: importing diffusers is what such a test costs.
SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
sys.modules["bolid"] = None  # not installed
from diffusers import DiffusionPipeline
try:
    DiffusionPipeline.from_pretrained("me/ready", trust_remote_code=True)
except ImportError as error:
    print("missing:", error)
for name in [name for name in sys.modules if name.startswith("bolid") or "diffusers_modules" in name]:
    del sys.modules[name]

from tiny_pipelines import MAKERS, make_reference, make_xl
from stock_pipelines import draw
from bolid import BoLIDPipeline
pipe, person = make_xl(), make_reference()
expected = draw(pipe, reference=person, pose="sitting")
print("pushed:", pipe.push_to_hub("me/whole", card={card!r}, variant="fp16", max_shard_size="60KB"))
print("again:", pipe.push_to_hub("me/whole", card={card!r}, variant="fp16", max_shard_size="60KB"))
pipe.push_bolid_adapter_to_hub("me/adapter")
from bolid.__main__ import main
pipe.save_pretrained({folder!r})
assert main(["push", {folder!r}, "me/by-command", "--variant", "fp16", "--card", {card!r}]) == 0
for name, make in MAKERS.items():
    one = make()
    one.push_to_hub(f"me/{{name}}", card={card!r}, variant="fp16")
    drawn = draw(one, reference=person, pose="sitting")
    ours = BoLIDPipeline.from_pretrained(f"me/{{name}}", variant="fp16")
    theirs = DiffusionPipeline.from_pretrained(f"me/{{name}}", variant="fp16", trust_remote_code=True)
    for opened in (ours, theirs):
        opened.set_progress_bar_config(disable=True)
        same = (draw(opened, reference=person, pose="sitting") == drawn).all().item()
        print("opened:", name, type(opened).__name__, type(opened) is type(one), same)
ours = BoLIDPipeline.from_pretrained("me/whole", variant="fp16")
ours.set_progress_bar_config(disable=True)
print("sharded:", (draw(ours, reference=person, pose="sitting") == expected).all().item())
ours.unload_bolid_adapter()
ours.load_bolid_adapter("me/adapter")
print("adapter:", (draw(ours, reference=person, pose="sitting") == expected).all().item())
try:
    ours.load_bolid_adapter("me/nowhere")
except ValueError as error:
    print("nowhere:", error)
"""


def test_two_readers_of_one_repository(tmp_path: Path) -> None:
    hub, card = tmp_path / "hub", tmp_path / "card.md"
    header = "---\nlibrary_name: diffusers\nwidget:\n  - text: a\n    output:\n      url: docs/b.png\n---\n"
    links = "![a](docs/a.png) [b](missing.md) [c](https://x.org/c) [d](../d.txt)"
    card.write_text(f"{header}# What it is\n{links}")
    (tmp_path / "docs").mkdir()
    for name in ("docs/a.png", "docs/b.png", "docs/unseen.png"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path.parent / "d.txt").write_text("not beside the card")
    make_sd15().save_pretrained(hub / "me" / "ready")
    write_hub_layout(hub / "me" / "ready", "")
    with local_hub(hub) as (address, asked):
        environment = os.environ | {
            "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "hf_none", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        script = SCRIPT.format(tests=str(TESTS), card=str(card), folder=str(tmp_path / "saved"))
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, cwd=TESTS.parent, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert "needs the package bolid, which is not on PyPI: run `pip install .` in a clone" in lines["missing"]
    assert lines["pushed"].startswith(f"{address}/me/whole/commit/")
    assert lines["again"] == lines["pushed"]
    by_command = hub / "me" / "by-command"
    assert list((by_command / "unet").glob("*.fp16.safetensors"))
    assert (by_command / "README.md").read_text() == card.read_text()
    for name, kind in (("mini", "BoLIDPipeline"), ("sd15", "BoLIDPipeline"), ("xl", "BoLIDXLPipeline")):
        assert done.stdout.count(f"opened: {name} {kind} True True") == 2
    assert lines["sharded"] == "True"
    assert lines["adapter"] == "True"
    assert "neither a folder nor a repository" in lines["nowhere"]
    repository = hub / "me" / "whole"
    assert (repository / "README.md").read_text() == card.read_text()
    shown = {path.relative_to(repository).as_posix() for path in (repository / "docs").rglob("*")}
    assert shown == {"docs/a.png", "docs/b.png"}
    assert not (hub / "me" / "d.txt").exists()
    assert not [path for path in repository.rglob("*") if path.suffix in (".bin", ".pt")]
    assert list((repository / "unet").glob("*.fp16-00001-of-*.safetensors"))
    assert (hub / "me" / "adapter" / "adapter" / "config.json").is_file()
    assert any(line.startswith("POST api/models/me/whole/commit") for line in asked)


def test_every_component_of_ours_has_its_file() -> None:
    """Else `DiffusionPipeline.from_pretrained` finds no class for it in the repository."""
    assert set(ADAPTERS.values()) <= set(MODULES.values())
    for module in MODULES.values():
        kinds = [each for each in vars(importlib.import_module(module)).values() if isinstance(each, type)]
        assert any(issubclass(each, ModelMixin) and each.__module__ == module for each in kinds), module


def test_the_layout_opens_from_a_folder_too(tmp_path: Path) -> None:
    from bolid import BoLIDPipeline

    make_sd15().save_pretrained(tmp_path)
    write_hub_layout(tmp_path, "card")
    index: dict[str, Any] = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "BoLIDPipeline"]
    assert index["adapter"] == ["bolid_adapter", "BoLIDAdapter"]
    for file in ("pipeline.py", "adapter/bolid_adapter.py", "estimator/bolid_estimator.py"):
        compile((tmp_path / file).read_text(), file, "exec")
    opened = BoLIDPipeline.from_pretrained(tmp_path)
    assert type(opened) is BoLIDPipeline
    opened.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "model_index.json").read_text())
    assert again["_class_name"] == "BoLIDPipeline"
    assert again["adapter"] == ["bolid.adapter", "BoLIDAdapter"]


def test_cards(tmp_path: Path) -> None:
    from bolid.__main__ import card_of

    root = TESTS.parent
    assert card_of(root / "models" / "bolid-mini") == root / "model_card.md"
    (tmp_path / "README.md").write_text("mine")
    assert card_of(tmp_path) == tmp_path / "README.md"
    assert card_of(tmp_path / "docs") is None
    assert "says nothing yet of data, training, figures, limits" in card_text(None, "me/x")
    with pytest.raises(ValueError, match="does not exist; give the path of a Markdown file"):
        card_text(tmp_path / "missing.md", "me/x")


def test_the_shipped_card_is_whole() -> None:
    """What the Hub's readers look for; figures come from runs, by the commands that stand below them."""
    from huggingface_hub import ModelCard

    path = TESTS.parent / "model_card.md"
    card = ModelCard.load(path)
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "diffusers")
    (widget,) = card.data.to_dict()["widget"]
    assert (path.parent / widget["output"]["url"]).is_file()
    titles = {line[3:] for line in card.text.splitlines() if line.startswith("## ")}
    assert titles >= {
        "Training data", "Training procedure", "Evaluation", "In stock tools", "Limits",
        "Misuse and consent", "Licences of the parts",
    }  # fmt: skip
    for name, command in (("figures", "eval/run.py"), ("export cost", "eval/export_cost.py")):
        shown = card.text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
        assert f"python {command}" in shown
        assert shown.count("\n| ") > 4
