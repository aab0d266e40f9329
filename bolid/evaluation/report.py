"""The report: a Markdown table with intervals, and the grid reference | pose | generated | truth."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bolid.clothes import CLOTHES
from bolid.evaluation.drawing import STRENGTHS
from bolid.evaluation.pairs import Pairs
from bolid.pose import PARTS, known, skeleton_map

COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("PCK@0.1", "pck", 3),
    ("OKS", "oks", 3),
    ("bone ratio error", "bone_ratio", 3),
    ("scene", "scene", 3),
    *((f"RGB error {part}", f"error_{part}", 1) for part in PARTS),
    *((f"LPIPS-mini {part}", f"lpips_mini_{part}", 3) for part in PARTS),
    ("attributes", "attributes", 3),
    ("head 1 of 16", "identified_by_head", 3),
    ("body 1 of 16", "identified_by_body", 3),
    ("ID_sim-mini", "id_similarity_mini", 3),
    ("PSNR", "psnr", 1),
    ("sharpness", "sharpness", 3),
)
SWEEP_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("PCK@0.1", "pck", 3),
    ("bone ratio error", "bone_ratio", 3),
    ("scene", "scene", 3),
    ("RGB error person", "error_person", 1),
    ("attributes", "attributes", 3),
    ("words", "words", 3),
    ("head 1 of 16", "identified_by_head", 3),
    ("body 1 of 16", "identified_by_body", 3),
)
WORD_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("words", "words", 3),
    *((name.replace("_", "'s "), f"words_{name}", 3) for name in CLOTHES),
)
WORD_ROWS = ("clothes_in_prompt", "redressed")
TITLES = {
    "truth": "Ground truth",
    "reconstruction": "Autoencoder's reconstruction",
    "generated": "**Generated**",
    "appearance_map": "Raw appearance map",
    "base": "Base, text only",
    "other_reference": "Another person's reference",
    "without_pose": "Generated, pose=None",
    "tokens_alone": "Generated, pose=None, tokens alone",
    "blurred": "Truth, blurred",
    "recoloured": "Truth, person recoloured",
    "swapped": "Another person's truth",
    "reposed": "Truth, in another pose",
    "without_details": "Generated, detail_strength 0",
    "pose_from_picture": "Pose read from the truth's picture",
    "own_pose_fitted": "Exact pose, retarget=True",
    "another_pose": "Another person's pose, retarget=True",
    "another_pose_as_given": "Another person's pose, retarget=False",
    "no_scene_word": "No scene in the prompt",
    "image_prompt": "No scene in the prompt, image prompt",
    "image_prompt_full": "The same, image_prompt_strength 1",
    "clothes_in_prompt": "Other clothes in the prompt, upper and lower at 0",
    "redressed": "Truth, in those other clothes",
    **{f"strength_{value:g}": f"id_strength {value:g}" for value in STRENGTHS},
}


def table(
    summary: dict[str, Any], rows: Sequence[str], columns: tuple[tuple[str, str, int], ...] = COLUMNS
) -> str:
    """Figures of `scores.summarise` as Markdown: one line a row, `mean [low, high]`, then the groups."""
    lines = ["| Pictures | pairs | " + " | ".join(title for title, _, _ in columns)
             + " | attributes, normalised | FID-mini | KID-mini |",
             "|---" * (len(columns) + 5) + "|"]  # fmt: skip
    for row in rows:
        figures = summary["rows"][row]["all"]
        cells = [str(figures["psnr"]["count"])]
        cells += [_cell(figures[name], digits) for _, name, digits in columns]
        distribution = summary["distribution"].get(row, {})
        cells.append(_number(summary["normalised_attributes"].get(row), 3))
        cells += [_number(distribution.get(name), 3) for name in ("fid_mini", "kid_mini")]
        lines.append(f"| {TITLES.get(row, row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def gate_table(gates: Sequence[dict[str, Any]]) -> str:
    """The gates of `gates.Gate.as_dict` as Markdown."""
    lines = ["| | | wanted | measured | |", "|---|---|---|---|---|"]
    for gate in gates:
        verdict = "pass" if gate["passed"] else "fail" if gate["measured"]["count"] else "not measured"
        cells = (gate["about"], gate["what"], f"{gate['sense']} {gate['limit']:g}",
                 _cell(gate["measured"], 3), verdict)  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def relative_table(relative: dict[str, dict[str, dict[str, Any]]]) -> str:
    """`gates.relative_to_truth` as Markdown."""
    names = list(next(iter(relative.values())))
    lines = ["| generated / truth | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for group, figures in relative.items():
        lines.append(f"| {group} | " + " | ".join(_cell(figures[name], 3) for name in names) + " |")
    return "\n".join(lines) + "\n"


def difference_table(differences: dict[str, Any]) -> str:
    """The paired differences as Markdown."""
    lines = ["| first - second | " + " | ".join(title for title, _, _ in SWEEP_COLUMNS) + " |",
             "|---" * (len(SWEEP_COLUMNS) + 1) + "|"]  # fmt: skip
    for pair, figures in differences.items():
        cells = [_cell(figures[name], digits) for _, name, digits in SWEEP_COLUMNS]
        lines.append(f"| {pair} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


CARD_ROWS = ("truth", "reconstruction", "generated", "without_pose", "tokens_alone", "appearance_map",
             "base", "other_reference")  # fmt: skip
CARD_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("PCK@0.1", "pck", 3),
    ("scene", "scene", 3),
    *((f"RGB {part}", f"error_{part}", 1) for part in PARTS),
    ("attributes", "attributes", 3),
    ("head 1 of 16", "identified_by_head", 3),
    ("body 1 of 16", "identified_by_body", 3),
)
MARKERS = ("<!-- figures -->", "<!-- /figures -->")


def card_figures(results: dict[str, Any]) -> str:
    """The few figures that README and model card show; `results` as in results.json."""
    rows = results["rows"]
    titles = [title for title, _, _ in CARD_COLUMNS] + ["attributes, normalised"]
    lines = ["| Pictures | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for row in (row for row in CARD_ROWS if row in rows):
        cells = [_number(rows[row]["all"][name]["mean"], digits) for _, name, digits in CARD_COLUMNS]
        cells.append(_number(results["normalised_attributes"].get(row), 3))
        count, title = rows[row]["all"]["psnr"]["count"], TITLES.get(row, row)
        title += f" (the first {count})" if count < results["settings"]["pairs"] else ""
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    settings, machine = results["settings"], results["machine"]
    note = (
        f"{settings['pairs']} held-out pairs of the split {settings['split']}, seed {settings['seed']}, "
        f"weights {settings['model']}, evaluators {results['evaluators']['weights']}, "
        f"{machine['cores']} CPU cores; "
        f"`{results['command']}`. RGB: mean distance (0 to 442) inside the truth's part. The other "
        "figures are read by the mini evaluators. The pose asked for is the truth's exact key-points, the "
        "person comes from the reference's pixels; with pose=None the picture has another pose than the "
        "truth, and PCK and RGB say little. Intervals, and figures by pose and view: "
        "[eval/report/](eval/report/results.md)."
    )
    return "\n".join([*lines, "", note])


def fill(path: Path, text: str, markers: tuple[str, str] = MARKERS) -> None:
    """Put `text` between two markers of a Markdown file, those of the figures unless others are given.

    Raises ValueError when the file has no such markers; it is left as it was.
    """
    before, opening, rest = path.read_text().partition(markers[0])
    _, closing, after = rest.partition(markers[1])
    if not opening or not closing:
        raise ValueError(f"{path} has no {markers[0]} ... {markers[1]}; put them where figures belong")
    path.write_text(f"{before}{opening}\n{text}\n{closing}{after}")


def group_table(summary: dict[str, Any], row: str = "generated") -> str:
    """One row of the table by pose family, view and so on, as Markdown."""
    names = ("pck", "scene", *(f"error_{part}" for part in PARTS), "attributes", "identified_by_head")
    lines = [
        "| " + TITLES.get(row, row) + " | pairs | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for group, figures in summary["rows"][row].items():
        cells = [_cell(figures[name], 1 if name.startswith("error_") else 3) for name in names]
        lines.append(f"| {group} | {figures['psnr']['count']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(interval: dict[str, Any], digits: int) -> str:
    if not interval["count"]:
        return "-"
    mean, low, high = (f"{interval[k]:.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def grid(pairs: Pairs, generated: np.ndarray, count: int = 16, across: int = 4) -> np.ndarray:
    """Pictures reference | pose | generated | truth for `count` pairs, `across` of them side by side.

    `generated` uint8 [N, H, W, 3] -> uint8 [rows * H, columns * W, 3].
    """
    rows = range(min(count, len(pairs)))
    height, width = pairs.size
    poses = skeleton_map(known(pairs.keypoints[: len(rows)]), height, width)
    tiles = [
        np.concatenate([pairs.reference[i], poses[i], generated[i], pairs.image[i]], axis=1) for i in rows
    ]
    while len(tiles) % across and len(tiles) > across:
        tiles.append(np.full_like(tiles[0], 255))
    lines = [tiles[k : k + across] for k in range(0, len(tiles), across)]
    return np.concatenate([np.concatenate(line, axis=1) for line in lines], axis=0)


def save_jpeg(picture: np.ndarray, path: Path, limit: int = 300_000) -> None:
    """Write uint8 [H, W, 3] as a JPEG of at most `limit` bytes: best quality that fits, then smaller."""
    image = Image.fromarray(picture)
    while True:
        for quality in (92, 85, 78, 70, 60):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality, subsampling=0)
            if buffer.tell() <= limit:
                path.write_bytes(buffer.getvalue())
                return
        image = image.resize((image.width * 4 // 5, image.height * 4 // 5), Image.Resampling.LANCZOS)


def report(summary: dict[str, Any], heading: Sequence[str]) -> str:
    """The whole Markdown report; `heading` = lines above the tables (what was measured, how, with what).

    Rows of fewer pairs than the truth come in a table of their own.
    """
    counts = {row: figures["all"]["psnr"]["count"] for row, figures in summary["rows"].items()}
    main = [row for row, count in counts.items() if count == max(counts.values())]
    sweeps = [row for row in counts if row not in main]
    parts = [*heading, ""]
    if summary["gates"]:
        parts += ["## Gates", "", GATES_NOTE, "", gate_table(summary["gates"])]
    if summary["relative_to_truth"]:
        parts += ["## Relative to the truth", "", relative_table(summary["relative_to_truth"])]
    parts += ["## All pairs", "", table(summary, main)]
    if "generated" in main:
        parts += ["## By pose and view", "", group_table(summary)]
    if sweeps:
        parts += ["## Sweeps: the first of the pairs", "", table(summary, sweeps, SWEEP_COLUMNS)]
    told = [row for row in WORD_ROWS if "words_top" in summary["rows"].get(row, {}).get("all", {})]
    if told:
        parts += ["## Words, by what they name", "", table(summary, told, WORD_COLUMNS)]
    if summary["differences"]:
        parts += ["## Paired differences", "", difference_table(summary["differences"])]
    return "\n".join(parts)


GATES_NOTE = (
    "Attributes: above chance (another person's reference), as a share of the truth's; of the ground truth "
    "the plain share that is right. Head crop: the rectangle around the head. dB: mean over pictures. Below: "
    "the whole interval; not above: the interval does not lie above; otherwise the mean decides. The "
    "text-image encoder is the evaluators'. Not measured here: the comparison of body conditions."
)
