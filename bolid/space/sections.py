"""The page's four parts: what stands in them. What happens is in `page`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

import bolid.space.views as views
from bolid.space.controls import Controls
from bolid.space.drawings import SWEEPS
from bolid.space.editor import pose_editor
from bolid.space.handlers import Handlers
from bolid.space.inputs import picture_input
from bolid.space.results import AS_DRAWN, ORDERS
from bolid.space.texts import FIRST_POSE, KEPT, NO_REFERENCE, PROMPTS, READY


class Shelf:
    """The example pictures: `people`, `poses` and `scenes` of a folder; None has none."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def examples(self, kind: str, component: Any, label: str) -> None:
        """A row of examples for a picture input, where there are any."""
        files = sorted(map(str, self.folder.glob(f"{kind}/*.png"))) if self.folder else []
        if files:
            gr.Examples([[each] for each in files], component, label=label, examples_per_page=12)


class PersonSection:
    """1. Who: reference pictures, what was found, ID strengths."""

    def __init__(self, controls: Controls, shelf: Shelf) -> None:
        gr.Markdown("## 1. Person")
        self.reference = picture_input(
            label="Reference picture of the person", sources=["upload", "clipboard", "webcam"], height=240,
            elem_id="reference",
        )  # fmt: skip
        shelf.examples("people", self.reference, "Example people")
        with gr.Accordion("More pictures of the same person", open=False):
            self.more = gr.Gallery(
                label="Further pictures", type="filepath", interactive=True, file_types=["image"], columns=3,
                height=160, elem_id="more",
            )  # fmt: skip
        self.words = gr.HTML(views.note(NO_REFERENCE), elem_id="found-words")
        self.found = gr.Image(
            label="What was found", interactive=False, visible=False, format="png",
            buttons=["fullscreen"], elem_id="found", alt_text="the reference, what was found drawn over it",
        )  # fmt: skip
        self.seen = gr.State(None, time_to_live=KEPT)
        controls.slider("id_strength", "ID strength", "how much of the person is kept; 0: words alone")
        with gr.Accordion("ID strength by part", open=False):
            for part, words in views.strengths_words().items():
                controls.slider(part, words, "share of the ID strength; 0: left to the prompt")


class PoseSection:
    """2. How: gallery, picture, editor, preview, pose strength."""

    def __init__(self, controls: Controls, shelf: Shelf, handlers: Handlers) -> None:
        gr.Markdown("## 2. Pose")
        with gr.Tabs():
            with gr.Tab("Gallery"):
                self.poses = gr.Gallery(
                    views.thumbnails(), label="Named poses", columns=4, height=268, allow_preview=False,
                    interactive=False, object_fit="contain", buttons=[], elem_id="poses",
                )  # fmt: skip
            with gr.Tab("From a picture"):
                self.picture = picture_input(
                    "Picture of a person, or a skeleton map", sources=["upload", "clipboard", "webcam"],
                    height=180, elem_id="pose-picture",
                )  # fmt: skip
                shelf.examples("poses", self.picture, "Example pose pictures")
        with gr.Row():
            self.own = gr.Button("The reference's own pose", size="sm", min_width=120)
            free = "from the prompt" if handlers.studio.finds_poses else "no skeleton"
            self.free = gr.Button(f"Free pose ({free})", size="sm", min_width=120)
        height, width = handlers.studio.size
        with gr.Row(elem_id="pose-row"):
            self.editor = pose_editor(
                handlers.named_pose(FIRST_POSE), width=2 * width, height=2 * height, elem_id="pose-editor",
                label="Skeleton editor",
            )  # fmt: skip
            self.preview = gr.Image(
                handlers.preview(self.editor.value, None, True), label="Will be used",
                interactive=False, buttons=[], elem_id="pose-preview", min_width=100,
                alt_text="pose preview: the skeleton that will be used", format="png",
            )  # fmt: skip
        controls.retarget()
        controls.slider("pose_strength", "Pose strength", "how closely the skeleton is followed; 0: free")


class WordsSection:
    """3. What: prompts, and a picture whose scene or style is taken."""

    def __init__(self, controls: Controls, shelf: Shelf) -> None:
        gr.Markdown("## 3. Words")
        told = "what the picture shows; may be empty; other clothes need their part's ID strength at 0"
        controls.text("prompt", "Prompt", told, lines=2)
        gr.Examples([[each] for each in PROMPTS], controls["prompt"], label="Example prompts")
        with gr.Accordion("Negative prompt, image prompt (scene or style)", open=False):
            controls.text(
                "negative_prompt", "Negative prompt", "what it must not show; needs guidance above 1", lines=1
            )
            self.scene = picture_input(
                label="Image prompt", sources=["upload", "clipboard"], height=180, elem_id="scene"
            )
            shelf.examples("scenes", self.scene, "Example scenes")
            controls.slider("image_prompt_strength", "Scene strength", "how much of it is taken; 0: nothing")


class PictureSection:
    """4. The picture: seed, steps, the drawing buttons, results and what can be done with them."""

    def __init__(self, controls: Controls) -> None:
        gr.Markdown("## 4. Picture")
        with gr.Accordion("Seed, number of pictures, steps, guidance, size", open=False):
            self.dice = gr.Button("New seed", min_width=90, elem_id="dice")
            self.first_seed = gr.Button("↺", min_width=30, elem_id="first-seed")
            controls.seed([self.dice, self.first_seed])
            controls.slider("count", "Pictures", "each from the next seed")
            controls.slider("steps", "Steps", "more are slower and finer")
            controls.slider("guidance", "Guidance", "how literally the prompt is taken; 1 and less: off")
            controls.size()
        with gr.Row(elem_id="go-row"):
            self.go = gr.Button("Generate", variant="primary", elem_id="generate", min_width=120)
            self.stop = gr.Button("Stop", variant="stop", elem_id="stop", interactive=False, min_width=90)
        self.left = gr.Number(0, visible="hidden", elem_id="left")  # how often Stop found nothing running
        self.live = gr.HTML(views.note(READY), elem_id="live", min_height=44)
        self.pictures = gr.Gallery(
            label="Results", format="png", columns=2, object_fit="contain", height="auto",
            interactive=False, buttons=["download", "fullscreen"], elem_id="results", type="filepath",
        )  # fmt: skip
        self.chosen, self.drawn = gr.State(0), gr.State(None, time_to_live=KEPT)
        self._tools()
        with gr.Row():
            self.load = gr.UploadButton(
                "Load settings from a picture", file_types=[".png"], type="filepath", size="sm",
                elem_id="load",
            )  # fmt: skip
            self.reset = gr.Button("Reset all settings", size="sm", elem_id="reset")

    def _tools(self) -> None:
        """What can be done with the chosen picture."""
        self.order = gr.Radio(
            [AS_DRAWN, *ORDERS], value=AS_DRAWN, label="Order", info="best first, by what was measured",
            elem_id="order", visible=False,
        )  # fmt: skip
        self.details = gr.HTML("", elem_id="details")
        with gr.Row():
            self.download = gr.DownloadButton(
                "Download", interactive=False, size="sm", elem_id="download", min_width=80
            )
            self.vary = gr.Button("Vary this", size="sm", interactive=False, elem_id="vary", min_width=80)
            self.others = gr.Button(
                "Same seed, other poses", size="sm", interactive=False, elem_id="others", min_width=160
            )
        with gr.Accordion("Compare with the reference", open=False):
            self.compare = gr.ImageSlider(
                label="Reference (left) and picture (right)", interactive=False, visible=False, format="png",
                max_height=420, buttons=["fullscreen"], elem_id="compare",
            )  # fmt: skip
        with gr.Accordion("Strength sweep", open=False):
            self.which = gr.Radio(
                list(SWEEPS), value="ID strength", label="Setting", elem_id="sweep-of",
                info="drawn at five values, side by side; all else as set on the page",
            )  # fmt: skip
            self.sweep = gr.Button("Draw the sweep", size="sm", elem_id="sweep")
            self.strip = gr.Image(
                label="Sweep", interactive=False, visible=False, format="png", elem_id="strip",
                buttons=["download", "fullscreen"], alt_text="five pictures, the setting rising",
            )  # fmt: skip
