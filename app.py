"""The Space: `python app.py [--model DIR_OR_HUB_ID] [--host 0.0.0.0] [--port 7860] [--share]`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def make_parser() -> argparse.ArgumentParser:
    """The options, each with its help."""
    parser = argparse.ArgumentParser(description="BoLID in the browser: the same person in any pose.")
    parser.add_argument("--model", metavar="DIR|HUB_ID", help="default: models/bolid-mini, or $BOLID_MODEL")
    parser.add_argument("--device", help="cpu, cuda, mps (default: cuda where there is one)")
    parser.add_argument(
        "--host", default=None, help="address to listen on (default: 127.0.0.1, on a Space all)"
    )
    parser.add_argument("--port", type=int, default=None, help="default: 7860")
    parser.add_argument("--share", action="store_true", help="also give a public address for three days")
    parser.add_argument(
        "--no-watermark", action="store_true", help="leave the invisible watermark out of large pictures"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the model once and serve until stopped. Returns the exit code."""
    options = make_parser().parse_args(arguments)
    with contextlib.suppress(ImportError):
        import spaces  # noqa: F401  # pyright: ignore[reportMissingImports] - ZeroGPU wants it before CUDA
    warnings.simplefilter("ignore")  # libraries' notes to developers
    from bolid.__main__ import MISTAKE, find_model, load
    from bolid.space.measures import choose_networks
    from bolid.space.serve import has_mcp, make_app, serve
    from bolid.space.studio import Studio

    try:
        model = find_model(options.model or os.environ.get("BOLID_MODEL"))
        pipe = load(model, options.device)
        networks = choose_networks(pipe, ROOT / "models" / "evaluators")
        studio = Studio(pipe, Path(model).name, networks, watermark=not options.no_watermark)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"app.py: {' '.join(str(error).split())}\n")
        return MISTAKE
    if not has_mcp():
        sys.stderr.write("app.py: no MCP server beside the page; for one: pip install 'gradio[mcp]'\n")
    serve(make_app(studio, ROOT / "examples"), options.host, options.port, options.share)
    return 0


if __name__ == "__main__":
    sys.exit(main())
