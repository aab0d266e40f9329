"""Files and features that must be refused, each with its reason: nothing is guessed or half loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from official_files import (
    LAYOUTS,
    checkpoint,
    numbers,
    tiny_unet,
)
from opened_baselines import features, mixed, opened
from torch import Tensor
from torch.testing import assert_close

from bolid.baselines import Features, build_baseline, load_baseline, split_checkpoint

INCOMPLETE = "Missing key|lacks|is missing|incomplete|serves|no known|layout of"
ALL = list(LAYOUTS)


def refusal(state: dict[str, Tensor], layout: str, match: str, family: str = "", **options: Any) -> None:
    with pytest.raises(ValueError, match=match):
        build_baseline(split_checkpoint(state, **options), tiny_unet(family or LAYOUTS[layout][1]))


def test_files_for_another_base_are_refused() -> None:
    refusal(checkpoint("ip-adapter_sd15"), "ip-adapter_sd15", "serves .* the UNet has", family="sdxl")
    state = checkpoint("instantid")
    state["ip_adapter.5.to_k_ip.weight"] = state["ip_adapter.5.to_k_ip.weight"][:, :-8]
    refusal(state, "instantid", r"Position 5 .* for another base")


@pytest.mark.parametrize("layout", ALL)
def test_incomplete_files_are_refused(layout: str) -> None:
    """Keys taken away, each alone: never a half-loaded file."""
    state, unet = checkpoint(layout), tiny_unet(LAYOUTS[layout][1])
    for key in list(state)[:: max(1, len(state) // 9)]:
        less = {name: value for name, value in state.items() if name != key}
        with pytest.raises(ValueError, match=INCOMPLETE):
            build_baseline(split_checkpoint(less, LAYOUTS[layout][0]), unet)


def test_keys_that_belong_nowhere_are_refused() -> None:
    for layout, key in (
        ("ip-adapter_sd15", "extra.weight"),
        ("ip-adapter_sd15", "image_proj.extra.weight"),
        ("ip-adapter_sd15", "ip_adapter.0.to_q_lora.down.weight"),
        ("pulid_v1", "id_adapter.mapping_5.0.weight"),
        ("ip-adapter-faceid_sd15", "ip_adapter.99.to_q_lora.down.weight"),
    ):
        refusal(checkpoint(layout) | {key: torch.zeros(1)}, layout, "extra|lora|mapping_5")


def test_unknown_and_foreign_layouts_are_refused() -> None:
    refusal({"pulid_encoder.latents": torch.zeros(1)}, "instantid", "FLUX")
    refusal({"lora_unet.weight": torch.zeros(1)}, "instantid", "no known checkpoint")
    refusal(checkpoint("instantid"), "instantid", "layout of instantid, not of 'pulid-v1'", method="pulid-v1")


def test_faceid_plus_versions_must_be_told_apart() -> None:
    """Both versions have the same keys: nothing is guessed."""
    state = checkpoint("ip-adapter-faceid-plus_sd15")
    refusal(state, "ip-adapter-faceid-plus_sd15", "versions 1 and 2", file_name="face.bin")
    for method, shortcut in (("ip-adapter-faceid-plus", None), ("ip-adapter-faceid-plusv2", 1.0)):
        assert split_checkpoint(state, method).method.shortcut == shortcut


class Harm:
    """Unpickling would create a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_nothing_in_a_bin_file_runs(tmp_path: Path) -> None:
    folder = tmp_path / "harm"
    torch.save({"image_proj": Harm(folder)}, tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes(b"not a file of weights")
    torch.save({"image_proj": {"steps": 3}}, tmp_path / "c.bin")
    for name, match in (("a.bin", "plain tensors"), ("b.bin", "plain tensors"), ("c.bin", "no tensor")):
        with pytest.raises(ValueError, match=match):
            load_baseline(tmp_path / name, tiny_unet("sd15"))
    assert not folder.exists()
    with pytest.raises(ValueError, match="no file"):
        load_baseline(tmp_path / "nothing.bin", tiny_unet("sd15"))


def test_embedding_conventions_are_kept() -> None:
    """FaceID divides by the length, InstantID must not, and refuses what was divided before."""
    faceid, instantid = opened("ip-adapter-faceid_sd15"), opened("instantid")
    face, big = numbers("face", (2, 32)), numbers("face", (2, 512))
    with torch.no_grad():
        assert_close(faceid.tokens(Features(face=face)), faceid.tokens(Features(face=face * 3)))
        # the resampler's own norms hide a part of the length, not all of it
        assert (instantid.tokens(Features(big)) - instantid.tokens(Features(big * 3))).abs().max() > 1e-3
    with pytest.raises(ValueError, match="normed_embedding"):
        instantid.tokens(Features(face=torch.nn.functional.normalize(big)))
    with pytest.raises(ValueError, match=r"needs Features\(face"):
        faceid.tokens(Features(patches=face))


def test_encoded_blanks_must_be_given() -> None:
    with pytest.raises(ValueError, match="zero_pixels"):
        opened("ip-adapter-plus_sdxl").negative(features("ip-adapter-plus_sdxl"))


def test_unknown_orthogonal_forms_are_refused() -> None:
    baseline = opened("pulid_v1", tiny_unet("sdxl"))
    with pytest.raises(ValueError, match="'off', 'v1' or 'v2'"):
        mixed(baseline, "pulid_v1", ortho="v3")
