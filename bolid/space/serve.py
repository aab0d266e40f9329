"""The page with its queue, on an address."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gradio as gr

from bolid.space.page import Page
from bolid.space.studio import Studio

MAX_QUEUE = 24  # waiting requests; the next one is told that the queue is full
MAX_UPLOAD = "40mb"  # of one file; a 64-megapixel JPEG is about 30 MB
FOLDER = Path(__file__).parent


def make_app(studio: Studio, examples: Path | None = None) -> gr.Blocks:
    """The page over a loaded studio; `examples` holds people/, poses/ and scenes/ (PNG)."""
    blocks = Page(studio, examples if examples and examples.is_dir() else None).blocks
    return blocks.queue(max_size=MAX_QUEUE, default_concurrency_limit=4, api_open=False)


def has_mcp() -> bool:
    """Whether the package is installed that gradio's MCP server needs."""
    return importlib.util.find_spec("mcp") is not None


def theme() -> gr.themes.Base:
    """Gradio's Soft with plain labels, a calmer typeface, and all text at a contrast of 4.5 and more."""
    letters = gr.themes.LocalFont("Source Sans Pro", weights=(400, 700))  # comes with gradio
    own = gr.themes.Soft(font=(letters, "system-ui", "sans-serif"))
    for kind in ("label", "title"):
        own.set(
            **{
                f"block_{kind}_background_fill": "none", f"block_{kind}_background_fill_dark": "none",
                f"block_{kind}_text_color": "*neutral_800", f"block_{kind}_text_color_dark": "*neutral_100",
                f"block_{kind}_padding": "0", f"block_{kind}_border_width": "0",
            }
        )  # fmt: skip
    return own.set(
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_300",
        input_border_color="*neutral_300",
        input_border_width="1px",
        input_shadow="none",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        block_label_shadow="none",
        block_shadow="0 0 0 1px *border_color_primary",
    )


def serve(blocks: gr.Blocks, host: str | None, port: int | None, share: bool, **rest: Any) -> Any:
    """Listen. Gradio's own defaults for host and port hold where None is given (and on a Space).

    Where the package mcp is installed (gradio[mcp]), the endpoints are tools of an MCP server too.
    """
    return blocks.launch(
        server_name=host,
        server_port=port,
        share=share,
        theme=theme(),
        css_paths=[FOLDER / "style.css"],
        js=(FOLDER / "page.js").read_text(),
        max_file_size=MAX_UPLOAD,
        show_error=True,
        _frontend=False,  # else gradio ends where its own page takes over 3 s, as on a busy machine it may
        mcp_server=has_mcp(),
        **rest,
    )
