"""Puts a newly trained CLIP under a model that stood on another one.

    python train/new_encoders.py --model models/bolid-mini --clip runs/mini-clip --output runs/new-encoders

What reads the old encoders would have to be trained anew. But most of what one CLIP says is a linear map of
what another says: maps from new to old states are found by ridge regression on avatars and folded into the
UNet's text keys and values and into the resamplers' first layer. Training goes on from there:
train/configs/mini-adapter.yaml init_from=runs/new-encoders objective.components=runs/new-encoders.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bolid import BoLIDPipeline
from bolid.attention import cross_attentions
from bolid.avatars.dataset import render_arrays
from bolid.encoder import crop_parts
from bolid.training.objectives.clip import whole_picture

ROWS = 600  # of the training split, for patches; captions are three times as many
RIDGE = 1e-4  # of the inputs' mean square


def ridge(given: Tensor, wanted: Tensor, constant: bool) -> tuple[Tensor, Tensor, float]:
    """wanted ≈ given @ A.T + b: [N, D], [N, E] -> A [E, D], b [E] (0 without constant), and the share of the
    variance that is left.
    """
    given, wanted = given.double(), wanted.double()
    centre = given.mean(0) * constant, wanted.mean(0) * constant
    x, y = given - centre[0], wanted - centre[1]
    damping = RIDGE * len(x) * x.square().mean() * torch.eye(x.shape[1], dtype=x.dtype)
    matrix = torch.linalg.solve(x.T @ x + damping, x.T @ y).T
    left = (y - x @ matrix.T).square().sum() / (wanted - wanted.mean(0)).square().sum()
    return matrix, centre[1] - matrix @ centre[0], float(left)


def text_states(pipe: Any, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What the UNet reads of captions [N, T, D], and their lengths in tokens [N]."""
    tokenizer = pipe.tokenizer
    given = tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt",
                      max_length=tokenizer.model_max_length)  # fmt: skip
    states = [pipe.text_encoder(chunk)[0] for chunk in given["input_ids"].split(100)]
    return torch.cat(states), given["attention_mask"].sum(1)


def patches(pipe: Any, pictures: Tensor) -> Tensor:
    """What the resamplers read of pictures [N, 3, S, S]: [N, L, D]."""
    encoder = pipe.image_encoder
    found = [encoder(chunk, output_hidden_states=True).hidden_states[-2] for chunk in pictures.split(100)]
    return torch.cat(found)[:, 1:]


@torch.no_grad()
def fold(old: Any, new: Any, rows: int) -> dict[str, float]:
    """Changes `new`, which holds the weights of `old` under other encoders. Shares of variance left, by name.

    Text has a map without a constant: keys and values have no bias to fold one into.
    """
    data = render_arrays("train", 0, 3 * rows, processes=2)
    (before, old_length), (after, new_length) = (text_states(each, data["caption"]) for each in (old, new))
    same = old_length == new_length  # the tokenizers split these captions alike
    text, _, text_left = ridge(after[same].flatten(0, 1), before[same].flatten(0, 1), constant=False)
    image = torch.from_numpy(data["image"][:rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
    size = new.image_encoder.config.image_size
    crops, present = crop_parts(image, torch.from_numpy(data["masks"][:rows]), size)
    seen = torch.cat([crops[present], whole_picture(image, size)])
    before, after = (patches(each, seen).flatten(0, 1) for each in (old, new))
    patch, constant, patch_left = ridge(after, before, constant=True)
    for attention in cross_attentions(new.unet).values():
        for layer in (attention.to_k, attention.to_v):
            layer.weight.copy_(layer.weight.double() @ text)  # pyright: ignore[reportOptionalMemberAccess]
    for resampler in (new.adapter.resampler, new.adapter.image_resampler):
        if resampler is not None:
            weight = resampler.proj_in.weight.double()
            resampler.proj_in.bias.add_(weight @ constant)
            resampler.proj_in.weight.copy_(weight @ patch)
    return {"text": text_left, "patches": patch_left}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="models/bolid-mini", help="folder of a bolid-mini pipeline")
    parser.add_argument("--clip", required=True, help="output_dir of a run of train/configs/mini-clip.yaml")
    parser.add_argument("--output", required=True, help="a folder that is not there yet")
    parser.add_argument("--rows", type=int, default=ROWS, help="of the training split that are looked at")
    options = parser.parse_args(arguments)
    model, clip, output = Path(options.model), Path(options.clip), Path(options.output)
    parts = {"text_encoder": "export/text_encoder", "image_encoder": "export/image_encoder",
             "tokenizer": "tokenizer"}  # fmt: skip
    missing = [str(clip / place) for place in parts.values() if not (clip / place).is_dir()]
    if missing or output.exists():
        what = f"{output} is there already: name another" if output.exists() else f"there is no {missing[0]}"
        print(f"train/new_encoders.py: {what}.", file=sys.stderr)
        return 2
    partial = output.with_name(f".{output.name}")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(model, partial)
    for name, place in parts.items():
        shutil.rmtree(partial / name)
        shutil.copytree(clip / place, partial / name)
    old, new = (BoLIDPipeline.from_pretrained(each, dtype=torch.float32) for each in (model, partial))
    left = fold(old, new, options.rows)
    for name in ("unet", "adapter"):
        getattr(new, name).half().save_pretrained(partial / name)
    partial.rename(output)
    print(", ".join(f"{name}: {share:.3f} of the variance is left" for name, share in left.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
