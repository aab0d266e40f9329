"""The comparison as plots, a picture grid and one HTML page that holds everything."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from bolid.evaluation.analysis import FIGURES, Figure
from bolid.evaluation.contestants import METHODS, POSE
from bolid.evaluation.kept import Measured
from bolid.evaluation.pairs import Pairs
from bolid.evaluation.plots import Series, plot
from bolid.evaluation.tables import (
    Results,
    answer_table,
    floor_of,
    headline_table,
    main_table,
    notes,
    signatures,
    sweep_tables,
    test_table,
    title_of,
)
from bolid.metrics import Interval
from bolid.pose import known, skeleton_map


def plots(results: Results) -> dict[str, str]:
    """File name -> SVG: figures against strength, steps and pose family; identity against pose."""
    kind, found = results["networks"]["kind"], {}
    names = {"id_similarity", "pck", "lpips", "clip"}
    shown = [figure for figure in FIGURES if figure.key in names]
    for what in ("strength", "steps"):
        for figure in shown:
            series = [
                Series(
                    str(METHODS.get(name, name)), tuple(p["value"] for p in points), _of(points, figure.key)
                )
                for name, points in results["sweeps"].get(what, {}).items()
                if len(points) > 1 and points[0][figure.key]["count"]
            ]
            if series:
                axis = "id strength" if what == "strength" else "denoising steps"
                y = title_of(figure, kind)
                found[f"{figure.key}-by-{what}.svg"] = plot(f"{y} by {axis}", axis, y, series)
    found |= {f"{f.key}-by-pose.svg": svg for f in shown if (svg := _by_pose(results, f)) is not None}
    found["identity-against-pose.svg"] = _trade_off(results)
    return found


def _of(points: Sequence[Mapping[str, Any]], key: str) -> tuple[Interval, ...]:
    return tuple(Interval(**point[key]) for point in points)


def _by_pose(results: Results, figure: Figure) -> str | None:
    rows = [entry for entry in results["table"] if entry["name"].endswith(POSE)]
    families = [g for g in next(iter(results["rows"].values())) if g.startswith("pose: ")]
    series = [
        Series(
            entry["title"],
            tuple(range(len(families))),
            _of([results["rows"][entry["name"]][family] for family in families], figure.key),
        )
        for entry in rows
    ]
    if not series or not families or not any(i.count for each in series for i in each.y):
        return None
    y = title_of(figure, results["networks"]["kind"])
    ticks = [
        (i, family.removeprefix("pose: ").replace("sitting on", "on")) for i, family in enumerate(families)
    ]
    return plot(f"{y} by pose family", "", y, series, ticks=ticks, lines=False)


def _trade_off(results: Results) -> str:
    """Every row as a dot: pose accuracy to the right, identity up."""
    by_key = {figure.key: figure for figure in FIGURES}
    kind, series = results["networks"]["kind"], []
    for entry in results["table"]:
        found = results["rows"][entry["name"]]["all"]
        x = Interval(**found["pck"])
        series.append(Series(entry["title"], (x.mean,), _of([found], "id_similarity"), (x,)))
    x_title, y_title = (title_of(by_key[key], kind) for key in ("pck", "id_similarity"))
    return plot("Identity against pose", x_title, y_title, series, lines=False)


def picture_grid(
    results: Results, measured: Mapping[str, Measured], pairs: Pairs, count: int = 6
) -> np.ndarray:
    """A line per pair: reference, pose, then one picture of every row of the table: uint8 [H, W, 3]."""
    columns = [entry["name"] for entry in results["table"] if measured[entry["name"]].pictures]
    lines = []
    for pair in range(min(count, len(pairs))):
        skeleton = skeleton_map(known(pairs.keypoints[pair][None]), *pairs.size)[0]
        drawn = [measured[row].pictures[pair] for row in columns]
        lines.append(np.concatenate([pairs.reference[pair], skeleton, *drawn], axis=1))
    return np.concatenate(lines, axis=0)


def page(results: Results, drawings: Mapping[str, str], grid: np.ndarray) -> str:
    """One HTML file with everything in it: the answer, the table, pictures and plots, then the details."""
    first, *others = results["answers"]
    body = ["<h1>Does identity carry from the face to the body?</h1>"]
    body += [*_answer(first), "<h2>In short</h2>", _html_table(headline_table(results))]
    body += ["<h2>Pictures</h2>", *_pictures(results, grid)]
    body += ["<h2>Plots</h2>", *(f'<div class="plot">{svg}</div>' for svg in drawings.values())]
    for answer in others:
        body += _answer(answer)
    body += ["<h2>Every figure</h2>", _html_table(main_table(results))]
    body += [f"<p>{html.escape(floor_of(results))}</p>"]
    body += ["<h2>Tests against BoLID</h2>", _html_table(test_table(results))] if results["tests"] else []
    for title, table in sweep_tables(results).items():
        body += [f"<h2>{html.escape(title)}</h2>", _html_table(table)]
    body += ["<h2>What the figures stand on</h2>", f"<p><code>{html.escape(results['command'])}</code></p>"]
    body += [f"<p>{html.escape(line)}</p>" for line in notes(results)]
    body += ["<ul>", *(f"<li>{html.escape(line)}</li>" for line in signatures(results)), "</ul>"]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>BoLID: comparison</title><style>{STYLE}</style>"
    )
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>\n"


STYLE = (
    "body{font:15px/1.45 sans-serif;margin:2em auto;max-width:1100px;padding:0 1em}"
    "table{border-collapse:collapse;font-size:12px;display:block;overflow-x:auto}"
    "td,th{border:1px solid #ccc;padding:3px 6px;text-align:left;white-space:nowrap}"
    ".plot{display:inline-block;vertical-align:top;width:460px;max-width:100%}img{width:100%;display:block}"
    ".grid{overflow-x:auto}.grid>div{min-width:1000px}"
    ".names{display:grid;grid-auto-flow:column;grid-auto-columns:1fr;font-size:10px;line-height:1.2;"
    "align-items:end;overflow-wrap:anywhere}"
)


def _answer(answer: Mapping[str, Any]) -> list[str]:
    """A question, its verdict, and the figures behind it."""
    parts = [f"<h2>{html.escape(answer['question'])}</h2>"]
    parts += [f"<p><b>{html.escape(answer['verdict'])}</b> {html.escape(answer['missing'])}</p>"]
    return parts + ([_html_table(answer_table(answer))] if answer["lines"] else [])


def _pictures(results: Results, grid: np.ndarray) -> list[str]:
    """The grid of `picture_grid` under the names of its columns."""
    buffer = io.BytesIO()
    Image.fromarray(grid).save(buffer, "JPEG", quality=85)
    picture = base64.b64encode(buffer.getvalue()).decode()
    names = ["reference", "pose asked for", *(entry["title"] for entry in results["table"])]
    told = "".join(f"<div>{html.escape(name)}</div>" for name in names)
    alt = "one line a pair: " + html.escape(", ".join(names), quote=True)
    return [
        f'<div class="grid"><div><div class="names">{told}</div>',
        f'<img alt="{alt}" src="data:image/jpeg;base64,{picture}"></div></div>',
    ]


def _html_table(table: Sequence[Sequence[str]]) -> str:
    def line(row: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in row) + "</tr>"

    return "<table>" + line(table[0], "th") + "".join(line(row, "td") for row in table[1:]) + "</table>"
