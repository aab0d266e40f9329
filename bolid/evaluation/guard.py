"""No figure of the shipped weights may fall back: a stored reference with tolerances, and the check."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bolid.evaluation.analysis import FIGURES

SHARE = 0.5  # of an interval's half-width: the run is the same each time up to rounding, so less is needed
LEAST = 0.02  # of any tolerance: a picture more or less is the rounding of another machine
GUARDED = ("bolid+pose", "bolid", "base")


SETTINGS = (
    "samples",
    "seeds",
    "seed",
    "pairs",
    "rows",
    "steps",
    "guidance",
    "id_strength",
    "dtype",
    "networks",
)
"""What figures must share to be compared."""


def reference_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """What later runs are held against: row -> figure -> value, tolerance, better."""
    figures: dict[str, dict[str, Any]] = {}
    for row in GUARDED:
        found = results["rows"].get(row, {}).get("all", {})
        for figure in FIGURES:
            if figure.key not in found or not found[figure.key]["count"] or figure.better == "zero":
                continue
            if row == "base" and figure.key in ("id_similarity", "identified", "face_similarity"):
                continue  # chance
            half = (found[figure.key]["high"] - found[figure.key]["low"]) / 2
            figures.setdefault(row, {})[figure.key] = {
                "value": found[figure.key]["mean"],
                "tolerance": max(SHARE * half, LEAST),
                "better": figure.better,
            }
    kept = {name: results["settings"][name] for name in SETTINGS}
    return {"settings": kept, "weights": results["weights"], "figures": figures}


def falls(results: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """A sentence for every figure that is worse than its reference by more than the tolerance, or missing.

    Raises ValueError when the reference was made of other pictures: then nothing can be said.
    """
    for name, value in reference["settings"].items():
        if results["settings"][name] != value:
            raise ValueError(
                f"the reference was measured with {name}={value}, this run with "
                f"{results['settings'][name]}: make a new one with --accept and look at what changed"
            )
    found = []
    for row, figures in reference["figures"].items():
        for figure, kept in figures.items():
            now = results["rows"].get(row, {}).get("all", {}).get(figure, {"mean": math.nan})["mean"]
            sign = 1 if kept["better"] == "higher" else -1
            if not sign * (now - kept["value"]) >= -kept["tolerance"]:
                found.append(
                    f"{row}, {figure}: {now:.4f}, it was {kept['value']:.4f} (tolerance "
                    f"{kept['tolerance']:.4f}, {kept['better']} is better)"
                )
    return found


def read_reference(path: Path) -> dict[str, Any]:
    """The stored reference. Raises ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"there is no reference at {path}: make it with --quick --accept")
    return json.loads(path.read_text())
