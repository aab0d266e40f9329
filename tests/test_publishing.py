"""`--push_to_hub`: the card tells where a model comes from; an unreachable Hub loses nothing."""

import dataclasses
import json

import pytest
import yaml
from huggingface_hub import constants
from local_hub import local_hub

from bolid.training.checkpoint import save_checkpoint
from bolid.training.config import TrainConfig
from bolid.training.publishing import card, push


@pytest.fixture
def trained(tmp_path):
    """A finished run: config, checkpoint, figures, export."""
    config = TrainConfig(output_dir=str(tmp_path / "out"), stage="diffusion", hub_model_id="user/person")
    exported = tmp_path / "out" / "export"
    (exported / "adapter").mkdir(parents=True)
    (exported / "adapter" / "config.json").write_text("{}")
    (exported / "model_index.json").write_text("{}")
    facts = json.dumps({"step": 5, "git_revision": "abc", "dataset_fingerprint": "f00", "global_batch": 32})
    save_checkpoint(tmp_path / "out", 5, {"step": 5}, {"run.json": facts}, 1)
    (tmp_path / "out" / "log.jsonl").write_text('{"step": 5, "held_out": {"v_error": 0.25}}\n')
    return config, exported


def test_card_names_code_data_config_and_figures(trained):
    config, exported = trained
    config = dataclasses.replace(config, objective={"base": "owner/base"})
    text = card(exported, config, "user/person")
    header = yaml.safe_load(text.split("---")[1])
    assert header["base_model"] == "owner/base"
    assert header["library_name"] == "diffusers"
    for part in ("`abc`", "`f00`", "5 optimiser steps of 32 rows", "| v_error | 0.25 |", "consent"):
        assert part in text
    assert 'from_pretrained("user/person")' in text
    (exported / "model_index.json").unlink()
    assert "from_pretrained" not in card(exported, config, "user/person")


def test_upload_puts_export_and_card_into_the_repository(trained, tmp_path, monkeypatch):
    config, exported = trained
    with local_hub(tmp_path / "hub") as (address, _):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        assert push(exported, config) == 0
    there = tmp_path / "hub" / "user" / "person"
    assert (there / "adapter" / "config.json").read_text() == "{}"
    assert "5 optimiser steps" in (there / "README.md").read_text()


def test_unreachable_hub_is_a_sentence_and_code_3(trained, monkeypatch, caplog):
    config, exported = trained
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    assert push(exported, config) == 3
    assert f"hf upload user/person {exported}" in caplog.text
    assert (exported / "adapter" / "config.json").is_file()
