"""What clients call: /generate and /pose_preview, with plain parameters and documentation of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np

from bolid.pose import POSE_NAMES
from bolid.space.drawings import Drawings
from bolid.space.handlers import Handlers, keypoint_pose, mistakes_told, reference_paths
from bolid.space.inputs import keypoints_input, picture_input
from bolid.space.settings import RANGES, checked
from bolid.space.studio import Drawn

QUIET: dict[str, Any] = {"show_progress": "hidden"}
NUMBERS = (
    "id_strength", "head", "upper", "lower", "feet", "pose_strength", "image_prompt_strength", "guidance",
    "steps", "count", "seed", "height", "width",
)  # fmt: skip


def add_endpoints(handlers: Handlers, drawings: Drawings) -> None:
    """Both endpoints, on components that no page shows. To be called inside `gr.Blocks`."""
    with gr.Column(visible=False):
        reference = picture_input("picture of the person")
        pose_picture = picture_input("picture of the pose")
        image_prompt = picture_input("picture of a scene or style")
        more = gr.Gallery([], label="further pictures of the same person", type="filepath")
        free = "one that fits the prompt" if handlers.studio.finds_poses else "a free pose"
        pose = gr.Textbox("", label=f"a pose's name, or empty for {free}: {', '.join(POSE_NAMES)}")
        keypoints = keypoints_input("18 rows of x, y or x, y, confidence, in [0, 1]; wins over pose")
        prompt = gr.Textbox("", label="what the picture shows")
        negative = gr.Textbox("", label="what it must not show")
        numbers = [_number(handlers, name) for name in NUMBERS]
        retarget = gr.Checkbox(True, label="give the pose the person's proportions")
        results = gr.Gallery(label="pictures, with their settings inside the PNG", format="png")
        report = gr.JSON(label="seed, id_similarity, pose_accuracy and measured_by, picture by picture")
        skeleton = gr.Image(label="the skeleton that will be used", format="png")
        points = gr.JSON(label="its key-points, 18 rows of x, y, confidence")
        drawing = [reference, prompt, pose, negative, pose_picture, keypoints, image_prompt, more]
        gr.Button(visible=False).click(
            make_generate(handlers, drawings), [*drawing, *numbers, retarget], [results, report],
            api_name="generate", concurrency_limit=1, concurrency_id="draw", **QUIET,
        )  # fmt: skip
        gr.Button(visible=False).click(
            make_preview(handlers), [pose, pose_picture, keypoints, reference, retarget], [skeleton, points],
            api_name="pose_preview", concurrency_limit=4, concurrency_id="quick", **QUIET,
        )  # fmt: skip


def make_generate(handlers: Handlers, drawings: Drawings) -> Any:
    """The function behind /generate; its docstring is the clients' documentation."""

    def generate(
        reference: Any, prompt: Any = "", pose: Any = "", negative_prompt: Any = "", pose_picture: Any = None,
        keypoints: Any = None, image_prompt: Any = None, more_references: Any = None,
        id_strength: Any = None, head: Any = None, upper: Any = None, lower: Any = None, feet: Any = None,
        pose_strength: Any = None, image_prompt_strength: Any = None, guidance: Any = None,
        steps: Any = None, count: Any = None, seed: Any = None, height: Any = None, width: Any = None,
        retarget: Any = True,
    ) -> Iterator[tuple[Any, Any]]:  # fmt: skip
        """Pictures of the person of a reference picture, in a pose, as a prompt says.

        Args:
            reference: picture of the person, best the whole body
            prompt: what the picture shows; may be empty
            pose: a pose's name, for example "sitting"; empty for one that fits the prompt, or a free one
            negative_prompt: what the picture must not show; needs guidance above 1
            pose_picture: picture of a person in the wanted pose, or a skeleton map; wins over pose
            keypoints: 18 OpenPose joints as rows of x, y[, confidence] in [0, 1]; wins over pose_picture
            image_prompt: picture whose scene or style is taken
            more_references: further pictures of the same person
            id_strength: 0 to 1.5, how much of the person is kept
            head: 0 to 1, share of id_strength for the head
            upper: 0 to 1, share of id_strength for the upper body
            lower: 0 to 1, share of id_strength for the lower body
            feet: 0 to 1, share of id_strength for the feet
            pose_strength: 0 to 1.5, how closely the skeleton is followed
            image_prompt_strength: 0 to 1.5, how much of the scene is taken
            guidance: 0 to 15, how literally the prompt is taken; without one, the model's own for the pose
            steps: 1 to 50 denoising steps; without them, the model's own, which may be more for a free pose
            count: 1 to 4 pictures, each from the next seed
            seed: 0 to 4294967295; without one, a random one
            height: pixels, multiple of 8; without one, the model's own
            width: pixels, multiple of 8; without one, the model's own
            retarget: give the pose the person's proportions
        """
        values = dict(locals())

        def plan() -> Any:
            given = client_pose(handlers, values["pose"], values["pose_picture"], values["keypoints"])
            paths = reference_paths(values["reference"], values["more_references"])
            own = handlers.studio.own(posed=given is not None)
            unsaid = {name: value for name, value in own.items() if values[name] is None}
            return drawings.planned(paths, None, given, values["image_prompt"], values | unsaid)

        for done, news in drawings.run(plan):
            if isinstance(news, Drawn):
                yield [(each.image, None) for each in done], [_told(handlers, each) for each in done]

    return generate


def make_preview(handlers: Handlers) -> Any:
    """The function behind /pose_preview; its docstring is the clients' documentation."""

    @mistakes_told
    def pose_preview(
        pose: Any = "", pose_picture: Any = None, keypoints: Any = None, reference: Any = None,
        retarget: Any = True,
    ) -> tuple[Any, Any]:  # fmt: skip
        """The skeleton that a picture would be drawn with, in the reference's proportions.

        Args:
            pose: a pose's name, for example "sitting"
            pose_picture: picture of a person in the wanted pose, or a skeleton map; wins over pose
            keypoints: 18 OpenPose joints as rows of x, y[, confidence] in [0, 1]; wins over pose_picture
            reference: picture of the person whose proportions are taken; may be left out
            retarget: give the pose the person's proportions
        """
        given = client_pose(handlers, pose, pose_picture, keypoints)
        if given is None:
            raise ValueError("there is no pose; give a name, a picture or key-points")
        studio = handlers.studio
        settings = checked({**studio.defaults, "retarget": retarget}, studio.size)
        people = studio.find([reference]) if reference else []
        fitted = studio.fit(given["keypoints"], people, settings)
        return studio.skeleton(fitted, studio.size), np.round(fitted.astype(float), 4).tolist()

    return pose_preview


def client_pose(handlers: Handlers, name: Any, picture: Any, keypoints: Any) -> dict[str, Any] | None:
    """A client's pose: key-points before a picture before a name. Raises ValueError."""
    if keypoints:
        return {"keypoints": handlers.studio.pose_points(keypoint_pose(keypoints)), "name": None}
    if picture:
        return {"keypoints": handlers.studio.pose_points(picture), "name": None}
    value = handlers.named_pose(name)
    if value is None:
        return None
    return {"keypoints": np.asarray(value["keypoints"], np.float32), "name": value["name"]}


def _number(handlers: Handlers, name: str) -> gr.Number:
    """A number without bounds of its own: `checked` tells what is valid. None: the model's own, or random."""
    left = name in handlers.studio.defaults or name not in RANGES
    return gr.Number(None if left else RANGES[name][2], label=name.replace("_", " "))


def _told(handlers: Handlers, drawn: Drawn) -> dict[str, Any]:
    networks = handlers.studio.networks
    return {
        "seed": drawn.seed,
        "id_similarity": drawn.measured.likeness,
        "pose_accuracy": drawn.measured.accuracy,
        "measured_by": None if networks is None else networks.by,
    }
