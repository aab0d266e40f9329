"""The page: the parts side by side, and what happens on which event."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import gradio as gr

import bolid.space.views as views
from bolid.pose import PARTS, POSE_NAMES
from bolid.space.controls import FIRST_SEED, Controls
from bolid.space.drawings import Drawings
from bolid.space.endpoints import add_endpoints
from bolid.space.handlers import Handlers
from bolid.space.results import AS_DRAWN, ordered, shown
from bolid.space.sections import PersonSection, PictureSection, PoseSection, Shelf, WordsSection
from bolid.space.settings import MAX_SEED
from bolid.space.studio import Studio
from bolid.space.texts import (
    AVATARS,
    CONSENT,
    KEPT,
    NOT_DRAWN,
    STOPPED,
    SWEPT,
    TAGLINE,
    UNMARKED,
    WAITING,
    WATERMARKED,
)

# all but the drawing goes past the queue: when that is full, the rest of the page still answers
AT_ONCE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}


class Page:
    """One use: `Page(studio, examples).blocks`."""

    def __init__(self, studio: Studio, examples: Path | None) -> None:
        self.studio, self.handlers = studio, Handlers(studio)
        self.drawings = Drawings(self.handlers)
        self.controls, shelf = Controls(studio), Shelf(examples)
        with gr.Blocks(title="BoLID", delete_cache=(SWEPT, KEPT), analytics_enabled=False) as self.blocks:
            self._head()
            with gr.Row(equal_height=False, elem_id="columns"):
                with gr.Column(min_width=300):
                    self.person = PersonSection(self.controls, shelf)
                with gr.Column(min_width=300):
                    self.pose = PoseSection(self.controls, shelf, self.handlers)
                with gr.Column(min_width=300):
                    self.words = WordsSection(self.controls, shelf)
                    self.picture = PictureSection(self.controls)
            marks = WATERMARKED if studio.watermark else UNMARKED
            gr.Markdown(CONSENT.format(watermark=marks), elem_classes="bolid-small", elem_id="consent")
            self._person_events()
            self._pose_events()
            self._drawing_events()
            self._result_events()
            add_endpoints(self.handlers, self.drawings)

    def _head(self) -> None:
        height, width = self.studio.size
        about = AVATARS.format(width=width, height=height) if self.studio.pipe.draws_avatars else ""
        gr.Markdown(f"# BoLID\n{TAGLINE} {about}", elem_id="head")

    def _fit(self) -> dict[str, Any]:
        """The event that draws the pose preview anew."""
        strengths = [self.controls[name] for name in ("retarget", "id_strength", *PARTS)]
        return {
            "fn": self.handlers.preview,
            "inputs": [self.pose.editor, self.person.seen, *strengths],
            "outputs": self.pose.preview,
        }

    def _person_events(self) -> None:
        person = self.person
        for source in (person.reference, person.more):
            source.change(
                self._look, [person.reference, person.more], [person.found, person.words, person.seen],
                trigger_mode="always_last", **AT_ONCE,
            ).then(**self._fit(), **AT_ONCE)  # fmt: skip

    def _look(self, reference: str | None, more: Any) -> tuple[Any, str, Any]:
        picture, words, seen = self.handlers.look(reference, more)
        return gr.update(value=picture, visible=picture is not None), words, seen

    def _pose_events(self) -> None:
        pose, editor, fit = self.pose, self.pose.editor, self._fit()
        changes = (
            pose.poses.select(self._named, None, editor, **AT_ONCE),
            pose.picture.change(self.handlers.picture_pose, pose.picture, editor, **AT_ONCE),
            pose.own.click(self.handlers.own_pose, self.person.seen, editor, **AT_ONCE),
            pose.free.click(lambda: None, None, editor, **AT_ONCE),
        )
        numbers = [self.controls["steps"], self.controls["guidance"]]
        for changed in changes:
            changed.then(**fit, **AT_ONCE)
            changed.then(self.handlers.own_numbers, [editor, *numbers], numbers, **AT_ONCE)
        editor.input(**fit, trigger_mode="always_last", **AT_ONCE)
        for name in ("retarget", "id_strength", *PARTS):
            self.controls[name].change(**fit, trigger_mode="always_last", **AT_ONCE)

    def _named(self, event: gr.SelectData) -> Any:
        """The pose whose thumbnail was chosen."""
        return self.handlers.named_pose(POSE_NAMES[int(event.index)])  # pyright: ignore[reportArgumentType]

    def _drawing_events(self) -> None:
        picture, person = self.picture, self.person
        people = [person.reference, person.more, person.seen]
        own = [*people, self.pose.editor, self.words.scene, *self.controls.all()]
        again = [picture.pictures, picture.chosen, *people, self.words.scene]
        kinds = (
            (picture.go, self.drawings.draw, own, picture.pictures),
            (picture.vary, self.drawings.vary, again, picture.pictures),
            (picture.others, self.drawings.other_poses, again, picture.pictures),
            (picture.sweep, self.drawings.sweep, [picture.which, *own], picture.strip),
        )
        running = [self._drawing(*kind) for kind in kinds]
        # a running drawing ends by its flag, as a finished one does; only a waiting one is taken
        # out of the queue (gradio's cancelling of a running one may show an error, or an old step)
        picture.stop.click(
            self.drawings.stop, [picture.live, picture.left], [picture.live, picture.left], **AT_ONCE
        )
        picture.left.change(None, None, None, cancels=running, **AT_ONCE)

    def _drawing(self, button: Any, draw: Any, inputs: list[Any], output: Any) -> Any:
        """A drawing button: while it draws, only Stop can be pressed."""
        live = self.picture.live
        drawing = button.click(self._busy, None, [*self._switches(), live], **AT_ONCE).then(
            draw, inputs, [output, live], api_visibility="private", show_progress_on=live,
            concurrency_limit=1, concurrency_id="draw", trigger_mode="once",
        )  # fmt: skip
        idle = (self._idle, self.picture.pictures, self._switches())
        ended = drawing.then(*idle, **AT_ONCE)
        # gradio 6.31's page leaves `then` out after an error
        drawing.failure(*idle, **AT_ONCE).then(self._not_drawn, live, live, **AT_ONCE)
        if output is not self.picture.pictures:
            ended.then(**self._shown(), **AT_ONCE)
        else:
            ended.then(self._drawn, output,
                       [self.picture.drawn, self.picture.chosen, self.picture.order], **AT_ONCE,
            ).then(**self._shown(), **AT_ONCE)  # fmt: skip
        return drawing

    def _not_drawn(self, news: str | None) -> Any:
        """The line of news after a failure, which for gradio a cancelled drawing is too."""
        return gr.skip() if STOPPED in (news or "") else views.note(NOT_DRAWN)

    def _drawn(self, pictures: Any) -> tuple[Any, int, Any]:
        """New pictures: their own order, the first one chosen."""
        return pictures, 0, gr.update(value=AS_DRAWN, visible=len(pictures or ()) > 1)

    def _switches(self) -> list[Any]:
        picture = self.picture
        return [picture.go, picture.sweep, picture.stop, picture.vary, picture.others, picture.download]

    def _busy(self) -> list[Any]:
        """The drawing buttons off, Stop on; and the line of news."""
        off, on = gr.update(interactive=False), gr.update(interactive=True)
        return [gr.update(interactive=False, value="Drawing …"), off, on, *[off] * 3, views.note(WAITING)]

    def _idle(self, pictures: Any) -> list[Any]:
        """The drawing buttons on, Stop off."""
        on, some = gr.update(interactive=True), gr.update(interactive=bool(pictures))
        generate = gr.update(interactive=True, value="Generate")
        # the download waits for `_shown`: until then it would give the last picture
        return [generate, on, gr.update(interactive=False), some, some, gr.skip()]

    def _shown(self) -> dict[str, Any]:
        """The event that shows the chosen picture's details, comparison and file."""
        picture = self.picture
        return {
            "fn": shown,
            "inputs": [picture.pictures, picture.chosen, self.person.seen],
            "outputs": [picture.details, picture.compare, picture.download],
        }

    def _result_events(self) -> None:
        picture, controls = self.picture, self.controls.all()
        picture.pictures.select(self._picked, None, picture.chosen, **AT_ONCE).then(
            **self._shown(), **AT_ONCE
        )
        picture.order.input(
            lambda drawn, order: (gr.update(value=ordered(drawn, order), selected_index=0), 0),
            [picture.drawn, picture.order], [picture.pictures, picture.chosen], **AT_ONCE,
        ).then(**self._shown(), **AT_ONCE)  # fmt: skip
        picture.dice.click(lambda: secrets.randbelow(MAX_SEED + 1), None, self.controls["seed"], **AT_ONCE)
        picture.load.upload(
            self.handlers.load, picture.load, [*controls, self.pose.editor], **AT_ONCE
        ).then(**self._fit(), **AT_ONCE)  # fmt: skip
        picture.first_seed.click(lambda: FIRST_SEED, None, self.controls["seed"], **AT_ONCE)
        picture.reset.click(self.controls.resets, None, controls, **AT_ONCE)

    def _picked(self, event: gr.SelectData) -> int:
        return int(event.index)  # pyright: ignore[reportArgumentType]
