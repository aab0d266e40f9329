"""Repositories of the Hugging Face Hub: what is written beside the weights, pushing, names of components.

A repository has two readers. `BoLIDPipeline.from_pretrained(id)` needs no remote code. diffusers' own
`DiffusionPipeline.from_pretrained(id, trust_remote_code=True)` finds `pipeline.py` and, for every component
of ours, `<component>/bolid_<kind>.py`: files of a few lines that import from the installed package, or say
what to install. (diffusers looks for exactly these files; it never imports a third package by itself.)
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# module as a repository names it → where it is in this package
MODULES = {
    "bolid_adapter": "bolid.adapter",
    "bolid_autoencoder": "bolid.autoencoder",
    "bolid_body": "bolid.baselines.body",
    "bolid_detail": "bolid.detail",
    "bolid_estimator": "bolid.estimator",
    "bolid_face": "bolid.baselines.face",
    "bolid_garments": "bolid.garments",
    "bolid_layout": "bolid.layout",
    "bolid_photo": "bolid.estimators.photo",
}
ENTRY = "pipeline"  # module of the repository that has the pipeline's class
INSTALL = (
    "This repository is a BoLID model and needs the package bolid, which is not on PyPI: run `pip install .` "
    "in a clone of the BoLID repository; then load it again."
)
IMPORTING = '''"""Opened by diffusers with trust_remote_code=True; everything is in the package bolid."""

try:
    from {module} import {names}
except ImportError as error:
    raise ImportError(
        "{install}"
    ) from error

__all__ = [{quoted}]
'''
CARD = """---
library_name: diffusers
pipeline_tag: text-to-image
tags: [bolid, text-to-image, identity, pose]
---
# {name}

A BoLID model: pictures of one person in any pose, from one reference picture.

```python
from bolid import BoLIDPipeline

pipe = BoLIDPipeline.from_pretrained("{name}")
picture = pipe("in a park", "reference.png", pose="sitting").images[0]
```

This card was made by `push_to_hub` without `card=`. It says nothing yet of data, training, figures, limits,
misuse and licences: fill that in.
"""


def own_module(name: str) -> str:
    """The module in this package of a component's module as an index names it; imported, so that diffusers
    finds it. Other names are given back.
    """
    name = MODULES.get(name, name)
    if name in MODULES.values():
        importlib.import_module(name)
    return name


def with_own_modules(index: dict[str, Any]) -> dict[str, Any]:
    """model_index.json with this package's own modules, whichever of the two forms it has."""
    named = {
        key: [own_module(value[0]), *value[1:]]
        for key, value in index.items()
        if isinstance(value, list | tuple) and value and isinstance(value[0], str) and key != "_class_name"
    }
    name = index.get("_class_name")
    return {**index, **named, "_class_name": name[-1] if isinstance(name, list | tuple) else name}


def write_hub_layout(folder: str | os.PathLike[str], card: str) -> None:
    """Turn a folder of `save_pretrained` into a repository for both readers; `card` becomes README.md."""
    root = Path(folder)
    path = root / "model_index.json"
    index = with_own_modules(json.loads(path.read_text()))
    names = {module: name for name, module in MODULES.items()}
    for component, value in index.items():
        if isinstance(value, list) and value and value[0] in names:
            module, kind = value
            index[component] = [names[module], kind]
            (root / component / f"{names[module]}.py").write_text(_importing(module, kind))
    (root / f"{ENTRY}.py").write_text(_importing("bolid", "BoLIDPipeline", "BoLIDXLPipeline"))
    index["_class_name"] = [ENTRY, index["_class_name"]]
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    (root / "README.md").write_text(card)


def _importing(module: str, *names: str) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return IMPORTING.format(module=module, names=", ".join(names), quoted=quoted, install=INSTALL)


def card_text(card: str | os.PathLike[str] | None, name: str) -> str:
    """The text of a card file; None: a stub that says so. Raises ValueError for a file that is not there."""
    if card is None:
        return CARD.format(name=name)
    if not Path(card).is_file():
        raise ValueError(f"the card {os.fspath(card)!r} does not exist; give the path of a Markdown file")
    return Path(card).read_text()


def copy_shown(card: str | os.PathLike[str] | None, folder: str | os.PathLike[str]) -> None:
    """Copy the files that a card shows or links to beside it, so that the repository has its pictures too."""
    if card is None:
        return
    home = Path(card).resolve().parent
    text = Path(card).read_text()
    for name in re.findall(r"\]\(([^)\s]+)\)|^\s*url:\s*(\S+)", text, flags=re.MULTILINE):
        source = (home / (name[0] or name[1])).resolve()
        if source.is_file() and source.is_relative_to(home):
            target = Path(folder) / source.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def push(save: Callable[[Path], None], repo_id: str, **options: Any) -> str:
    """Make the repository where it is missing, write it into a temporary folder, upload that in one commit.

    save: writes the folder. options: private, token, commit_message,
    create_pr. Returns the commit's address.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=options.get("token"))
    name = api.create_repo(repo_id, private=options.get("private"), exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=options.get("commit_message") or "Upload BoLID",
            create_pr=options.get("create_pr"),
        )


class HubMixin:
    """Pushing and the two forms of model_index.json, for pipelines. Comes before the diffusers class."""

    save_pretrained: Any
    save_bolid_adapter: Any

    @classmethod
    def _dict_from_json_file(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """diffusers' reader of model_index.json: ours is opened as this class, without remote code."""
        index = super()._dict_from_json_file(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        name = index.get("_class_name")
        return {**index, "_class_name": name[-1] if isinstance(name, list | tuple) else name}

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        loaded = super().load_config(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(loaded, tuple):
            return (with_own_modules(loaded[0]), *loaded[1:])
        return with_own_modules(loaded)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: str | os.PathLike[str] | None = None,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        **options: Any,
    ) -> str:
        """Upload the whole pipeline, as safetensors, with a card, for both readers (see `bolid.hub`).

        card: a Markdown file, for example model_card.md, uploaded with the pictures and files beside it that
            it shows; None writes a stub that says what is missing.
        variant: name part of the weights' files ("fp16"); max_shard_size: as of `save_pretrained`.
        options: private, token, commit_message, create_pr.
        Returns the commit's address. Raises ValueError for a card that does not exist.
        """
        text = card_text(card, repo_id)  # before anything is made

        def save(folder: Path) -> None:
            self.save_pretrained(folder, variant=variant, max_shard_size=max_shard_size)
            write_hub_layout(folder, text)
            copy_shown(card, folder)

        return push(save, repo_id, **options)

    def push_bolid_adapter_to_hub(
        self, repo_id: str, *, card: str | os.PathLike[str] | None = None, **options: Any
    ) -> str:
        """Upload adapter, image encoder, estimator, DetailNet, LayoutNet and GarmentNet without the base, for
        `load_bolid_adapter(repo_id)`.

        Arguments as of `push_to_hub`.
        """
        text = card_text(card, repo_id)

        def save(folder: Path) -> None:
            self.save_bolid_adapter(folder)
            (folder / "README.md").write_text(text)
            copy_shown(card, folder)

        return push(save, repo_id, **options)
