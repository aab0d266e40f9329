"""A few-step LoRA on the lightning branch: only there, frozen, on shared weights; else clear words."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_objective import SMALL, awaken, make_base, make_rows
from torch.testing import assert_close

from bolid.losses import LossWeights
from bolid.training.draws import step_draws
from bolid.training.objectives.diffusion import DiffusionObjective
from bolid.training.objectives.few_step_lora import with_few_step_lora

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")


def save_lora(unet: Any, file: Path, rank: int = 2, prefix: str = "unet.") -> Path:
    """Random LoRA weights for every text key and value, in diffusers' layout."""
    torch.manual_seed(3)
    weights = {}
    for name, module in unet.named_modules():
        if name.endswith((".attn2.to_k", ".attn2.to_v")):
            weights[f"{prefix}{name}.lora_A.weight"] = torch.randn(rank, module.in_features)
            weights[f"{prefix}{name}.lora_B.weight"] = torch.randn(module.out_features, rank)
    save_file(weights, file)
    return file


@needs_peft
@pytest.mark.parametrize("family", ["sd15", "xl"])
def test_the_twin_shares_all_weights_and_differs_by_the_lora(family: str, tmp_path: Path) -> None:
    base = make_base(family)
    file = save_lora(base.unet, tmp_path / "pytorch_lora_weights.safetensors")
    twin = with_few_step_lora(base.unet, str(file), 0.5, base.is_xl)
    own = {id(p) for p in base.unet.parameters()}
    added = {n: p for n, p in twin.named_parameters() if id(p) not in own}
    assert added
    assert all("lora_" in n and not p.requires_grad for n, p in added.items())
    x, t = torch.randn(1, 4, 12, 8), torch.tensor(500)
    text = base.encode_text(torch.from_numpy(base.token_ids(["a cat"])), (96, 64)).kwargs()
    with torch.no_grad():
        plain, moved = base.unet(x, t, **text).sample, twin(x, t, **text).sample
        twin.set_adapters("few_step", 0.0)
        assert_close(twin(x, t, **text).sample, plain)
    assert not torch.allclose(plain, moved)


@needs_peft
def test_l_rec_runs_without_it_and_the_branch_with_it(tmp_path: Path) -> None:
    base = make_base("sd15")
    rows = make_rows(base, 2)
    file = save_lora(base.unet, tmp_path / "lora.safetensors")
    outs = []
    for source in (None, str(file)):
        lightning = dataclasses.replace(SMALL.lightning, lora=source)
        options = dataclasses.replace(SMALL, base="t", weights=LossWeights(layout=1), lightning=lightning)
        torch.manual_seed(0)
        objective = DiffusionObjective(options, make_base("sd15"))
        awaken(objective.adapter)
        out = objective(rows.batch(np.arange(2)), step_draws(0, 0, 2))
        out["loss"].backward()
        outs.append(out)
    assert_close(outs[0]["rec"], outs[1]["rec"])
    assert not torch.allclose(outs[0]["layout"], outs[1]["layout"])


@needs_peft
def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    base = make_base("sd15")
    with pytest.raises(ValueError, match="cannot be read"):
        with_few_step_lora(base.unet, str(tmp_path / "none.safetensors"))
    other = save_lora(base.unet, tmp_path / "text.safetensors", prefix="text_encoder.")
    with pytest.raises(ValueError, match="no LoRA of a UNet"):
        with_few_step_lora(base.unet, str(other))
    xl = save_lora(make_base("xl").unet, tmp_path / "xl.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        with_few_step_lora(base.unet, str(xl))


def test_without_peft_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # noqa: ARG005
    with pytest.raises(ValueError, match="pip install peft"):
        with_few_step_lora(None, "lcm")
