"""What the page's drawing buttons do: each plans jobs, and all run them in the same way."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

import bolid.space.views as views
from bolid.pose import POSE_NAMES
from bolid.reference import Reference
from bolid.space.editor import editor_pose
from bolid.space.handlers import CONTROLS, Handlers, Seen, mistake, reference_paths
from bolid.space.provenance import marked
from bolid.space.settings import MAX_SEED, Settings, checked
from bolid.space.stops import Stops
from bolid.space.studio import Drawn, Job, Progress
from bolid.space.texts import STOPPED, WAITING
from bolid.space.zero import on_gpu

VARIANTS = 4  # pictures of "vary this" and of "other poses"
SWEEPS: Mapping[str, tuple[str, tuple[float, ...]]] = MappingProxyType(
    {
        "ID strength": ("id_strength", (0.0, 0.4, 0.7, 1.0, 1.5)),
        "Pose strength": ("pose_strength", (0.0, 0.5, 1.0, 1.25, 1.5)),
        "Scene strength": ("image_prompt_strength", (0.0, 0.25, 0.5, 1.0, 1.5)),
        "Guidance": ("guidance", (1.0, 1.5, 2.0, 4.0, 7.0)),
        "Steps": ("steps", (4, 8, 12, 20, 30)),
    }
)
BROKEN = "The server could not draw this; try again, or with other settings."


class Plan(NamedTuple):
    """What is to be drawn."""

    jobs: list[Job]
    people: list[Reference]
    image_prompt: str | None


class Drawings:
    """The drawing buttons over `handlers`, and the flags by which Stop ends them."""

    def __init__(self, handlers: Handlers) -> None:
        self.handlers, self.stops = handlers, Stops()
        self._draw = on_gpu(handlers.studio.draw)

    def run(
        self, plan: Callable[[], Plan], visitor: str | None = None
    ) -> Iterator[tuple[list[Drawn], Progress | Drawn]]:
        """(pictures so far, news) after every step; closing it, or Stop by that visitor, ends the drawing.

        visitor: of the page; None for a client, who cancels through gradio. Raises gr.Error.
        """
        done: list[Drawn] = []
        visitor = visitor or secrets.token_hex(16)  # nobody else's Stop may reach it
        try:
            with self.stops.running(visitor) as stop, contextlib.closing(self._draw(*plan())) as drawing:
                for news in drawing:
                    if stop.is_set():
                        return
                    if isinstance(news, Drawn):
                        done = [*done, news]
                    yield done, news
        except ValueError as error:
            raise mistake(error) from error
        except Exception as error:  # a fault of ours: the log has it, the page shows no internals
            raise gr.Error(BROKEN) from error

    def planned(
        self, paths: tuple[str, ...], seen: Seen | None, pose: Any, scene: str | None,
        values: Mapping[str, Any],
    ) -> Plan:  # fmt: skip
        """`count` pictures, each from the next seed. Raises ValueError for anything that cannot be used."""
        settings = checked(values, self.handlers.studio.size)
        people = self.handlers.people(paths, seen, settings)
        return Plan(_from_seeds(settings, pose, settings.seed, settings.count), people, scene)

    def draw(
        self, request: gr.Request, reference: Any, more: Any, seen: Any, editor: Any, scene: Any, *values: Any
    ) -> Iterator[tuple[Any, Any]]:
        """The page's own settings: pictures and news, step by step."""
        given = dict(zip(CONTROLS, values, strict=True))
        paths = reference_paths(reference, more)
        yield from self._shown(request, lambda: self.planned(paths, seen, editor_pose(editor), scene, given))

    def vary(self, request: gr.Request, *inputs: Any) -> Iterator[tuple[Any, Any]]:
        """The chosen picture's settings and pose, from new seeds. inputs: see `_again`."""

        def jobs(settings: Settings, pose: Any) -> list[Job]:
            return _from_seeds(settings, pose, secrets.randbelow(MAX_SEED + 1), VARIANTS)

        yield from self._again(request, jobs, *inputs)

    def other_poses(self, request: gr.Request, *inputs: Any) -> Iterator[tuple[Any, Any]]:
        """The chosen picture's settings and seed, in the named poses that follow its own in the gallery."""

        def jobs(settings: Settings, pose: Any) -> list[Job]:
            name = pose["name"] if pose else None
            after = POSE_NAMES.index(name) + 1 if name in POSE_NAMES else 0
            names = [POSE_NAMES[(after + place) % len(POSE_NAMES)] for place in range(VARIANTS)]
            return [Job(settings, editor_pose(self.handlers.named_pose(each))) for each in names]

        yield from self._again(request, jobs, *inputs)

    def _again(
        self, request: gr.Request, jobs: Callable[[Settings, Any], list[Job]], pictures: Any, chosen: int,
        reference: Any, more: Any, seen: Any, scene: Any,
    ) -> Iterator[tuple[Any, Any]]:  # fmt: skip
        """Jobs made of the chosen picture's settings, for the person who is on the page now."""

        def plan() -> Plan:
            path = chosen_picture(pictures, chosen)
            if path is None:
                raise ValueError("there is no picture yet; draw one first")
            settings, pose = self.handlers.settings_of(path)
            people = self.handlers.people(reference_paths(reference, more), seen, settings)
            return Plan(jobs(settings, pose), people, scene)

        yield from self._shown(request, plan)

    def sweep(
        self, request: gr.Request, which: str, reference: Any, more: Any, seen: Any, editor: Any, scene: Any,
        *values: Any,
    ) -> Iterator[tuple[Any, Any]]:  # fmt: skip
        """The page's settings at several values of one of them, as one strip: (strip, news)."""
        paths, started = reference_paths(reference, more), time.monotonic()
        given = dict(zip(CONTROLS, values, strict=True)) | {"count": 1}
        name, points = SWEEPS[which]
        done: list[Drawn] = []

        def plan() -> Plan:
            base = self.planned(paths, seen, editor_pose(editor), scene, given)
            return base._replace(jobs=[Job(replace(base.jobs[0].settings, **{name: point}), base.jobs[0].pose)
                                       for point in points])  # fmt: skip

        for done, news in self.run(plan, str(request.session_hash)):  # noqa: B007 - used after the loop
            if isinstance(news, Progress):
                yield gr.skip(), views.progress_view(news)
        if len(done) < len(points):
            yield gr.skip(), views.note(STOPPED)
            return
        labels = [f"{which} {point:g}" for point in points]
        yield gr.update(value=_strip(done, labels), visible=True), _done(len(done), started)

    def stop(self, request: gr.Request, news: str | None, left: int) -> tuple[Any, int]:
        """End the visitor's drawing: what the page says then, and `left`, one more where it still waits.

        news: the page's line of them. A drawing that is over on the server is let alone: its last news, still
        under way to the page, would come after the word that it was stopped.
        """
        if self.stops.stop(str(request.session_hash)):
            return views.note(STOPPED), left
        return (views.note(STOPPED), left + 1) if WAITING in (news or "") else (gr.skip(), left)

    def _shown(self, request: gr.Request, plan: Callable[[], Plan]) -> Iterator[tuple[Any, Any]]:
        """A run for the page's gallery and its line of news."""
        started, done, wanted = time.monotonic(), [], 0
        shown: Any = []  # empties the gallery once the inputs have proved good
        for done, news in self.run(plan, str(request.session_hash)):
            if isinstance(news, Progress):
                wanted = news.pictures
                yield shown, views.progress_view(news)
                shown = gr.skip()
            else:
                yield captioned(done), gr.skip()
        yield gr.skip(), _done(len(done), started) if len(done) == wanted else views.note(STOPPED)


def chosen_picture(pictures: Sequence[Any] | None, chosen: int) -> str | None:
    """The file of the chosen picture of a gallery's value, the first where the choice is out of date."""
    if not pictures:
        return None
    return pictures[chosen if 0 <= chosen < len(pictures) else 0][0]


def captioned(drawn: Sequence[Drawn]) -> list[tuple[Image.Image, str]]:
    """Pictures for a gallery, with seed and figures."""
    return [(each.image, " · ".join([f"seed {each.seed}", *views.figures(each.measured)])) for each in drawn]


def _done(count: int, started: float) -> str:
    plural = "" if count == 1 else "s"
    return views.note(f"{count} picture{plural} done in {time.monotonic() - started:.1f} s.")


def _strip(drawn: Sequence[Drawn], labels: Sequence[str]) -> Image.Image:
    """One picture of all, marked as they are; its settings are the first one's."""
    return marked(views.strip([each.image for each in drawn], labels), drawn[0].image.info["bolid"])


def _from_seeds(settings: Settings, pose: Any, first: int, count: int) -> list[Job]:
    """Jobs of the same settings, each from the next seed."""
    return [Job(replace(settings, seed=(first + place) % (MAX_SEED + 1)), pose) for place in range(count)]
