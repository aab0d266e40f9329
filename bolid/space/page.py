"""The page: what stands where, and what happens on which event."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

import bolid.space.views as views
from bolid.pose import PARTS, POSE_NAMES
from bolid.space.editor import pose_editor
from bolid.space.endpoints import add_endpoints
from bolid.space.handlers import CONTROLS, Handlers, reference_paths
from bolid.space.inputs import picture_input
from bolid.space.settings import MAX_COUNT, MAX_PROMPT, MAX_SEED, RANGES
from bolid.space.studio import Progress, Studio
from bolid.space.texts import AVATARS, CONSENT, FIRST_POSE, KEPT, PROMPTS, SWEPT


class Page:
    """Components by name while the page is built. One use: `Page(studio, examples).blocks`."""

    def __init__(self, studio: Studio, examples: Path | None) -> None:
        self.studio, self.handlers, self.examples = studio, Handlers(studio), examples
        self.controls: dict[str, Any] = {}
        with gr.Blocks(title="BoLID", delete_cache=(SWEPT, KEPT), analytics_enabled=False) as self.blocks:
            self._head()
            with gr.Row(equal_height=False):
                with gr.Column(min_width=300):
                    self._reference()
                with gr.Column(min_width=300):
                    self._pose()
                with gr.Column(min_width=300):
                    self._result()
            gr.Markdown(CONSENT, elem_classes="bolid-small")
            self._events()
            add_endpoints(self.handlers)

    def _head(self) -> None:
        gr.Markdown("# BoLID\nThe same person, whole body, in any pose: from one picture.")
        if self.studio.pipe.draws_avatars:
            height, width = self.studio.size
            gr.Markdown(AVATARS.format(width=width, height=height), elem_classes="bolid-small")

    def _pictures(self, folder: str) -> list[str]:
        return sorted(map(str, self.examples.glob(f"{folder}/*.png"))) if self.examples else []

    def _reference(self) -> None:
        gr.Markdown("## 1. Person")
        self.reference = picture_input(
            label="Reference picture of the person", sources=["upload", "clipboard", "webcam"], height=260,
            elem_id="reference",
        )  # fmt: skip
        people = self._pictures("people")
        if people:
            gr.Examples(
                [[each] for each in people], self.reference, label="Example people", examples_per_page=12
            )
        with gr.Accordion("More pictures of the same person", open=False):
            self.more = gr.Gallery(
                label="Further pictures",
                type="filepath",
                interactive=True,
                file_types=["image"],
                columns=3,
                height=160,
            )
        self.found_words = gr.HTML(
            views.note("No reference yet: upload a picture, or pick an example person.")
        )
        self.found = gr.Image(
            label="What was found", height=280, interactive=False, visible=False, format="png",
            buttons=["fullscreen"], elem_id="found", alt_text="the reference, what was found drawn over it",
        )  # fmt: skip
        self.seen = gr.State(None, time_to_live=KEPT)
        gr.Markdown("## 2. Words")
        self._text("prompt", "Prompt", "what the picture shows; may be empty", lines=2)
        gr.Examples([[each] for each in PROMPTS], self.controls["prompt"], label="Example prompts")
        self._text("negative_prompt", "Negative prompt", "what it must not show", lines=1)
        with gr.Accordion("Image prompt: a scene or style by example", open=False):
            self.image_prompt = picture_input(
                label="Image prompt", sources=["upload", "clipboard"], height=180
            )
            scenes = self._pictures("scenes")
            if scenes:
                gr.Examples([[each] for each in scenes], self.image_prompt, label="Example scenes")
            self._slider("image_prompt_strength", "Scene strength", "how much of it is taken; 0: nothing")

    def _text(self, name: str, label: str, info: str, lines: int) -> None:
        self.controls[name] = gr.Textbox(
            label=label,
            info=info,
            lines=lines,
            max_lines=6,
            max_length=MAX_PROMPT,
            elem_id=name.replace("_", "-"),
        )

    def _slider(self, name: str, label: str, info: str) -> None:
        low, high, default = RANGES[name]
        value = self.studio.defaults.get(name, default)
        step = 1 if name in ("steps", "count") else 0.05
        self.controls[name] = gr.Slider(
            low,
            high,
            value,
            step=step,
            label=label,
            info=info,
            buttons=["reset"],
            elem_id=name.replace("_", "-"),
        )

    def _pose(self) -> None:
        gr.Markdown("## 3. Pose")
        with gr.Tabs():
            with gr.Tab("Gallery"):
                self.poses = gr.Gallery(
                    views.thumbnails(), label="Named poses", columns=4, height=230, allow_preview=False,
                    interactive=False, object_fit="contain", buttons=[], elem_id="poses",
                )  # fmt: skip
            with gr.Tab("From a picture"):
                self.pose_picture = picture_input(
                    "Picture of a person, or a skeleton map",
                    sources=["upload", "clipboard", "webcam"],
                    height=180,
                )
                pictures = self._pictures("poses")
                if pictures:
                    gr.Examples(
                        [[each] for each in pictures], self.pose_picture, label="Example pose pictures"
                    )
        with gr.Row():
            self.own = gr.Button("The reference's own pose", size="sm")
            self.free = gr.Button("Free pose (no skeleton)", size="sm")
        self.editor = pose_editor(
            self.handlers.named_pose(FIRST_POSE), width=2 * self.studio.size[1],
            height=2 * self.studio.size[0], elem_id="pose-editor", label="Skeleton editor",
        )  # fmt: skip
        first = self.handlers.preview(self.editor.value, None, True)
        with gr.Accordion("Pose preview: the skeleton that will be used", open=True):
            self.preview = gr.Image(
                first, label="In the person's proportions", height=220, interactive=False, show_label=False,
                buttons=["fullscreen"], elem_id="pose-preview", alt_text="the skeleton that will be used",
            )  # fmt: skip
            self.controls["retarget"] = gr.Checkbox(True, label="Give the pose the person's proportions")

    def _result(self) -> None:
        gr.Markdown("## 4. Picture")
        self._slider("id_strength", "ID strength", "how much of the person is kept")
        with gr.Accordion("ID strength by part", open=False):
            for part, words in views.strengths_words().items():
                self._slider(part, words, "share of the ID strength; 0: left to the prompt")
        self._slider("pose_strength", "Pose strength", "how closely the skeleton is followed")
        with gr.Accordion("Steps, guidance, size", open=False):
            self._slider("steps", "Steps", "more are slower and finer")
            self._slider("guidance", "Guidance", "how literally the prompt is taken; 1 and less: off")
            with gr.Row():
                for name, own in zip(("height", "width"), self.studio.size, strict=True):
                    self.controls[name] = gr.Number(
                        own, label=f"{name.capitalize()} in pixels", info=f"multiple of 8; best {own}",
                        precision=0, step=8, minimum=8, min_width=120,
                    )  # fmt: skip
        with gr.Row():
            self.controls["seed"] = gr.Number(
                7, label="Seed", info="same seed, same picture", precision=0, minimum=0, maximum=MAX_SEED,
                min_width=120, elem_id="seed",
            )  # fmt: skip
            self.dice = gr.Button("🎲 New seed", size="sm", min_width=90)
        low, _, default = RANGES["count"]
        self.controls["count"] = gr.Slider(
            low, MAX_COUNT, default, step=1, label="Pictures", info="each from the next seed", elem_id="count"
        )
        with gr.Row():
            self.go = gr.Button("Generate", variant="primary", elem_id="generate")
            self.stop = gr.Button("Stop", variant="stop", elem_id="stop")
        self.live = gr.HTML(views.note("Ready."), elem_id="live", min_height=60)
        self.pictures = gr.Gallery(
            label="Results", format="png", columns=4, preview=True, object_fit="contain", height=420,
            interactive=False, buttons=["download", "fullscreen"], elem_id="results",
        )  # fmt: skip
        self.load = gr.UploadButton(
            "Load settings from a picture", file_types=[".png"], type="filepath", size="sm"
        )

    def _events(self) -> None:
        hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        quick: dict[str, Any] = hidden | {"concurrency_limit": 4, "concurrency_id": "quick"}
        strengths = [self.controls[name] for name in ("retarget", "id_strength", *PARTS)]
        fit: dict[str, Any] = {
            "fn": self.handlers.preview,
            "inputs": [self.editor, self.seen, *strengths],
            "outputs": self.preview,
        }
        for source in (self.reference, self.more):
            looked = source.change(
                self._look, [self.reference, self.more], [self.found, self.found_words, self.seen],
                trigger_mode="always_last", **quick,
            )  # fmt: skip
            looked.then(**fit, **quick)
        self.poses.select(self._chosen, None, self.editor, **quick).then(**fit, **quick)
        self.pose_picture.change(self.handlers.picture_pose, self.pose_picture, self.editor, **quick).then(
            **fit, **quick
        )
        self.own.click(self.handlers.own_pose, self.seen, self.editor, **quick).then(**fit, **quick)
        self.free.click(lambda: None, None, self.editor, **quick).then(**fit, **quick)
        self.editor.input(**fit, trigger_mode="always_last", **quick)
        for control in strengths:
            control.change(**fit, trigger_mode="always_last", **quick)
        self.dice.click(lambda: secrets.randbelow(MAX_SEED + 1), None, self.controls["seed"], **quick)
        controls = [self.controls[name] for name in CONTROLS]
        drawing = self.go.click(
            self._generate, [self.reference, self.more, self.seen, self.editor, self.image_prompt, *controls],
            [self.pictures, self.live], api_visibility="private", show_progress_on=self.live,
            concurrency_limit=1, concurrency_id="draw", trigger_mode="once",
        )  # fmt: skip
        # closes the drawing's generator, or takes it out of the queue
        self.stop.click(
            lambda: views.note("Stopped."), None, self.live, cancels=[drawing], queue=False, **hidden
        )
        self.load.upload(self.handlers.load, self.load, [*controls, self.editor], **quick).then(
            **fit, **quick
        )

    def _look(self, reference: str | None, more: Any) -> tuple[Any, str, Any]:
        picture, words, seen = self.handlers.look(reference, more)
        return gr.update(value=picture, visible=picture is not None), words, seen

    def _chosen(self, event: gr.SelectData) -> Any:
        """The pose whose thumbnail was chosen."""
        return self.handlers.named_pose(POSE_NAMES[int(event.index)])  # pyright: ignore[reportArgumentType]

    def _generate(
        self, reference: Any, more: Any, seen: Any, editor: Any, scene: Any, *values: Any
    ) -> Iterator[tuple[Any, Any]]:  # fmt: skip
        """Pictures and news for the page, step by step."""
        given = dict(zip(CONTROLS, values, strict=True))
        paths, pose, done = reference_paths(reference, more), self.handlers.pose(editor), []
        yield [], views.note("Starting …")
        for done, news, _ in self.handlers.generate(paths, seen, pose, scene, given):
            yield (gr.skip(), views.progress_view(news)) if isinstance(news, Progress) else (done, gr.skip())
        plural = "" if len(done) == 1 else "s"
        yield gr.skip(), views.note(f"{len(done)} picture{plural} done." if done else "Stopped.")
