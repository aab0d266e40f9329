"""From references, poses and image prompts to what the UNet's cross-attentions get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import bolid.inputs as inputs
from bolid.adapter import AdapterInputs
from bolid.appearance import appearance_map
from bolid.attention import Conditions
from bolid.autoencoder import AvatarAutoencoder
from bolid.body import pack_appearance
from bolid.encoder import crop_parts, part_patches
from bolid.identity import Identity
from bolid.pictures import PictureSource, load_picture
from bolid.pose import retarget, skeleton_map
from bolid.reference import Reference, find_person

LARGEST_PROMPT = 1024  # pixels a side; the vision encoder sees a few hundred at most


class ConditioningMixin:
    """The part of `BoLIDMixin` that computes: `Identity`, `AdapterInputs`, `Conditions`. It changes
    nothing.
    """

    vae: Any
    unet: Any
    image_encoder: Any
    feature_extractor: Any
    adapter: Any
    estimator: Any
    vae_scale_factor: int
    _execution_device: torch.device

    @property
    def draws_avatars(self) -> bool:
        """Whether this is the small model, which knows drawn avatars only."""
        return isinstance(self.vae, AvatarAutoencoder)

    @property
    def picture_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the UNet was made for."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.vae_scale_factor, width * self.vae_scale_factor

    def _require(self, *components: str) -> None:
        """Raises ValueError where a component is missing."""
        for name in components:
            if getattr(self, name, None) is None:
                raise ValueError(
                    f"this pipeline has no {name}; load one with load_bolid_adapter(folder), "
                    "or call it without reference, pose and image_prompt"
                )

    def find_person(self, picture: PictureSource, what: str = "reference") -> Reference:
        """The person in a picture, at this model's picture size.

        Raises ValueError when there is no picture or no person, or a photograph where only avatars are known.
        """
        self._require("estimator")
        height, width = self.picture_size
        return find_person(self.estimator, picture, height, width, avatars_only=self.draws_avatars, what=what)

    @torch.no_grad()
    def encode_identity(self, reference: Any) -> Identity:
        """One person's `Identity`, to keep, save, mix, and hand in again as `reference`.

        reference: a picture (PIL, path, array), a `Reference`, an `Identity`, or a list of those of one
        person.
        Raises ValueError as `find_person`, or when an `Identity` was made by another model.
        """
        self._require("adapter", "image_encoder")
        sources = list(reference) if isinstance(reference, list | tuple) else [reference]
        if not sources:
            raise ValueError("reference is an empty list; give at least one picture of the person")
        parts = [self._encode_one(source) for source in sources]
        return parts[0] if len(parts) == 1 else Identity.join(parts)

    def _encode_one(self, source: Any) -> Identity:
        if isinstance(source, Identity):
            expected = self.adapter.config.token_dim
            if source.tokens.shape[-1] != expected:
                raise ValueError(
                    f"the Identity has tokens of width {source.tokens.shape[-1]}, ours {expected}; "
                    "encode the reference again with this model"
                )
            return source.to(self._execution_device, self.adapter.dtype)
        found = source if isinstance(source, Reference) else self.find_person(source)
        found = found.resized(*self.picture_size)
        image, labels = _pixels([found.image]), torch.from_numpy(found.parts.copy())[None]
        crops, present = crop_parts(image, labels, size=self.image_encoder.config.image_size)
        patches = self._patches(crops)
        tokens, token_present = self.adapter.encode_identity(patches, present.to(patches.device))
        return Identity(tokens[0], token_present[0], self.adapter.part_ids, (found,))

    def _patches(self, pictures: Tensor) -> Tensor:
        """[..., 3, S, S] in [-1, 1] -> [..., L, D] in the adapter's type, normalised as this vision encoder
        wants.
        """
        processor = self.feature_extractor
        statistics = (None, None) if processor is None else (processor.image_mean, processor.image_std)
        pictures = pictures.to(self._execution_device)
        return part_patches(self.image_encoder, pictures, *statistics).to(self.adapter.dtype)

    def prepare(self, request: inputs.Request) -> AdapterInputs | None:
        """Everything the adapter needs for a call; None if nothing of BoLID takes part in it."""
        given: dict[str, Tensor] = {}
        people = None
        if request.has_identity and request.people is not None:
            encoded = [self.encode_identity(person) for person in request.people]
            people = inputs.as_list(encoded, "reference", request.rows)
            given |= self._identity_inputs(people, request.strength)
        if request.has_image:
            given |= self._image_inputs(request)
        if request.has_pose:
            given |= self._body_inputs(request, people)
        return AdapterInputs(**given) if given else None

    def _identity_inputs(self, people: list[Identity], strength: np.ndarray) -> dict[str, Tensor]:
        """Tokens of one person per row; persons with fewer references are filled up with absent tokens."""
        longest = max((person.part_ids for person in people), key=len)
        tokens, present = [], []
        for person in people:
            missing = len(longest) - len(person.tokens)
            tokens.append(functional.pad(person.tokens, (0, 0, 0, missing)))
            present.append(functional.pad(person.present, (0, missing)))
        return {
            "tokens": torch.stack(tokens),
            "token_present": torch.stack(present),
            "part_ids": longest,
            "strength": torch.from_numpy(strength).to(tokens[0].device),
        }

    def _image_inputs(self, request: inputs.Request) -> dict[str, Tensor]:
        """Tokens of the image prompts; a row without one has strength 0."""
        self._require("adapter", "image_encoder")
        size = self.image_encoder.config.image_size
        pixels = torch.zeros(request.rows, 3, size, size)
        for row, picture in enumerate(request.pictures):
            if picture is not None:
                image = load_picture(picture, "image prompt")
                image.thumbnail((LARGEST_PROMPT, LARGEST_PROMPT))  # else a photograph is a gigabyte of floats
                whole = _pixels([np.asarray(image)])
                # squeezed to the encoder's square, as in training: nothing is cut off
                pixels[row] = functional.interpolate(whole, (size, size), mode="bilinear", antialias=True)[0]
        tokens = self.adapter.encode_image(self._patches(pixels))
        given = [0.0 if picture is None else request.image_strength for picture in request.pictures]
        return {"image_tokens": tokens, "image_strength": torch.tensor(given, device=tokens.device)}

    def _body_inputs(self, request: inputs.Request, people: list[Identity] | None) -> dict[str, Tensor]:
        """Skeleton maps and appearance maps, one per row; a row without pose has neither."""
        self._require("adapter")
        size = (request.height, request.width)
        device, dtype = self._execution_device, self.adapter.dtype
        skeletons, maps = torch.zeros(request.rows, 3, *size), torch.zeros(request.rows, 4, *size)
        given = torch.zeros(request.rows)
        for row, source in enumerate(request.poses):
            pose = inputs.read_pose(source, *size, lambda picture: self.find_person(picture, "pose picture"))
            if pose is None:
                continue
            given[row] = request.pose_strength
            strength = request.strength[row]
            shown = people is not None and strength.max() > 0
            references = [each.resized(*size) for each in people[row].references] if people and shown else []
            if request.retarget and references:
                pose = fitted(pose, references, strength)
            drawn = skeleton_map(pose[None], *size)[0]
            skeletons[row] = torch.from_numpy(drawn).permute(2, 0, 1) / 255
            if references:
                maps[row] = best_map(references, pose, strength)
        appearance = self._pack(maps).to(dtype)
        return {
            "skeleton": skeletons.to(device, dtype),
            "appearance": appearance,
            "pose_strength": given.to(device),
        }

    def _pack(self, maps: Tensor) -> Tensor:
        """Appearance maps [B, 4, H, W] -> BodyNet's input [B, L + 1, H/8, W/8]; empty maps are zeros
        there.
        """
        encoded = self.vae.encode(maps[:, :3].to(self._execution_device, self.vae.dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        shifted = latents - (getattr(self.vae.config, "shift_factor", None) or 0.0)
        return pack_appearance(shifted * self.vae.config.scaling_factor, maps[:, 3:].to(latents.device))

    def conditions(self, given: AdapterInputs, per_row: int, guided: bool) -> Conditions:
        """What the UNet's cross-attentions get: each row `per_row` times, under guidance the negative half
        first.
        """
        self.adapter.require_attached(self.unet)
        conditions = self.adapter.conditions(given).repeat(per_row)
        if guided:
            negative = self.adapter.conditions(given.negative()).repeat(per_row)
            conditions = Conditions.cat(negative, conditions)
        return conditions.to(self._execution_device, self.unet.dtype)


def fitted(pose: np.ndarray, references: Sequence[Reference], strength: np.ndarray) -> np.ndarray:
    """The pose [18, 3] with the proportions of the reference that shows most joints."""
    best = max(references, key=lambda reference: float(reference.keypoints[:, 2].sum()))
    height, width = best.image.shape[:2]
    return retarget(pose, inputs.proportions_of(best.keypoints, strength), width / height)


def best_map(references: Sequence[Reference], pose: np.ndarray, strength: np.ndarray) -> Tensor:
    """The appearance map [4, H, W] of the reference that covers most of the target, weighted by strength.

    references: of one size; pose: [18, 3] in the frame of that size; strength: [4], above 1 counts as 1.
    """
    count = len(references)
    references = [reference.without(strength <= 0) for reference in references]
    maps = appearance_map(
        _pixels([reference.image for reference in references]),
        torch.from_numpy(np.stack([reference.parts for reference in references])),
        torch.from_numpy(np.stack([reference.keypoints for reference in references])),
        torch.from_numpy(np.repeat(pose[None], count, axis=0)),
        torch.from_numpy(np.repeat(strength[None], count, axis=0)).clamp(max=1),
    )
    return maps[int(maps[:, 3].sum(dim=(1, 2)).argmax())]


def _pixels(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 pictures [H, W, 3] -> float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
