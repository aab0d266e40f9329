"""What the file of `python -m bolid export --format ip-adapter-plus` costs: tokens alone, by part or whole.

    python eval/export_cost.py --count 64 --output runs/export-cost.md --update model_card.md

The exported file holds tokens only, and of an adapter that knows parts one reading over the whole person,
which was not trained. Pictures of held-out pairs are drawn without a pose from: text alone; the adapter's own
tokens by part; the exported file of the person's tokens and that of the image prompt's, each by the stock
diffusers pipeline from the person cut out on grey, with its own preparation of pictures and its own negative
half, the first also without guidance; and, as our own pipeline does, tokens by part with pose and appearance
map. Text names pose, view and scene, not the person. Figures are by the mini evaluators.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from bolid import BoLIDPipeline
from bolid.baselines.export import take_text_alone
from bolid.encoder import crop_person
from bolid.evaluation.networks import Evaluators
from bolid.evaluation.pairs import Pairs, held_out_pairs
from bolid.evaluation.provenance import load_evaluators, weights_hash
from bolid.evaluation.report import fill
from bolid.evaluation.scores import score
from bolid.export import Group, export, export_encoder
from bolid.pose import PARTS, Pose, known
from bolid.variants import lend, stock_class

ERRORS = tuple(f"error_{part}" for part in PARTS)  # mean RGB distance inside the truth's part
FIGURES = ("attributes", "identified_by_body", "scene", *ERRORS)
BATCH = 16  # pictures drawn at once
MARKERS = ("<!-- export cost -->", "<!-- /export cost -->")  # of the model card


def rows_of(pipe: Any, references: list[Any]) -> dict[str, dict[str, Any]]:
    """Row -> arguments of the call for these references; "posed" and "stock" are taken out by `drawn`."""
    by_parts = [pipe.encode_identity(each) for each in references]
    people = [crop_of(pipe, each) for each in references]
    return {
        "text alone": {},
        "tokens by part": {"reference": by_parts, "id_strength": 1.0},
        "whole-person tokens, exported, in stock diffusers": {"stock": [1.0, 0.0], "people": people},
        "the same, guidance 1": {"stock": [1.0, 0.0], "people": people, "guidance_scale": 1.0},
        "image prompt's tokens, exported, in stock diffusers": {"stock": [0.0, 1.0], "people": people},
        "tokens by part, pose, appearance map": {"reference": by_parts, "id_strength": 1.0, "posed": True},
    }


def crop_of(pipe: Any, found: Any) -> Image.Image:
    """The person cut out on grey, at the vision encoder's size."""
    image = torch.from_numpy(found.image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    crop, _ = crop_person(
        image, torch.from_numpy(found.parts.copy())[None], pipe.image_encoder.config.image_size
    )
    pixels = ((crop[0, 0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())


def stock_pipeline(model: str) -> Any:
    """The stock pipeline around a model's base, with both exported groups (identity, image) loaded."""
    ours = BoLIDPipeline.from_pretrained(model)
    ours.adapter.detach(ours.unet)
    plain = lend(ours, stock_class(ours.is_xl, "text", False))
    plain.register_modules(image_encoder=None, feature_extractor=None)
    plain.set_progress_bar_config(disable=True)
    with TemporaryDirectory() as folder:
        groups: tuple[Group, Group] = ("identity", "image")
        names = [export(ours, Path(folder) / f"{group}.safetensors", group).name for group in groups]
        export_encoder(ours, Path(folder) / "image_encoder")
        plain.load_ip_adapter(folder, subfolder="", weight_name=names)
    take_text_alone(plain.unet)
    return plain


def by_stock(
    plain: Any, prompts: list[str], people: list[Image.Image], guidance_scale: float, **options: Any
) -> np.ndarray:
    """What the stock pipeline draws of each prompt and person, [n, H, W, 3] in [0, 1]."""
    seen, blank = plain.encode_image(people, plain.unet.device, 1, output_hidden_states=True)
    states = torch.cat([blank, seen]) if guidance_scale > 1 else seen  # guidance's negative half first
    options |= {"guidance_scale": guidance_scale, "ip_adapter_image_embeds": [states[:, None]] * 2}
    return plain(prompts, output_type="np", **options).images  # embeds [n or 2n, 1, L, D], one per file


def drawn(
    pipes: tuple[Any, Any], pairs: Pairs, chunk: slice, asked: dict[str, Any], steps: int | None
) -> np.ndarray:
    """Pictures uint8 [n, H, W, 3] of a chunk by our pipeline or the stock one; every row draws from the same
    noise.
    """
    (pipe, plain), asked = pipes, dict(asked)
    numbers = range(*chunk.indices(len(pairs)))
    prompts = [pairs.prompt[row] for row in numbers]
    if "stock" in asked:
        plain.set_ip_adapter_scale(asked.pop("stock"))
        own_steps, own_guidance = pipe.call_defaults(posed=False)
        asked = {"guidance_scale": own_guidance, **asked}
        images = by_stock(
            plain, prompts, **asked, generator=[torch.Generator().manual_seed(row) for row in numbers],
            num_inference_steps=steps or own_steps,
            height=pipe.picture_size[0], width=pipe.picture_size[1],
        )  # fmt: skip
    else:
        pose = [Pose(known(pairs.keypoints[row])) for row in numbers] if asked.pop("posed", False) else None
        images = pipe(
            prompts, pose=pose, generator=list(numbers), output_type="np", num_inference_steps=steps, **asked
        ).images
    return np.round(images.clip(0, 1) * 255).astype(np.uint8)


@torch.no_grad()
def measure(
    pipes: tuple[Any, Any], evaluators: Evaluators, pairs: Pairs, steps: int | None
) -> dict[str, dict[str, float]]:
    """Row -> figure -> mean over the pairs whose reference shows a person. pipes: ours and the stock one."""
    found: list[Any] = []
    for picture in pairs.reference:
        found.append(pipes[0].find_person(picture))  # avatars of the held-out set are all found
    pictures: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(pairs), BATCH):
        chunk = slice(start, min(start + BATCH, len(pairs)))
        for row, asked in rows_of(pipes[0], found[chunk]).items():
            pictures.setdefault(row, []).append(drawn(pipes, pairs, chunk, asked, steps))
    _, reading = evaluators.read(pairs.reference)
    table = {}
    for row, chunks in pictures.items():
        values = score(np.concatenate(chunks), pairs, evaluators, reading).values
        table[row] = {name: float(np.nanmean(values[name])) for name in FIGURES}
    return table


def markdown(table: dict[str, dict[str, float]], note: str) -> str:
    lines = ["| Conditions | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    for row, figures in table.items():
        cells = [
            f"{value:.1f}" if name.startswith("error_") else f"{value:.3f}" for name, value in figures.items()
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", note, ""])


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="models/bolid-mini")
    parser.add_argument("--count", type=int, default=64, help="held-out pairs (default 64)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    parser.add_argument("--update", nargs="*", default=[], metavar="CARD.md", help="cards to fill")
    parser.add_argument("--output", required=True, metavar="FILE.md")
    options = parser.parse_args()

    pipe = BoLIDPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    evaluators = load_evaluators("models/evaluators", "cpu")
    pairs = held_out_pairs(options.count, *pipe.picture_size, processes=1)
    table = measure((pipe, stock_pipeline(options.model)), evaluators, pairs, options.steps)
    note = (
        f"{options.count} held-out pairs, seed = row, weights {weights_hash(options.model)}; "
        f"`{shlex.join(['python', *sys.argv])}`."
    )
    text = markdown(table, note)
    Path(options.output).parent.mkdir(parents=True, exist_ok=True)
    Path(options.output).write_text(text)
    for card in options.update:
        fill(Path(card), text.strip(), MARKERS)
    print(text)


if __name__ == "__main__":
    main()
