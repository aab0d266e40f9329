"""Figures of several training runs of several variants: intervals over seeds, and over pairs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bolid.metrics import paired_bootstrap

Values = Mapping[str, np.ndarray]
FIGURES: tuple[tuple[str, str, int], ...] = (  # title, name in `scores.score`, digits
    ("PCK@0.1", "pck", 4),
    ("key-point error", "error_keypoints", 4),
    ("ID_sim-mini", "id_similarity_mini", 4),
    ("CLIP score-mini", "clip_score_mini", 4),
    ("body 1 of 16", "identified_by_body", 3),
    ("attributes", "attributes", 4),
    ("scene (text)", "scene", 3),
)
T975 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5 % by degrees of freedom, 0 to 9; beyond, the normal distribution's 1.96."""


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean of one figure over training seeds with its 95 % interval by Student's t (NaN for one seed)."""
    freedom = len(values) - 1
    mean = float(np.mean(values))
    half = math.nan
    if freedom:
        t = T975[freedom] if freedom < len(T975) else 1.96
        half = t * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": [float(v) for v in values]}


def summarise_runs(runs: Mapping[str, Sequence[Values]], reference: str) -> dict[str, Any]:
    """`variants`: variant → figure → interval over seeds; `differences`: the same of variant − reference.

    runs: variant → for each seed, figure → values per pair [N], the same pairs and seeds everywhere (a
    variant with another number of runs, such as the start, is measured and not compared). A difference is
    paired: by seed in `over_seeds`, by pair (its values averaged over seeds) in `over_pairs`, a bootstrap.
    """
    names = [name for _, name, _ in FIGURES]
    variants = {
        variant: {name: over_seeds([float(np.nanmean(run[name])) for run in each]) for name in names}
        for variant, each in runs.items()
    }
    differences = {}
    for variant, each in runs.items():
        base = runs.get(reference, ())
        if variant == reference or not base or len(each) != len(base):
            continue
        differences[variant] = {name: _difference(each, base, name) for name in names}
    return {"variants": variants, "differences": differences}


def _difference(each: Sequence[Values], base: Sequence[Values], name: str) -> dict[str, Any]:
    by_seed = [float(np.nanmean(a[name]) - np.nanmean(b[name])) for a, b in zip(each, base, strict=True)]
    ours, theirs = (np.mean([run[name] for run in group], axis=0) for group in (each, base))
    return {"over_seeds": over_seeds(by_seed), "over_pairs": asdict(paired_bootstrap(ours, theirs))}


def markdown(summary: Mapping[str, Any], command: str, settings: Mapping[str, Any]) -> str:
    """results.md: a table of the variants and one of their differences."""
    head = "| Variant | " + " | ".join(title for title, _, _ in FIGURES) + " |"
    rule = "|---" * (len(FIGURES) + 1) + "|"
    lines = [
        "# Ablation",
        "",
        f"`{command}`",
        "",
        f"{settings['pairs']} held-out pairs, {settings['draw_steps']} steps, guidance "
        f"{settings['guidance']}; base {settings['base']}, evaluators {settings['evaluators']}, CLIP "
        f"{settings['clip']}. "
        "Mean over training seeds [95 % interval, Student's t]. "
        "Read by networks that no loss has seen.",
        "",
        head,
        rule,
    ]
    for variant, figures in summary["variants"].items():
        cells = [_cell(figures[name], digits) for _, name, digits in FIGURES]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    if summary["differences"]:
        lines += ["", "Difference to L_rec alone: over seeds; over pairs (paired bootstrap).", "", head, rule]
    for variant, figures in summary["differences"].items():
        cells = [
            f"{_cell(figures[name]['over_seeds'], digits, '+')}; "
            f"{_range(figures[name]['over_pairs'], digits)}"
            for _, name, digits in FIGURES
        ]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(interval: Mapping[str, Any], digits: int, sign: str = "") -> str:
    mean = f"{interval['mean']:{sign}.{digits}f}"
    return mean if math.isnan(interval["low"]) else f"{mean} {_range(interval, digits)}"


def _range(interval: Mapping[str, Any], digits: int) -> str:
    return f"[{interval['low']:.{digits}f}, {interval['high']:.{digits}f}]"
