"""Turn photographs into training rows: `python train/prepare.py PICTURES --output runs/rows`.

PICTURES is a folder with a sub-folder per person (or the pictures of one person), a saved dataset, or a
dataset's Hub id. Captions come from .txt files beside the pictures or from metadata.csv / metadata.jsonl,
else from a captioning model or a template. Stopped runs go on with the same command.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

# several workers share the cores; two OpenMP teams that spin slow each other down
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
MISTAKE, STOPPED = 2, 130


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line instead of printing the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: {message}; see {self.prog} --help\n")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description="Photographs into training rows for BoLID.")
    add = parser.add_argument
    add("source", metavar="PICTURES", help="folder of pictures, saved dataset, or dataset's Hub id")
    add("--output", required=True, metavar="DIR", help="where the rows go: a new or empty folder")
    add("--workers", type=int, default=1, metavar="N", help="processes (default 1); each holds the networks")
    add("--device", default="cpu", help="where the networks run (default cpu)")
    add("--height", type=int, metavar="PX", help="of the rows' pictures (default 768; mini: 192)")
    add("--width", type=int, metavar="PX", help="(default 512; mini: 128)")
    add("--estimators", choices=("auto", "photo", "mini"), default="auto",
        help="auto: models for photographs if they are here, else mini (drawn avatars)")  # fmt: skip
    add("--people", metavar="MODEL", help="person detector: rtdetr, a Hub id or a folder")
    add("--keypoints", metavar="MODEL", help="vitpose, openpose, dwpose, a Hub id or a folder")
    add("--parts", metavar="MODEL", help="human parser: segformer-clothes, a Hub id or a folder")
    add("--face", metavar="MODEL", help="opencv-face or insightface (non-commercial); default: none")
    add("--captioner", metavar="MODEL", help="blip, a Hub id or a folder, for pictures without caption")
    add("--caption_template", metavar="TEXT", help="else this (default 'a photo of a person')")
    add("--min_person", type=int, metavar="PX", help="least height of a person (default: half of --height)")
    add("--several", choices=("reject", "largest"), help="pictures of two people (default reject)")
    add("--pairs_per_picture", type=int, metavar="N", help="references a picture gets (default 1)")
    add("--picture_format", choices=("jpeg", "png"), help="default jpeg; mini: png")
    add("--rows_per_shard", type=int, metavar="N", help="default 500")
    add("--split", help="of a dataset (default train)")
    add("--image_column", metavar="NAME", help="of a dataset (default image)")
    add("--person_column", metavar="NAME", help="of a dataset (default person, person_id or identity)")
    add("--caption_column", metavar="NAME", help="of a dataset (default caption or text)")
    add("--mini", metavar="DIR", help="folder of another mini estimator")
    add("--seed", type=int, help="of the pairing (default 0)")
    add("--forget_work", action="store_true", help="at the end remove what only a resumed run needs")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; a user's mistake is told in one line."""
    options = vars(make_parser().parse_args(arguments))
    from bolid.preparation.prepare import decided, forget_work, prepare

    output, workers, device = (options.pop(name) for name in ("output", "workers", "device"))
    forget = options.pop("forget_work")
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    try:
        summary = prepare(decided(given), output, workers=workers, device=device)
        if forget:
            forget_work(output)
    except (ValueError, ImportError, RuntimeError) as error:
        print(f"prepare: {' '.join(str(error).split())}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("prepare: stopped; run the same command to go on", file=sys.stderr)
        return STOPPED
    print(f"{summary}\n{output}: use it by data.source={output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
