"""Upload of an export to the Hugging Face Hub, with a model card of its own."""

import json
import logging
from pathlib import Path
from typing import Any

from bolid.training.config import TrainConfig, dump_config

_log = logging.getLogger(__name__)

_TEXT = """
# {title}

Trained with BoLID's `train/run.py`, stage `{stage}`, {steps} optimiser steps of {global_batch} rows.
{use}
## Training

Code `{git_revision}`, data `{dataset_fingerprint}` ({rows} rows), seed {seed}. The resolved config:

```yaml
{config}```

{figures}
## Misuse and consent

Pictures of a person need that person's consent, in training and in use. Do not use this model to deceive,
harass or impersonate, or for sexual pictures of real people or of minors. Label what comes out as generated.
"""

_USE = """
```python
from bolid import BoLIDPipeline

pipe = BoLIDPipeline.from_pretrained("{repository}")
person = pipe.encode_identity("reference.png")
pipe("standing on a beach", person, pose="lying", generator=7).images[0].save("picture.png")
```
"""


def push(exported: Path, config: TrainConfig) -> int:
    """Upload the folder `exported` with a card; 0, or 3 with a sentence when the Hub did not take it.

    Whatever happens, the export stays on disk; an interrupted upload can be repeated with
    `hf upload <hub_model_id> <folder>`.
    """
    from huggingface_hub import HfApi

    name = config.hub_model_id or Path(config.output_dir).name
    try:
        api = HfApi()
        made = api.create_repo(name, private=config.hub_private_repo, exist_ok=True)
        (exported / "README.md").write_text(card(exported, config, made.repo_id))
        api.upload_folder(
            repo_id=made.repo_id, folder_path=exported, commit_message=f"Trained: {config.stage}"
        )
    except Exception as error:  # the transport's errors differ by version; none may hide where the export is
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        _log.error(
            "push_to_hub: the Hub did not take %s (%s). The export is whole in %s; check the connection, the "
            "name and `hf auth login`, then: hf upload %s %s",
            name,
            reason,
            exported,
            name,
            exported,
        )
        return 3
    _log.warning("uploaded to %s", made)
    return 0


def card(exported: Path, config: TrainConfig, repository: str) -> str:
    """The model card of an export: YAML header, how to use it, where it comes from, held-out figures."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["bolid", "subject-driven-generation", "identity-preservation", "pose-control"],
        base_model=_base_model(config),
    )
    facts = _facts(Path(config.output_dir))
    is_pipeline = (exported / "model_index.json").is_file()
    text = _TEXT.format(
        title=repository.split("/")[-1],
        stage=config.stage,
        steps=facts.get("step", config.max_train_steps),
        global_batch=facts.get("global_batch", "?"),
        git_revision=facts.get("git_revision"),
        dataset_fingerprint=facts.get("dataset_fingerprint"),
        rows=facts.get("rows", "?"),
        seed=config.seed,
        config=dump_config(config),
        use=_USE.format(repository=repository) if is_pipeline else "",
        figures=_figures(Path(config.output_dir)),
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}"))


def _base_model(config: TrainConfig) -> str | None:
    """The Hub id of the base, for the header; a local folder is no id."""
    base = config.objective.get("base")
    return base if isinstance(base, str) and base.count("/") == 1 and not Path(base).exists() else None


def _facts(output: Path) -> dict[str, Any]:
    """`run.json` of the newest checkpoint."""
    from bolid.training.checkpoint import list_checkpoints

    found = list_checkpoints(output)
    return json.loads((found[-1] / "run.json").read_text()) if found else {}


def _figures(output: Path) -> str:
    """A table of the last held-out figures in log.jsonl."""
    log = output / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    held_out = [record for record in records if "held_out" in record]
    if not held_out:
        return ""
    rows = "\n".join(f"| {name} | {value} |" for name, value in held_out[-1]["held_out"].items())
    return (
        f"## Held-out figures\n\nStep {held_out[-1]['step']}, averaged weights.\n\n| | |\n|---|---|\n{rows}\n"
    )
