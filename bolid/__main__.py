"""The command line: `python -m bolid generate ...`, `pose`, `assemble`, `export`, `push`, `doctor`.

Heavy imports wait until the arguments, files and names have been checked: a mistake is told in a second.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

MINI = Path("models") / "bolid-mini"
MISTAKE = 2  # exit code of a user's mistake
STOPPED = 130  # exit code after Ctrl-C, as shells have it


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line instead of printing the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: {message}; see {self.prog} --help\n")


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(
        prog="python -m bolid", description="Pictures of one person in any pose, from one picture."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="draw the person of a reference picture"))
    _add_pose(commands.add_parser("pose", help="write the skeleton map of the person in a picture"))
    _add_assemble(commands.add_parser("assemble", help="build a full-body pipeline from public parts"))
    _add_export(commands.add_parser("export", help="write a model's tokens as a file for stock tools"))
    _add_push(commands.add_parser("push", help="upload a model to the Hugging Face Hub, with its card"))
    commands.add_parser("doctor", help="what is here, what is missing, and how to get it")
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--reference", nargs="+", required=True, metavar="R.png",
        help="picture(s) of one person, or an identity saved as .safetensors")  # fmt: skip
    add("--prompt", required=True, help="what the picture shows")
    add("--output", required=True, metavar="OUT.png", help="where to write (PNG, JPEG or WebP)")
    add("--pose", metavar="NAME|P.png",
        help="a pose's name, a picture of a person, or a skeleton map (default: one that fits the prompt, "
        "where the model has a layout)")  # fmt: skip
    add("--image-prompt", metavar="S.png", help="picture whose scene or style is taken")
    add("--image-prompt-strength", type=float, default=0.5, metavar="X", help="default 0.5")
    add("--id-strength", type=_strength, default=1.0, metavar="X|PART=X,...",
        help="0 or more, or by part: head=1,upper=0,lower=0.5,feet=1 (default 1.0)")  # fmt: skip
    add("--pose-strength", type=float, default=1.0, metavar="X", help="default 1.0")
    add("--detail-strength", type=float, default=1.0, metavar="X",
        help="0 to 1: fine marks from the reference, after decoding (default 1.0)")  # fmt: skip
    add("--appearance-strength", type=float, default=1.0, metavar="X",
        help="0 to 1: the reference's pixels laid on the pose; 0: tokens alone (default 1.0)")  # fmt: skip
    add(
        "--no-retarget",
        action="store_true",
        help="keep the proportions of a named, pictured or found pose",
    )
    add("--negative-prompt", metavar="TEXT", help="what the picture must not show")
    add("--steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    add("--guidance", type=float, metavar="X", help="guidance scale (default: the model's)")
    add("--height", type=int, metavar="PX", help="multiple of 8 (default: the model's)")
    add("--width", type=int, metavar="PX", help="multiple of 8 (default: the model's)")
    add("--seed", type=int, metavar="S", help="picture j is drawn from seed S + j (default: a random seed)")
    add(
        "--images",
        type=int,
        default=1,
        metavar="K",
        help="how many pictures; the further ones are OUT-2.png, ...",
    )
    _add_model(parser)


def _add_pose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("picture", metavar="P.png", help="picture of a person")
    parser.add_argument("--output", required=True, metavar="SKELETON.png", help="where to write")
    _add_model(parser)


def _add_assemble(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base", required=True, metavar="DIR|HUB_ID", help="a Stable Diffusion 1.5 or SDXL pipeline")
    add("--body", required=True, metavar="FILE|REPO:FILE", help="an IP-Adapter Plus file made for that base")
    add("--face", choices=("instantid", "pulid", "none"), default="none", help="face adapter (default none)")
    add("--face-file", metavar="FILE|REPO:FILE", help="its file (default: the authors' own on the Hub)")
    add("--pose", metavar="DIR|HUB_ID", help="a ControlNet for OpenPose skeletons (default: none)")
    add("--image-encoder", metavar="DIR|REPO:DIR", help="vision encoder (default: beside the body file)")
    add("--tokens", choices=("parts", "whole"), default="parts",
        help="see the person part by part, or whole as IP-Adapter does (default parts)")  # fmt: skip
    add("--output", required=True, metavar="DIR", help="folder to write; must be new or empty")


def _add_export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder or Hub id of a BoLID model")
    add("--format", choices=("ip-adapter-plus",), required=True, help="layout of the file")
    add("--output", required=True, metavar="FILE.safetensors", help="where to write")
    add("--group", choices=("identity", "image"), default="identity",
        help="the person's tokens, seen whole, or the image prompt's (default identity)")  # fmt: skip
    add("--image-encoder", metavar="DIR",
        help="also write the vision encoder, as load_ip_adapter takes it (a new folder)")  # fmt: skip


def _add_push(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder of a BoLID model")
    add("repository", metavar="NAME/REPO", help="repository on the Hub; made where it is missing")
    add("--card", metavar="CARD.md",
        help="model card (default: MODEL/README.md, or model_card.md beside models/, or a stub)")  # fmt: skip
    add("--private", action="store_true", help="make a new repository private")
    add("--variant", metavar="NAME", help="name part of the weights' files, for example fp16")
    add("--max-shard-size", metavar="SIZE", help="split larger weights, for example 2GB")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="DIR|HUB_ID", help=f"default: {MINI}")
    parser.add_argument("--device", help="cpu, cuda, mps (default: cuda where there is one)")


def _strength(text: str) -> float | dict[str, float]:
    """0.8 -> 0.8; head=1,upper=0 -> {"head": 1.0, "upper": 0.0}."""
    try:
        if "=" not in text:
            return float(text)
        pairs = [pair.split("=") for pair in text.split(",")]
        return {part.strip(): float(value) for part, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number and no list like head=1,upper=0") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; a user's mistake is told in one line on stderr."""
    options = make_parser().parse_args(arguments)
    warnings.simplefilter("ignore")  # libraries' notes to developers
    try:
        commands = {"generate": generate, "pose": pose, "assemble": assemble, "export": export, "push": push,
                    "doctor": doctor}  # fmt: skip
        return commands[options.command](options)
    except ValueError as error:
        print(f"bolid: {' '.join(str(error).split())}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("bolid: stopped; nothing half-finished was written", file=sys.stderr)
        return STOPPED


def generate(options: argparse.Namespace) -> int:
    """Draw `--images` pictures one by one, so that each depends on its own seed alone."""
    references, pose, image_prompt = _checked(options)
    outputs = output_names(options.output, options.images)
    model = find_model(options.model)

    import secrets

    pipe = load(model, options.device)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    wanted = (
        any(options.id_strength.values()) if isinstance(options.id_strength, dict) else options.id_strength
    )
    person = pipe.encode_identity(references) if wanted else references
    retarget = False if options.no_retarget else None
    for index, output in enumerate(outputs):
        pipe.set_progress_bar_config(desc=f"picture {index + 1} of {len(outputs)}", leave=False)
        image = pipe(
            options.prompt, person, pose, image_prompt, options.image_prompt_strength, options.id_strength,
            options.pose_strength, retarget, options.negative_prompt, options.steps,
            options.guidance, options.height, options.width, generator=seed + index,
            detail_strength=options.detail_strength, appearance_strength=options.appearance_strength,
        ).images[0]  # fmt: skip
        _save(image, output, _settings(options, model, seed + index))
        print(f"{output}  (seed {seed + index})")
    return 0


def _checked(options: argparse.Namespace) -> tuple[list[Any], Any, Any]:
    """References, pose and image prompt, loaded; everything that can be known wrong without the model is
    refused.
    """
    from bolid.identity import Identity
    from bolid.pictures import load_picture
    from bolid.pose import Pose

    if options.images < 1:
        raise ValueError(f"--images is {options.images}; it must be 1 or more")
    if options.seed is not None and not 0 <= options.seed < 2**62:
        raise ValueError(f"--seed is {options.seed}; it must be a whole number of 0 or more")
    references: list[Any] = [
        Identity.load(name) if name.lower().endswith(".safetensors") else load_picture(name, "reference")
        for name in options.reference
    ]
    pose = options.pose
    if pose is not None:
        pose = load_picture(pose, "pose picture") if _is_file_name(pose) else Pose.named(pose) and pose
    prompt = options.image_prompt
    return references, pose, None if prompt is None else load_picture(prompt, "image prompt")


def _is_file_name(text: str) -> bool:
    return Path(text).is_file() or Path(text).suffix != "" or "/" in text


def output_names(output: str, images: int) -> list[Path]:
    """out.png, out-2.png, out-3.png ...; each checked to be writable. Raises ValueError."""
    from bolid.pictures import check_output

    first = check_output(output)
    return [first] + [check_output(first.with_stem(f"{first.stem}-{k}")) for k in range(2, images + 1)]


def _settings(options: argparse.Namespace, model: str, seed: int) -> dict[str, Any]:
    """What a picture was made with, for its PNG text. File names only: folders are the user's own affair."""
    kept = (
        "prompt",
        "negative_prompt",
        "id_strength",
        "pose_strength",
        "detail_strength",
        "appearance_strength",
        "image_prompt_strength",
        "steps",
        "guidance",
    )
    settings = {name: getattr(options, name) for name in kept if getattr(options, name) is not None}
    settings["pose"] = Path(options.pose).name if options.pose else None
    return settings | {"seed": seed, "model": Path(model).name, "retarget": not options.no_retarget}


def _save(image: Any, output: Path, settings: dict[str, Any] | None = None) -> None:
    from bolid.pictures import save_picture

    try:
        save_picture(image, output, settings)
    except OSError as error:
        raise ValueError(f"output {str(output)!r} cannot be written ({error.strerror or error})") from error


def pose(options: argparse.Namespace) -> int:
    """Write the skeleton map of the person in a picture, at the picture's own size."""
    import numpy as np
    from PIL import Image

    from bolid.pictures import load_picture
    from bolid.pose import skeleton_map

    picture = load_picture(options.picture, "picture")
    output = output_names(options.output, 1)[0]
    found = load(find_model(options.model), options.device).find_person(picture, "picture")
    points = found.keypoints.copy()
    size = (picture.height, picture.width)
    points[:, :2] = found.frame.to_source(points[:, :2], size)
    _save(Image.fromarray(np.ascontiguousarray(skeleton_map(points[None], *size)[0])), output)
    print(output)
    return 0


def assemble(options: argparse.Namespace) -> int:
    """Build a pipeline from public parts."""
    from bolid.assemble import assemble as build

    print(
        build(
            options.base, options.body, options.output, face=options.face, face_file=options.face_file,
            pose=options.pose, image_encoder=options.image_encoder, tokens=options.tokens,
        )
    )  # fmt: skip
    return 0


def export(options: argparse.Namespace) -> int:
    """Write a model's tokens as a file for stock tools."""
    from bolid.export import comfyui_reads, export_encoder
    from bolid.export import export as write

    pipe = load(find_model(options.model), "cpu")
    encoder = None if options.image_encoder is None else export_encoder(pipe, options.image_encoder)
    file = write(pipe, options.output, options.group)
    for made in (file, encoder) if encoder is not None else (file,):
        print(made)
    if not comfyui_reads(file):
        told = "bolid: for load_ip_adapter of diffusers; ComfyUI's nodes read 16 tokens of one size only"
        print(told, file=sys.stderr)
    return 0


def push(options: argparse.Namespace) -> int:
    """Upload a model to the Hub."""
    model = find_model(options.model)
    card, pipe = options.card or card_of(Path(model)), load(model, "cpu")
    print(
        pipe.push_to_hub(
            options.repository, card=card, private=options.private or None, variant=options.variant,
            max_shard_size=options.max_shard_size,
        )
    )  # fmt: skip
    return 0


def card_of(model: Path) -> Path | None:
    """The card that goes with a model's folder, where there is one."""
    beside = model.resolve().parent
    places = [model / "README.md", *([beside.parent / "model_card.md"] if beside.name == "models" else [])]
    return next((place for place in places if place.is_file()), None)


def doctor(options: argparse.Namespace) -> int:  # noqa: ARG001 - it has none
    """Print what is on this machine, what will be used, and how to get what is missing."""
    from bolid.doctor import report

    print(report())
    return 0


def find_model(model: str | None) -> str:
    """The folder or Hub id to open; None is bolid-mini, looked for in the working folder and beside the
    package.

    Raises ValueError where a folder is missing.
    """
    if model is None:
        places = list(dict.fromkeys((Path.cwd() / MINI, Path(__file__).resolve().parent.parent / MINI)))
        for place in places:
            if (place / "model_index.json").is_file():
                return str(place)
        raise ValueError(
            f"no model in {' or '.join(map(str, places))}; "
            "run this in the repository, or give --model DIR_OR_HUB_ID"
        )
    path = Path(model)
    is_hub_id = (
        model.count("/") == 1 and not path.is_absolute() and not model.startswith((".", "~", "models/"))
    )
    if not path.is_dir() and not is_hub_id:
        raise ValueError(
            f"the model folder {model!r} does not exist; give the folder of a saved pipeline, or a Hub id"
        )
    return model


def load(model: str, device: str | None) -> Any:
    """Open the pipeline, quietly, on the device asked for."""
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from bolid import BoLIDPipeline

    for log in (diffusers_logging, transformers_logging):
        log.set_verbosity_error()
        log.disable_progress_bar()
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        target = torch.device(device)
        torch.zeros(1, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {device!r} cannot be used here; give cpu, or leave it out") from error
    dtype = torch.float16 if target.type == "cuda" else torch.float32
    return BoLIDPipeline.from_pretrained(model, dtype=dtype).to(target)


if __name__ == "__main__":
    sys.exit(main())
