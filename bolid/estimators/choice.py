"""Which estimators are used: by name, or automatically from what is on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from bolid.estimators.catalogue import CATALOGUE, Task, Weights, missing_packages, present

if TYPE_CHECKING:
    import torch

Choice = Literal["auto", "photo", "mini"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
MINI = Path("models") / "bolid-mini" / "estimator"
PHOTO_TASKS: tuple[Task, ...] = ("people", "keypoints", "parts")


def mini_folder() -> Path | None:
    """The shipped mini estimator, in the working folder or beside the package."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (root / MINI / "config.json").is_file():
            return root / MINI
    return None


def best_present(task: Task) -> Weights | None:
    """The first model of a task in the catalogue's order that could be opened here without a network."""
    return next((w for w in CATALOGUE if w.task == task and not missing_packages(w) and present(w)), None)


def automatic() -> tuple[Choice, dict[Task, str]]:
    """What "auto" takes: the photograph models if each task has one here, else the mini estimator."""
    names: dict[Task, str] = {}
    for task in PHOTO_TASKS:
        weights = best_present(task)
        if weights is not None:
            names[task] = weights.name
    return ("photo", names) if len(names) == len(PHOTO_TASKS) else ("mini", {})


def open_estimator(
    choice: str = "auto",
    *,
    device: torch.device | str = "cpu",
    mini: str | os.PathLike[str] | None = None,
    **sources: str | None,
) -> Any:
    """An object with `predict(image) -> Estimate` and `people(image) -> Boxes`.

    choice: "photo" (public models, fetched on first use where the Hub can be reached), "mini" (bolid-mini's
    own small network, for drawn avatars), "auto" (photo if its models are on this machine, else mini; nothing
    is downloaded); people, keypoints, parts: models by name, Hub id or folder, which means photo;
    mini: another folder of a PersonEstimator.
    Raises ValueError for unknown names, and where the mini estimator is not there.
    """
    given = {task: source for task, source in sources.items() if source is not None}
    unknown = sorted(set(given) - set(PHOTO_TASKS))
    if choice not in CHOICES or unknown:
        raise ValueError(
            f"estimators={choice!r}{f' with {unknown}' if unknown else ''}: choose one of "
            f"{', '.join(CHOICES)}, and models for {', '.join(PHOTO_TASKS)}"
        )
    if choice == "mini" and given:
        raise ValueError(
            f"estimators='mini' has no {', '.join(given)} to choose; leave them out, or take 'photo'"
        )
    if choice == "auto":
        chosen, found = ("photo", {}) if given else automatic()
    else:
        chosen, found = choice, {}
    if chosen == "mini":
        return open_mini(mini, device)
    from bolid.estimators.photo import PhotoEstimator

    made: Any = PhotoEstimator(**{**found, **given})
    return made.to(device).eval()


def open_mini(folder: str | os.PathLike[str] | None = None, device: torch.device | str = "cpu") -> Any:
    """The mini estimator with `people` beside its `predict`. Raises ValueError where there is none."""
    from bolid.estimator import PersonEstimator

    place = mini_folder() if folder is None else Path(folder)
    if place is None or not (place / "config.json").is_file():
        raise ValueError(
            f"no mini estimator in {str(place or MINI)!r}; run this in the repository, give the folder of a "
            "PersonEstimator, or take estimators='photo'"
        )
    network: Any = PersonEstimator.from_pretrained(place)  # float32, as it is stored
    return MiniEstimator(network.to(device).eval())


class MiniEstimator:
    """The mini network, with the box of the one person that it can see."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def predict(self, image: np.ndarray) -> Any:
        """As `PersonEstimator.predict`."""
        return self.network.predict(image)

    def look(self, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002
        """As `PhotoEstimator.look`; the network sees one person, so the box tells it nothing."""
        estimate = self.network.predict(image)
        return estimate.keypoints[0], estimate.parts[0]

    def people(self, image: np.ndarray) -> Any:
        """`Boxes` of one person or none. image: uint8 RGB [H, W, 3]."""
        from bolid.estimators.networks import Boxes
        from bolid.reference import CONFIDENT, PERSON

        estimate = self.network.predict(image)
        rows, columns = np.nonzero(estimate.parts[0])
        points = estimate.keypoints[0]
        places = points[points[:, 2] >= CONFIDENT, :2] * (image.shape[1], image.shape[0])
        found = np.concatenate([places, np.stack([columns, rows], 1), np.stack([columns + 1, rows + 1], 1)])
        if estimate.person[0] < PERSON or not len(found):
            return Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        box = np.concatenate([found.min(0), found.max(0)])[None]
        return Boxes.ordered(box, estimate.person[:1], (image.shape[0], image.shape[1]))
