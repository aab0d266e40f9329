"""The comparison as metadata of a model card, which the Hub shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bolid.evaluation.analysis import FIGURES, MAIN
from bolid.evaluation.tables import Results, ending, title_of


def update_card(path: Path, results: Results) -> None:
    """Writes the figures of BoLID with pose into the card's header, as the Hub's `model-index`.

    Raises ValueError when that row was not measured, or the file has no header.
    """
    from huggingface_hub import EvalResult, ModelCard

    if MAIN not in results["rows"]:
        raise ValueError(f"--update-card needs the row {MAIN}: name bolid among --models")
    text = path.read_text()
    if not text.startswith("---\n"):
        raise ValueError(f"{path} is no model card: it has no header between --- lines")
    settings, kind = results["settings"], results["networks"]["kind"]
    where = {"task_type": "text-to-image", "dataset_type": settings["dataset"],
             "dataset_name": f"{settings['dataset']} ({settings['pairs']} pairs, {settings['split']})",
             "dataset_split": settings["split"]}  # fmt: skip
    found = results["rows"][MAIN]["all"]
    names = [(title_of(f, kind), found[f.key]["mean"]) for f in FIGURES if found[f.key]["count"]]
    distribution = results["distribution"][MAIN]
    names += [(f"{k.upper()}{ending(kind)}", distribution[k]) for k in ("fid", "kid")]
    card = ModelCard(text, ignore_metadata_errors=True)
    data: Any = card.data
    data.model_name = "BoLID"
    data.eval_results = [
        EvalResult(
            metric_type=name.lower().replace(" ", "-"),
            metric_name=name,
            metric_value=round(value, 4),
            **where,
        )
        for name, value in names
        if value is not None
    ]  # fmt: skip
    path.write_text(str(card))
