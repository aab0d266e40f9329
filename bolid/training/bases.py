"""The frozen base of a training run: bolid-mini, any SD 1.5 or any SDXL pipeline, behind one interface.

Everything is frozen and cast here, before an adapter is attached (attached layers would become part of the
UNet). What text is to a UNet, and what "no text" is, follows the stock pipelines: SDXL takes the last layer
but one of both text encoders, the second one's pooled embedding and six numbers of size and crop, and its
empty prompt is zeros where the pipeline says so (`force_zeros_for_empty_prompt`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bolid.autoencoder import AvatarAutoencoder
from bolid.encoder import Look
from bolid.estimator import PersonEstimator
from bolid.loading import LATER
from bolid.pipeline import BoLIDPipeline
from bolid.pipeline_xl import BoLIDXLPipeline

MINI_FOLDERS = {  # the parts of bolid-mini that exist before its UNet, and the stage that makes each
    "vae": "autoencoder",
    "image_encoder": "clip",
    "text_encoder": "clip",
    "tokenizer": "clip",
    "estimator": "estimator",
}


@dataclass(frozen=True)
class TextConditions:
    """What a UNet is told of its prompts.

    states: [B, T, D]; added: None, or SDXL's {"text_embeds": [B, E], "time_ids": [B, 6]}.
    """

    states: Tensor
    added: dict[str, Tensor] | None = None

    def kwargs(self) -> dict[str, Any]:
        """Arguments of a UNet call."""
        return {"encoder_hidden_states": self.states, "added_cond_kwargs": self.added}

    def where(self, rows: Tensor, other: TextConditions) -> TextConditions:
        """The conditions of `other` in these rows (bool [B]), its size and crop numbers apart."""
        states = torch.where(rows[:, None, None], other.states, self.states)
        if self.added is None or other.added is None:
            return TextConditions(states, self.added)
        pooled = torch.where(rows[:, None], other.added["text_embeds"], self.added["text_embeds"])
        return TextConditions(states, {**self.added, "text_embeds": pooled})

    def __getitem__(self, rows: Any) -> TextConditions:
        """Some rows, by a slice, indices [K] or a mask [B]."""
        added = None if self.added is None else {name: value[rows] for name, value in self.added.items()}
        return TextConditions(self.states[rows], added)


class FrozenBase(nn.Module):
    """The networks of a base that training leaves alone, as submodules that never leave evaluation mode.

    Args:
        components: by the pipeline's names: vae, text_encoder, tokenizer, scheduler and, where there,
            unet (None while bolid-mini's own is still to be trained), text_encoder_2, tokenizer_2,
            image_encoder, feature_extractor, estimator.
        source: where they were read from, for messages and for opening the pipeline again.
        zero_empty: the empty prompt is zeros (SDXL).
    """

    def __init__(self, components: dict[str, Any], source: str = "", zero_empty: bool = False) -> None:
        super().__init__()
        self.source, self.zero_empty = source, zero_empty
        self.look = Look()  # how references are looked at; the stage sets that of its adapter
        self.is_xl = components.get("text_encoder_2") is not None
        self.unet: Any = components.get("unet")
        self.vae: Any = components["vae"]
        self.scheduler: Any = components.get("scheduler")
        names = ("text_encoder", "text_encoder_2") if self.is_xl else ("text_encoder",)
        self.text_encoders: Any = nn.ModuleList(components[name] for name in names)
        self.tokenizers = tuple(components[name.replace("text_encoder", "tokenizer")] for name in names)
        self.image_encoder: Any = components.get("image_encoder")
        self.feature_extractor: Any = components.get("feature_extractor")
        self.estimator: Any = components.get("estimator")
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenBase:  # noqa: ARG002 - frozen networks do not train
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return next(self.vae.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of text states: the text encoder's own."""
        return next(self.text_encoders.parameters()).dtype

    @property
    def fold(self) -> int:
        """Pixels per latent pixel, a side."""
        return 8 if self.draws_avatars else 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def draws_avatars(self) -> bool:
        """Whether this is bolid-mini, whose estimator reads drawn avatars."""
        return isinstance(self.vae, AvatarAutoencoder)

    @property
    def vision_dim(self) -> int:
        """Width of the vision encoder's patches. Raises ValueError when there is none."""
        return self.require("image_encoder").config.hidden_size

    def require(self, name: str) -> Any:
        """A component that not every base has. Raises ValueError that says how to give it."""
        component = getattr(self, name)
        if component is None:
            raise ValueError(
                f"the base {self.source!r} holds no {name}: name a CLIP vision model by "
                "objective.image_encoder, for example h94/IP-Adapter/models/image_encoder."
                if name == "image_encoder"
                else f"the base {self.source!r} holds no {name}."
            )
        return component

    def picture_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the UNet was made for."""
        size = self.require("unet").config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.fold, width * self.fold

    def token_ids(self, texts: list[str]) -> np.ndarray:
        """Token ids int64 [N, T], or [N, 2, T] for SDXL's two tokenizers; padded and cut as pipelines do."""
        columns = [
            np.asarray(
                tokenizer(
                    texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length
                )["input_ids"],
                np.int64,
            )
            for tokenizer in self.tokenizers
        ]
        return np.stack(columns, 1) if self.is_xl else columns[0]

    @torch.no_grad()
    def encode_text(
        self,
        ids: Tensor | tuple[Tensor, ...],
        size: tuple[int, int] | None = None,
        time_ids: Tensor | None = None,
    ) -> TextConditions:
        """Token ids as `token_ids` gives them ([B, T], for SDXL [B, 2, T] or two of [B, T]) → conditions.

        size: (height, width) of the pictures, for SDXL's time ids: an uncropped picture of that size, which
        is what its pipeline says too; None takes the UNet's own size. time_ids: [B, 6], for rows with their
        own original size and crop.
        """
        if isinstance(ids, Tensor):
            ids = ids.unbind(1) if ids.ndim == 3 else (ids,)
        if len(ids) != len(self.text_encoders):
            raise ValueError(
                f"{len(ids)} rows of token ids for {len(self.text_encoders)} text encoders: use token_ids()."
            )
        if not self.is_xl:
            return TextConditions(self.text_encoders[0](ids[0])[0].to(self.dtype))
        outputs = [
            encoder(row, output_hidden_states=True)
            for encoder, row in zip(self.text_encoders, ids, strict=True)
        ]
        states = torch.cat([output.hidden_states[-2] for output in outputs], -1).to(self.dtype)
        return TextConditions(states, self._added(outputs[-1][0].to(self.dtype), size, time_ids))

    def empty_text(self, count: int, size: tuple[int, int] | None = None) -> TextConditions:
        """What `count` rows without a prompt get, in training as in the guidance of the stock pipeline."""
        ids = torch.from_numpy(self.token_ids([""] * count)).to(self.device)
        text = self.encode_text(ids, size)
        if not self.zero_empty:
            return text
        assert text.added is not None
        pooled = torch.zeros_like(text.added["text_embeds"])
        return TextConditions(torch.zeros_like(text.states), {**text.added, "text_embeds": pooled})

    def _added(
        self, pooled: Tensor, size: tuple[int, int] | None, time_ids: Tensor | None
    ) -> dict[str, Tensor]:
        if time_ids is None:
            height, width = size or self.picture_size()
            row = pooled.new_tensor([height, width, 0, 0, height, width])  # original, crop, target
            time_ids = row.expand(len(pooled), -1)
        return {"text_embeds": pooled, "time_ids": time_ids.to(pooled)}

    def latents(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] → scaled latents [B, C, H/8, W/8], float32, what the UNet works on.

        The mode of the posterior, not a draw: its spread is far below the noise of any training step, and
        the same picture gives the same latents, cached or not.
        """
        encoded = self.vae.encode(pixels.to(next(self.vae.parameters()).dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return (latents.float() - self._shift()) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] → pixels [B, 3, 8h, 8w], float32, about [-1, 1]; differentiable."""
        codes = latents.float() / self.vae.config.scaling_factor + self._shift()
        return self.vae.decode(codes.to(next(self.vae.parameters()).dtype)).sample.float()

    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    def patches(self, pictures: Tensor) -> Tensor:
        """Image prompts [..., 3, S, S] in [-1, 1] → the encoder's patches [..., L, D], by `Look.prompt`.

        Normalised by the feature extractor's statistics, as the pipeline does; without one as they are.
        """
        processor = self.feature_extractor
        statistics = (None, None) if processor is None else (processor.image_mean, processor.image_std)
        return self.look.prompt.states(self.require("image_encoder"), pictures, *statistics)

    def see(self, crops: Tensor) -> Tensor:
        """A reference's crops, as `look.crops` cuts them, → what the adapter gets of them."""
        processor = self.feature_extractor
        statistics = (None, None) if processor is None else (processor.image_mean, processor.image_std)
        return self.look.states(self.require("image_encoder"), crops, *statistics)

    def fingerprint(self) -> str:
        """A hash of all that features are made by: VAE, vision encoder, estimator, tokenizers, the look.

        Read once per run: the weights of the largest take some seconds.
        """
        digest = hashlib.sha256()
        for network in (self.vae, self.image_encoder, self.estimator):
            for name, tensor in sorted(network.state_dict().items()) if network is not None else ():
                digest.update(f"{name}{tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().flatten().clone().view(torch.uint8).numpy())
        for tokenizer in self.tokenizers:
            digest.update(repr(sorted(tokenizer.get_vocab().items())).encode())
        if self.feature_extractor is not None:
            digest.update(
                repr((self.feature_extractor.image_mean, self.feature_extractor.image_std)).encode()
            )
        if self.look != Look():
            digest.update(repr(self.look).encode())
        return digest.hexdigest()[:16]


def open_base(
    source: str | Path, dtype: torch.dtype = torch.float32, image_encoder: str | None = None
) -> FrozenBase:
    """The frozen base of a pipeline folder or Hub id; also bolid-mini's parts from before it had a UNet.

    dtype: of all weights; a VAE that overflows in half precision (`force_upcast`, SDXL's) stays float32
    under float16. image_encoder: folder or `owner/name/sub/folder` of the Hub with a CLIP vision model, for
    bases that have none; None takes the base's own, if any. An adapter that the pipeline holds is not loaded.

    Raises:
        ValueError: there is no such folder or repository, a part is missing, or it is of another family.
    """
    name = str(source)
    if Path(name).is_dir() and not (Path(name) / "model_index.json").is_file():
        components, zero_empty = _mini_components(Path(name), dtype), False
    else:
        pipeline = _open_pipeline(name, dtype)
        components = dict(pipeline.components)
        zero_empty = bool(pipeline.config.get("force_zeros_for_empty_prompt", False))
    if image_encoder is not None:
        components |= _vision(image_encoder, dtype)
    if dtype == torch.float16 and getattr(components["vae"].config, "force_upcast", False):
        components["vae"].to(torch.float32)
    base = FrozenBase(components, name, zero_empty)
    return cast(FrozenBase, base.to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]


def _open_pipeline(source: str, dtype: torch.dtype) -> Any:
    """The stock components, without those that training has no use for: `LATER` are made for a finished
    pipeline.
    """
    try:
        index = BoLIDPipeline.load_config(source)
    except OSError:
        index = {}  # from_pretrained below says what is wrong
    unused = [name for name in ("adapter", *LATER, "safety_checker") if name in index]
    family: Any = BoLIDXLPipeline if "text_encoder_2" in index else BoLIDPipeline
    return family.from_pretrained(source, dtype=dtype, **dict.fromkeys(unused))


def _mini_components(root: Path, dtype: torch.dtype) -> dict[str, Any]:
    from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModel

    for name, stage in MINI_FOLDERS.items():
        if not (root / name).is_dir():
            raise ValueError(
                f"{root} holds neither model_index.json nor {name!r}: give a pipeline's folder, or train the "
                f"stage {stage!r} and copy its export there (see model_card.md)."
            )
    return {
        "vae": AvatarAutoencoder.from_pretrained(root / "vae", dtype=dtype),
        "image_encoder": CLIPVisionModel.from_pretrained(root / "image_encoder", dtype=dtype),
        "text_encoder": CLIPTextModel.from_pretrained(root / "text_encoder", dtype=dtype),
        "estimator": PersonEstimator.from_pretrained(root / "estimator", dtype=dtype),
        "tokenizer": CLIPTokenizer.from_pretrained(root / "tokenizer"),
    }


def _vision(source: str, dtype: torch.dtype) -> dict[str, Any]:
    """A CLIP vision model with its picture statistics (CLIP's own where the folder has none)."""
    from transformers import AutoConfig, CLIPImageProcessor, CLIPVisionModel, CLIPVisionModelWithProjection

    pieces = [source] if Path(source).is_dir() else source.split("/")
    place = "/".join(pieces[:2])
    where: dict[str, Any] = {"subfolder": "/".join(pieces[2:])} if pieces[2:] else {}
    try:
        names = AutoConfig.from_pretrained(place, **where).architectures or []
        projected = "CLIPVisionModelWithProjection" in names
        kind: Any = CLIPVisionModelWithProjection if projected else CLIPVisionModel
        model = kind.from_pretrained(place, dtype=dtype, **where)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"image_encoder={source!r}: no CLIP vision model can be read there "
            f"({str(error).splitlines()[0]}); give a local folder, or owner/name/sub/folder of a Hub "
            "repository that can be reached."
        ) from error
    try:
        processor = CLIPImageProcessor.from_pretrained(place, **where)
    except OSError:
        processor = CLIPImageProcessor()
    return {"image_encoder": model, "feature_extractor": processor}
