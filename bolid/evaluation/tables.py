"""The comparison as tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bolid.evaluation.analysis import FIGURES, Figure
from bolid.evaluation.contestants import METHODS

Results = Mapping[str, Any]


def title_of(figure: Figure, kind: str) -> str:
    """A figure's name; what a mini network read says so."""
    return f"{figure.title}-mini" if figure.read and kind == "mini" else figure.title


def ending(kind: str) -> str:
    """Of FID and KID."""
    return "-mini" if kind == "mini" else ""


def main_table(results: Results) -> list[list[str]]:
    """Header and rows of the main table: training, FID, KID, then every figure that was measured."""
    kind, rows = results["networks"]["kind"], results["rows"]
    shown = [f for f in FIGURES if any(rows[row]["all"][f.key]["count"] for row in rows)]
    head = ["Pictures", "training", "N", f"FID{ending(kind)}", f"KID{ending(kind)}"]
    table = [head + [title_of(figure, kind) for figure in shown]]
    for entry in results["table"]:
        row = entry["name"]
        found = results["distribution"][row]
        cells = [entry["title"], entry["training"], str(found["pictures"])]
        cells += [number(found["fid"], 2), number(found["kid"], 3)]
        table.append(cells + [cell(rows[row]["all"][f.key], f.digits) for f in shown])
    return table


HEADLINE = ("lpips", "id_similarity", "identified", "pck", "clip", "attributes")
SWEPT = {  # sweep -> its title, its column's
    "strength": ("id strength", "id_strength"),
    "steps": ("denoising steps", "steps"),
    "head": ("the reference's head hidden", "head's strength"),
}
VERDICTS = 2  # whether BoLID is ahead, and whether the approaches carry to the body
MARKERS = ("<!-- comparison -->", "<!-- /comparison -->")


def headline(results: Results) -> str:
    """What README and model card show: the first verdicts, the table, and what it stands on."""
    verdicts = [f"- *{answer['question']}* {answer['verdict']}" for answer in results["answers"][:VERDICTS]]
    pictures = max(entry["pictures"] for entry in results["distribution"].values())
    stands_on = f"`{results['command']}`, {pictures} pictures a row. " + " ".join(notes(results))
    return "\n".join([*verdicts, "", markdown(headline_table(results)), "", stands_on])


def headline_table(results: Results) -> list[list[str]]:
    """FID, LPIPS, ID similarity, pose accuracy and CLIP score: few enough for a README."""
    kind, rows = results["networks"]["kind"], results["rows"]
    shown = [f for f in FIGURES if f.key in HEADLINE and any(rows[r]["all"][f.key]["count"] for r in rows)]
    table = [["Pictures", "training", f"FID{ending(kind)}", *(title_of(f, kind) for f in shown)]]
    for entry in results["table"]:
        cells = [entry["title"], entry["training"], number(results["distribution"][entry["name"]]["fid"], 1)]
        table.append(cells + [cell(rows[entry["name"]]["all"][f.key], f.digits) for f in shown])
    return table


def sweep_tables(results: Results) -> dict[str, list[list[str]]]:
    """Title -> table of each sweep that was drawn: every method, with pose, at every value."""
    kind, found = results["networks"]["kind"], {}
    shown = [figure for figure in FIGURES if figure.key in HEADLINE]
    for what, methods in results["sweeps"].items():
        title, column = SWEPT[what]
        table = [["Pictures", column, "N", *(title_of(figure, kind) for figure in shown)]]
        for name, points in methods.items():
            for point in points:
                pictures = max(point[figure.key]["count"] for figure in shown)
                cells = [METHODS.get(name, name), f"{point['value']:g}", str(pictures)]
                table.append(cells + [cell(point[figure.key], figure.digits) for figure in shown])
        found[f"Appendix: {title}"] = table
    return found


def test_table(results: Results) -> list[list[str]]:
    """BoLID with pose minus every other row, in the figures of the aim."""
    kind, titles = results["networks"]["kind"], {entry["name"]: entry["title"] for entry in results["table"]}
    table = [["BoLID minus", "figure", "difference", "p (Holm)", "intervals overlap"]]
    by_key = {figure.key: figure for figure in FIGURES}
    for test in results["tests"]:
        figure = by_key[test["figure"]]
        if test["difference"]["count"]:
            found = cell(test["difference"], figure.digits)
            overlap = "yes" if test["overlap"] else "no"
            p = "< 0.0001" if test["p_holm"] < 1e-4 else number(test["p_holm"], 4)
            table.append([titles[test["row"]], title_of(figure, kind), found, p, overlap])
    return table


def report_markdown(results: Results) -> str:
    """The whole report as Markdown."""
    lines = [f"# Comparison: {results['settings']['samples']} pictures a row", "", f"`{results['command']}`"]
    lines += ["", *notes(results), ""]
    for answer in results["answers"]:
        lines += [f"## {answer['question']}", "", f"**{answer['verdict']}** {answer['missing']}".rstrip(), ""]
        if answer["lines"]:
            lines += [markdown(answer_table(answer)), ""]
    lines += ["## Table", "", markdown(main_table(results)), ""]
    lines += [floor_of(results), ""]
    if results["tests"]:
        lines += ["## Tests against BoLID", "", markdown(test_table(results)), ""]
    for title, table in sweep_tables(results).items():
        lines += [f"## {title}", "", markdown(table), ""]
    lines += ["## Signatures", "", *(f"- {line}" for line in signatures(results)), ""]
    return "\n".join(lines)


def notes(results: Results) -> list[str]:
    """What the figures stand on, in sentences."""
    settings, machine = results["settings"], results["machine"]
    steps = settings["steps"] or "the model's own"
    if settings["steps_unposed"]:
        steps = f"{steps} ({settings['steps_unposed']} without a pose)"
    text = [
        f"Dataset {settings['dataset']}, split {settings['split']}, {settings['pairs']} pairs, "
        f"{settings['seeds']} sampling seeds a training (more where there are fewer trainings, so that all "
        f"models have as many pictures), seed {settings['seed']}, {steps} steps, "
        f"{_given(settings, 'guidance')}, {_given(settings, 'id_strength')}; "
        f"{machine['cores']} cores, {machine['processor']}. "
        "Mean [95 % interval over training seeds and pairs; over pairs alone where there is one training]. "
        "Intervals are not adjusted for how many there are; the p of the tests are (Holm)."
    ]
    if any(min(test["trainings"]) == 1 < max(test["trainings"]) for test in results["tests"]):
        text.append("In a test a method trained once is given the spread between the other's trainings.")
    if results["networks"]["kind"] == "mini":
        text.append(
            "Read by this project's mini networks: the scores end in -mini and compare with no other paper's."
        )
    text += results["remarks"]
    return text


def _given(settings: Mapping[str, Any], name: str) -> str:
    value = settings[name]
    return f"each model's own {name}" if value is None else f"{name} {value:g}"


def signatures(results: Results) -> list[str]:
    """One line a score: what stands behind it, and N."""
    count = max(entry["pictures"] for entry in results["distribution"].values())
    count = f"{count} of {results['settings']['pairs']} pairs"
    end = ending(results["networks"]["kind"])
    found = results["networks"]["signatures"].items()
    return [
        f"{score}{end}: {text}; N = {count}, numpy {results['versions']['numpy']}" for score, text in found
    ]


def floor_of(results: Results) -> str:
    """What FID and KID are of two halves of the truths."""
    halves, kind = results["distribution"]["two halves of the truth"], results["networks"]["kind"]
    found = number(halves["fid"], 2) if halves["fid"] is not None else "not given: " + halves["why"]
    return (
        f"FID{ending(kind)} and KID{ending(kind)} compare with the truths of the first N rows of the split, "
        f"in units of the truths' own spread. Two halves of them ({halves['pictures']} each): "
        f"FID{ending(kind)} {found}, KID{ending(kind)} {number(halves['kid'], 3)}."
    )


def answer_table(answer: Mapping[str, Any]) -> list[list[str]]:
    """The lines of an answer."""
    table = [["", "figure", ""]]
    return table + [
        [line["what"], cell(line["interval"], line["digits"]), line["says"]] for line in answer["lines"]
    ]


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its header."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|---" * len(table[0]) + "|", *lines[1:]])


def cell(interval: Mapping[str, Any], digits: int) -> str:
    """`mean [low, high]`, or - where nothing was measured."""
    if not interval["count"]:
        return "-"
    mean, low, high = (f"{interval[k]:.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def number(value: float | None, digits: int) -> str:
    """A number, or - where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
