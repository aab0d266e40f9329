"""The page's settings: one control each, with a line of help, a reset and the right range."""

from __future__ import annotations

from typing import Any

import gradio as gr

from bolid.space.handlers import CONTROLS
from bolid.space.settings import MAX_SEED, RANGES, side_range
from bolid.space.studio import Studio

FIRST_SEED = 7


class Controls:
    """Makes the controls where the page wants them, and knows them by the names of `Settings`."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.made: dict[str, Any] = {}
        self.first: dict[str, Any] = {}  # what each shows when the page is opened

    def __getitem__(self, name: str) -> Any:
        return self.made[name]

    def all(self) -> list[Any]:
        """Every control, in the order of `CONTROLS`."""
        return [self.made[name] for name in CONTROLS]

    def resets(self) -> list[Any]:
        """Updates that bring back all of them, in the order of `CONTROLS`."""
        return [gr.update(value=self.first[name]) for name in CONTROLS]

    def text(self, name: str, label: str, info: str, lines: int) -> None:
        """A text box."""
        self.made[name] = gr.Textbox("", label=label, info=info, lines=lines, max_lines=6, elem_id=_id(name))
        self.first[name] = ""

    def slider(self, name: str, label: str, info: str) -> None:
        """A slider over the range that is accepted, with a reset."""
        low, high, default = RANGES[name]
        value = self.studio.defaults.get(name, default)
        step = 1 if name in ("steps", "count") else 0.05
        self.made[name] = gr.Slider(
            low, high, value, step=step, label=label, info=info, buttons=["reset"], elem_id=_id(name)
        )
        self.first[name] = value

    def seed(self, buttons: list[gr.Button]) -> None:
        """The seed, as a whole number, with its dice and its reset."""
        self.made["seed"] = gr.Number(
            FIRST_SEED, label="Seed", info="same seed, same picture", precision=0, minimum=0,
            maximum=MAX_SEED, min_width=120, elem_id="seed", buttons=buttons,
        )  # fmt: skip
        self.first["seed"] = FIRST_SEED

    def size(self) -> None:
        """Height and width."""
        for name, own in zip(("height", "width"), self.studio.size, strict=True):
            low, high = side_range(own)
            self.made[name] = gr.Slider(
                low, high, own, step=8, label=f"{name.capitalize()} in pixels",
                info=f"multiple of 8; best {own}", buttons=["reset"], elem_id=_id(name),
            )  # fmt: skip
            self.first[name] = own

    def retarget(self) -> None:
        """Whether the pose takes the person's proportions."""
        self.made["retarget"] = gr.Checkbox(
            True, label="Give the pose the person's proportions", info="off: the skeleton's own"
        )
        self.first["retarget"] = True


def _id(name: str) -> str:
    return name.replace("_", "-")
