"""The public models by name: where they come from, how large they are, what their licence allows.

Sizes are those of the Hub's file lists, rounded, and licences those of the model cards, as seen in 2025;
the cards are what counts. Nothing here imports torch, so that `python -m bolid doctor` stays quick.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Task = Literal["people", "keypoints", "parts", "face", "vision", "caption"]
TASKS: tuple[Task, ...] = get_args(Task)
NON_COMMERCIAL = "non-commercial"


# Many repositories hold the same weights in several formats; these are the files that are read.
_INCLUDE = tuple(f'--include "{pattern}"' for pattern in ("*.json", "*.txt", "*.safetensors"))


@dataclass(frozen=True)
class Weights:
    """One public model.

    files: what is needed of the repository, () for its config.json and weights; packages: what must be
    installed beside transformers (names to import); fetch: the command, where it is not `hf download`.
    """

    name: str
    task: Task
    repo: str
    megabytes: int
    licence: str
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    fetch: str | None = None

    @property
    def command(self) -> str:
        """The command line that brings the model onto this machine."""
        if self.fetch:
            return self.fetch
        only = self.files or _INCLUDE
        return " ".join(("hf download", self.repo, *only))

    @property
    def size(self) -> str:
        return f"about {self.megabytes} MB" if self.megabytes else "its page on the Hub tells the size"

    def __str__(self) -> str:
        title = self.repo if self.name in (self.repo, "") else f"{self.name} ({self.repo})"
        return f"{title}, {self.size}, {self.licence}"


_OPENPOSE = tuple(f"annotator/ckpts/{part}_pose_model.pth" for part in ("body", "hand"))
CATALOGUE: tuple[Weights, ...] = (
    Weights("rtdetr", "people", "PekingU/rtdetr_r50vd_coco_o365", 172, "Apache-2.0"),
    Weights("vitpose", "keypoints", "usyd-community/vitpose-base-simple", 344, "Apache-2.0", (), ("scipy",)),
    Weights("openpose", "keypoints", "lllyasviel/ControlNet", 209, NON_COMMERCIAL, _OPENPOSE[:1],
            ("controlnet_aux",)),
    Weights("dwpose", "keypoints", "wanghaofan/dw-ll_ucoco_384", 350, "Apache-2.0", ("dw-ll_ucoco_384.pth",),
            ("controlnet_aux", "mmcv", "mmdet", "mmpose")),
    Weights("segformer-clothes", "parts", "mattmdjaga/segformer_b2_clothes", 109, "MIT by its card"),
    Weights("opencv-face", "face", "opencv/face_recognition_sface", 37, "Apache-2.0 and MIT",
            ("face_recognition_sface_2021dec.onnx",), fetch=(
                "hf download opencv/face_recognition_sface face_recognition_sface_2021dec.onnx && "
                "hf download opencv/face_detection_yunet face_detection_yunet_2023mar.onnx")),
    Weights("insightface", "face", "buffalo_l", 326, NON_COMMERCIAL, (), ("insightface", "onnxruntime"),
            "python -c \"from insightface.app import FaceAnalysis; FaceAnalysis('buffalo_l')\""),
    Weights("clip", "vision", "openai/clip-vit-large-patch14", 1710, "MIT"),
    Weights("dinov2", "vision", "facebook/dinov2-base", 346, "Apache-2.0"),
    Weights("siglip", "vision", "google/siglip-base-patch16-224", 813, "Apache-2.0"),
    Weights("blip", "caption", "Salesforce/blip-image-captioning-base", 990, "BSD-3-Clause"),
)  # fmt: skip
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


class MissingModel(ValueError):
    """A model that is not on this machine and cannot be fetched: names it, its size and the command."""


def find_weights(task: Task, source: str | os.PathLike[str]) -> Weights:
    """The record of a name, a Hub id or a local folder.

    Raises ValueError for what is none of them; the names of this task are listed.
    """
    text = os.fspath(source)
    for weights in CATALOGUE:
        if weights.task == task and text in (weights.name, weights.repo):
            return weights
    if Path(text).is_dir():
        return Weights(text, task, text, 0, "a local folder")
    if text.count("/") == 1 and not text.startswith((".", "~", "/")):
        return Weights(text, task, text, 0, "see its page for the licence")
    names = [weights.name for weights in CATALOGUE if weights.task == task]
    near = difflib.get_close_matches(text, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"{task}={text!r} is no known model, Hub id or folder.{hint} Names: {', '.join(names)}; "
        "or a Hub id like owner/name, or a folder with config.json"
    )


def missing_packages(weights: Weights, *more: str) -> list[str]:
    """The packages that this model needs (and `more`) and that are not installed."""
    wanted = dict.fromkeys((*weights.packages, *more))
    return [name for name in wanted if importlib.util.find_spec(name) is None]


def present(weights: Weights) -> bool:
    """Whether every needed file is on this machine: in its folder, or in the cache of the Hub or insightface.

    Opens no network connection.
    """
    if weights.name == "insightface":
        return insightface_folder() is not None
    if weights.name == "opencv-face":
        return all(cached_file(repo, file) for repo, file in OPENCV_FACE_FILES)
    if Path(weights.repo).is_dir():
        return True
    if weights.files:
        return all(cached_file(weights.repo, file) for file in weights.files)
    has_weights = any(cached_file(weights.repo, file) for file in _WEIGHT_FILES)
    return bool(cached_file(weights.repo, "config.json") and has_weights)


OPENCV_FACE_FILES = (
    ("opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx"),
    ("opencv/face_recognition_sface", "face_recognition_sface_2021dec.onnx"),
)


def cached_file(repo: str, file: str) -> str | None:
    """The path of a file in the Hub's cache, or in the folder `repo`; None where it is not."""
    if (Path(repo) / file).is_file():
        return str(Path(repo) / file)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file)
    return found if isinstance(found, str) else None


def fetch_file(weights: Weights, repo: str, file: str) -> str:
    """The path of a file, from the cache or, where the Hub can be reached, downloaded.

    Raises MissingModel where it cannot be had.
    """
    found = cached_file(repo, file)
    if found:
        return found
    if not hub_reachable():
        raise MissingModel(missing_message(weights))
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return hf_hub_download(repo, file)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise MissingModel(missing_message(weights)) from error


def hub_reachable(seconds: float = 3.0) -> bool:
    """Whether the Hub answers; asked first because the libraries retry for half a minute before they give up.

    Behind a proxy the answer is left to them.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    if urllib.request.getproxies().get(address.scheme):
        return True
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=seconds).close()
    except OSError:
        return False
    return True


def insightface_folder(root: str = "~/.insightface", pack: str = "buffalo_l") -> Path | None:
    """insightface's folder of model files, if there are any (a failed download leaves it empty)."""
    folder = Path(root).expanduser() / "models" / pack
    return folder if folder.is_dir() and any(folder.glob("*.onnx")) else None


def missing_message(weights: Weights) -> str:
    """What to tell where a model cannot be had: the model, its size and the command that gets it."""
    return (
        f"the {weights.task} model {weights} is not on this machine and could not be fetched; with a network "
        f"run `{weights.command}`, or choose another one (python -m bolid doctor lists them)"
    )


def require_packages(weights: Weights, *more: str) -> None:
    """Raises MissingModel naming the installation where a needed package (or one of `more`) is not there."""
    missing = missing_packages(weights, *more)
    if missing:
        raise MissingModel(
            f"the {weights.task} model {weights.name} needs {', '.join(missing)}: "
            f"{install_command(missing)}, or choose another model (python -m bolid doctor lists them)"
        )


def install_command(packages: Sequence[str]) -> str:
    """How to install packages; OpenMMLab's are built for one torch version and have an installer."""
    lab = [name for name in packages if name.startswith("mm")]
    plain = [name for name in packages if not name.startswith("mm")]
    commands = [f"pip install {' '.join(plain)}"] if plain else []
    if lab:
        commands.append(f"pip install openmim && mim install {' '.join(lab)}")
    return " && ".join(commands)


def from_hub(weights: Weights, load: Any, **options: Any) -> Any:
    """`load(repo, ...)` of a transformers class: the copy on this machine first, then the Hub.

    Raises MissingModel when neither has it, with what to run.
    """
    local = Path(weights.repo).is_dir() or present(weights)
    if not local and not hub_reachable():
        raise MissingModel(missing_message(weights))
    try:
        return load(weights.repo, local_files_only=local, **options)
    except (OSError, ValueError) as error:
        if Path(weights.repo).is_dir():
            raise ValueError(
                f"the folder {weights.repo!r} cannot be opened as a {weights.task} model "
                f"({_first_line(error)}); give a folder with config.json, preprocessor_config.json and "
                "the weights"
            ) from error
        raise MissingModel(missing_message(weights)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
