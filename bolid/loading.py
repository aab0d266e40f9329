"""Opening and saving: one door for every kind of repository, and adapters apart from their base."""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPImageProcessor

from bolid.adapter import BoLIDAdapter
from bolid.attention import cross_attentions
from bolid.detail import DetailNet
from bolid.estimator import PersonEstimator
from bolid.estimators.photo import PhotoEstimator  # also makes it known to diffusers' loader
from bolid.garments import GarmentNet
from bolid.hub import MODULES
from bolid.layout import LayoutNet

ADAPTERS = {"BoLIDAdapter": "bolid.adapter", "BodyAdapter": "bolid.baselines.body"}  # class -> its module
LATER: dict[str, Any] = {"detail": DetailNet, "layout": LayoutNet, "garments": GarmentNet}
"""What is trained for a finished pipeline, whose pictures and words it knows."""
# What `save_bolid_adapter` writes: the components that are not the base's.
ADAPTER_FOLDERS = ("adapter", "image_encoder", "feature_extractor", "estimator", *LATER, "face")


class LoadingMixin:
    """The part of `BoLIDMixin` that reads and writes folders."""

    unet: Any
    adapter: Any
    register_modules: Any
    _require: Any

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Open bolid-mini, a saved SD 1.5 or SDXL BoLID, or a plain base of those families.

        Returns a BoLIDPipeline or a BoLIDXLPipeline, whichever the repository's model_index.json asks for.
        kwargs: as of `DiffusionPipeline.from_pretrained` (dtype, variant, cache_dir, a component by name,
        ...). dtype is float32 unless given: left out, diffusers would read its models as float32 and
        transformers its own as what the file holds. use_safetensors is True unless given: .bin files are
        read on demand only (use_safetensors=False), and then as plain tensors that can run nothing.
        Raises ValueError when there is no such folder or repository, it is of another family, or its weights
        are .bin files.
        """
        source = os.fspath(pretrained_model_name_or_path)
        kwargs.setdefault("use_safetensors", True)
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
        index = _read_index(cls, source, kwargs)
        family = _family(source, index, cls)
        _make_known(index)
        stock: Any = super(LoadingMixin, family)  # the diffusers class that `family` mixes this into
        try:
            return stock.from_pretrained(source, **kwargs)
        except OSError as error:
            if not kwargs["use_safetensors"] or "safetensors" not in str(error):
                raise
            raise ValueError(
                f"{source!r} lacks a .safetensors file ({str(error).splitlines()[0]}); give "
                "use_safetensors=False to read its .bin files, as plain tensors only"
            ) from error

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> Any:
        """This pipeline around the components of another one, nothing copied; further ones by name.

        As diffusers' own, but in the base's type unless `dtype` is given (diffusers would make it float32),
        and with whatever autoencoder it has.
        """
        wanted = inspect.signature(cls.__init__).parameters
        shared = {name: part for name, part in pipeline.components.items() if name in wanted}
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", pipeline.unet.dtype)
        stock: Any = super()
        return stock.from_pipe(pipeline, **(shared | kwargs))

    def load_bolid_adapter(self, source: str | os.PathLike[str], **kwargs: Any) -> None:
        """Add an adapter to a plain base, and of `ADAPTER_FOLDERS` what else is there.

        source: a local folder as written by `save_bolid_adapter`, or a repository of
        `push_bolid_adapter_to_hub`; kwargs go to each `from_pretrained` (dtype, ...).
        Raises ValueError when the folder holds no adapter, or one for another UNet or vision encoder; then
        the pipeline stays as it was.
        """
        folder = _adapter_folder(source)
        if not (folder / "adapter" / "config.json").is_file():
            raise ValueError(
                f"{str(folder)!r} holds no adapter/config.json; give a folder of save_bolid_adapter"
            )
        kwargs.setdefault("dtype", self.unet.dtype)
        loaded: dict[str, Any] = dict.fromkeys(LATER)  # other ones know other pictures and words
        for name in ADAPTER_FOLDERS:
            place = folder / name
            if name == "feature_extractor" and place.is_dir():
                loaded[name] = CLIPImageProcessor.from_pretrained(place)
            elif place.is_dir():
                loaded[name] = _class_of(place).from_pretrained(place, **kwargs).to(self.unet.device).eval()
        require_fit(loaded["adapter"], self.unet)
        require_vision(loaded["adapter"], loaded.get("image_encoder", getattr(self, "image_encoder", None)))
        loaded["adapter"].attach(self.unet)
        self.register_modules(**loaded)

    def save_bolid_adapter(self, folder: str | os.PathLike[str]) -> None:
        """Write the adapter and what belongs to it (`ADAPTER_FOLDERS`) without the base, for
        `load_bolid_adapter`: safetensors by layer name, and a config beside.
        """
        self._require("adapter")
        for name in ADAPTER_FOLDERS:
            component = getattr(self, name, None)
            if component is not None:
                component.save_pretrained(Path(folder) / name)

    def unload_bolid_adapter(self) -> None:
        """Back to the plain base: stock processors, and none of the parts that came with the adapter."""
        if self.adapter is not None:
            self.adapter.detach(self.unet)
        self.register_modules(
            adapter=None, image_encoder=None, estimator=None, face=None, **dict.fromkeys(LATER)
        )


def _adapter_folder(source: str | os.PathLike[str]) -> Path:
    """A local folder, or the downloaded folders of a Hub repository."""
    name = os.fspath(source)
    if Path(name).is_dir() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[f"{part}/*" for part in ADAPTER_FOLDERS]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"{name!r} is neither a folder nor a repository of the Hub that can be reached; give a folder of "
            "save_bolid_adapter (it holds adapter/config.json)"
        ) from error


def require_fit(adapter: BoLIDAdapter, unet: Any) -> None:
    """Raises ValueError unless every layer of the adapter meets a cross-attention of its width and heads."""
    found = cross_attentions(unet)
    for row in adapter.config.layer_table:
        attention = found.get(row["name"])
        have = None if attention is None else (attention.inner_dim, attention.heads)
        if have != (row["dim"], row["heads"]):
            raise ValueError(
                f"the adapter was made for another base: its cross-attention {row['name']} has width and "
                f"heads {(row['dim'], row['heads'])}, the UNet's {have}; load it with its own base"
            )


def require_vision(adapter: BoLIDAdapter, image_encoder: Any) -> None:
    """Raises ValueError where the vision encoder gives patches of another width than the adapter takes."""
    wanted = adapter.config.vision_dim
    if image_encoder is not None and image_encoder.config.hidden_size != wanted:
        raise ValueError(
            f"the adapter was made for a vision encoder with patches of {wanted}, the pipeline's gives "
            f"{image_encoder.config.hidden_size}; load the adapter from a folder with its own image_encoder"
        )


def _read_index(cls: Any, source: str, options: dict[str, Any]) -> dict[str, Any]:
    """model_index.json of a folder or a Hub repository. Raises ValueError when there is none."""
    if Path(source).is_dir() and not (Path(source) / cls.config_name).is_file():
        raise ValueError(
            f"the folder {source!r} holds no {cls.config_name}; give the folder of a saved pipeline"
        )
    hub = ("cache_dir", "force_download", "proxies", "token", "local_files_only", "revision")
    try:
        return dict(cls.load_config(source, **{name: options[name] for name in hub if name in options}))
    except OSError as error:
        raise ValueError(
            f"{source!r} is neither a folder with a {cls.config_name} nor a repository of the Hugging Face "
            "Hub that can be reached; give the folder of a saved pipeline, for example models/bolid-mini"
        ) from error


def _family(source: str, index: dict[str, Any], asked: type) -> Any:
    """The class to open a repository with. Raises ValueError for a family that BoLID has no pipeline for."""
    from bolid.pipeline import BoLIDPipeline  # both import this module
    from bolid.pipeline_xl import BoLIDXLPipeline

    name = index.get("_class_name")
    name = name[-1] if isinstance(name, list | tuple) else str(name)
    known = {"unet", "vae", "scheduler"} <= index.keys()
    if not known or not name.startswith(("BoLID", "StableDiffusion")) or "StableDiffusion3" in name:
        raise ValueError(f"{source!r} is a {name}; BoLID works with Stable Diffusion 1.5 and SDXL pipelines")
    family = BoLIDXLPipeline if "text_encoder_2" in index else BoLIDPipeline
    return asked if issubclass(asked, family) else family


def adapter_class(folder: Path) -> Any:
    """The class whose config lies in an adapter's folder: BoLID's own, or a compared method's."""
    config: Any = BoLIDAdapter.load_config(folder)
    name = config.get("_class_name", BoLIDAdapter.__name__)
    module = ADAPTERS.get(str(name), BoLIDAdapter.__module__)
    return getattr(importlib.import_module(module), str(name), BoLIDAdapter)


def _make_known(index: dict[str, Any]) -> None:
    """Imports the package's own modules that a repository names, where diffusers' loader looks for them."""
    for entry in index.values():
        if isinstance(entry, list | tuple) and entry and entry[0] in ADAPTERS.values():
            importlib.import_module(entry[0])


def vision_class(folder: Path) -> Any:
    """The class of a vision encoder's folder: CLIP, with its projection where it has one."""
    from transformers import AutoConfig, CLIPVisionModel, CLIPVisionModelWithProjection

    names = AutoConfig.from_pretrained(folder).architectures or []
    return CLIPVisionModelWithProjection if "CLIPVisionModelWithProjection" in names else CLIPVisionModel


def _class_of(folder: Path) -> Any:
    """The class of one of an adapter's folders (an estimator: the mini network, or public models by name)."""
    if folder.name == "image_encoder":
        return vision_class(folder)
    if folder.name == "face":
        return importlib.import_module(MODULES["bolid_face"]).FaceAdapter
    if folder.name in LATER:
        return LATER[folder.name]
    if folder.name == "adapter":
        return adapter_class(folder)
    config: Any = PersonEstimator.load_config(folder)
    return PhotoEstimator if config.get("_class_name") == PhotoEstimator.__name__ else PersonEstimator
