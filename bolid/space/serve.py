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
STYLE = Path(__file__).parent / "style.css"


def make_app(studio: Studio, examples: Path | None = None) -> gr.Blocks:
    """The page over a loaded studio; `examples` holds people/, poses/ and scenes/ (PNG)."""
    blocks = Page(studio, examples if examples and examples.is_dir() else None).blocks
    return blocks.queue(max_size=MAX_QUEUE, default_concurrency_limit=4, api_open=False)


def serve(blocks: gr.Blocks, host: str | None, port: int | None, share: bool, **rest: Any) -> Any:
    """Listen. Gradio's own defaults for host and port hold where None is given (and on a Space).

    Where the package mcp is installed (gradio[mcp]), the endpoints are tools of an MCP server too.
    """
    return blocks.launch(
        server_name=host,
        server_port=port,
        share=share,
        theme=gr.themes.Soft(),
        css_paths=[STYLE],
        max_file_size=MAX_UPLOAD,
        show_error=True,
        _frontend=False,  # else gradio ends where its own page takes over 3 s, as on a busy machine it may
        mcp_server=importlib.util.find_spec("mcp") is not None,
        **rest,
    )
