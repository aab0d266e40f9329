"""From references, poses and image prompts to what the UNet's cross-attentions get."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import bolid.inputs as inputs
from bolid.adapter import AdapterInputs
from bolid.attention import Conditions
from bolid.autoencoder import AvatarAutoencoder, encode_latents
from bolid.body import pack_appearance
from bolid.encoder import WHOLE, Look
from bolid.identity import Identity
from bolid.pictures import PictureSource, load_picture
from bolid.plan import Plan, fitted, pixels_of, shown_references
from bolid.reference import Reference, find_person
from bolid.regions import head_regions, in_column
from bolid.request import Request

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
    face: Any
    controlnet: Any
    garments: Any
    encode_prompt: Any
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
    def encode_identity(self, reference: Any, *, whole: bool = False, face: Any = None) -> Identity:
        """One person's `Identity`, to keep, save, mix, and hand in again as `reference`.

        reference: a picture (PIL, path, array), a `Reference`, an `Identity`, or a list of those of one
            person.
        whole: see the person as one picture instead of part by part, as stock IP-Adapter pipelines do; it is
            what `python -m bolid export` writes. An adapter made for the whole person always does.
        face: `bolid.baselines.Features` of the person for the pipeline's face adapter; None asks the
            estimator's face network, where there is one.
        Raises ValueError as `find_person`, or when an `Identity` was made by another model.
        """
        self._require("adapter", "image_encoder")
        sources = list(reference) if isinstance(reference, list | tuple) else [reference]
        if not sources:
            raise ValueError("reference is an empty list; give at least one picture of the person")
        parts = [self._encode_one(source, whole, face) for source in sources]
        return parts[0] if len(parts) == 1 else Identity.join(parts)

    def _encode_one(self, source: Any, whole: bool, face: Any) -> Identity:
        if isinstance(source, Identity):
            expected = self.adapter.config.token_dim
            if source.tokens.shape[-1] != expected:
                raise ValueError(
                    f"the Identity has tokens of width {source.tokens.shape[-1]}, ours {expected}; "
                    "encode the reference again with this model"
                )
            return source.to(self._execution_device, self.adapter.dtype)
        found = source if isinstance(source, Reference) else self.find_person(source)
        tokens, present, ids = self._tokens_of(found.resized(*self.picture_size), whole)
        face_tokens = None if getattr(self, "face", None) is None else self._face_tokens(found, face)
        return Identity(tokens, present, ids, (found.resized(*self.picture_size),), face_tokens)

    def _tokens_of(self, found: Reference, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [N, C], present bool [N] and part ids [N] of a person at the model's picture size."""
        adapter, size = self.adapter, self.image_encoder.config.image_size
        image, labels = pixels_of([found.image]), torch.from_numpy(found.parts.copy())[None]
        folded = whole and not adapter.sees_whole  # the stock reading of an adapter that knows parts
        look = Look(whole=True, class_token=True) if folded else adapter.look
        crops, present = look.crops(image, labels, size)
        patches = self._states(look, crops)
        present = present.to(patches.device)
        if not folded:
            tokens, token_present = adapter.encode_identity(patches, present)
            return tokens[0], token_present[0], adapter.part_ids
        tokens = adapter.encode_whole(patches[:, 0])[0]
        seen = present[0].expand(len(tokens))
        return tokens * seen[:, None], seen, torch.full_like(adapter.part_ids, WHOLE)

    def _face_tokens(self, found: Reference, features: Any) -> Tensor | None:
        """Tokens [M, C] of the face adapter; None: no face is seen. Raises ValueError without a network."""
        features = features or self.face.features_of(found.image, self.estimator, self._execution_device)
        return None if features is None else self.face.tokens(features)[0].to(self._execution_device)

    def _states(self, look: Look, pictures: Tensor) -> Tensor:
        """[B, K, 3, S, S] or [B, 3, S, S] in [-1, 1] -> [..., L, D] in the adapter's type, normalised as this
        vision encoder wants.
        """
        processor = self.feature_extractor
        statistics = (None, None) if processor is None else (processor.image_mean, processor.image_std)
        states = look.states(self.image_encoder, pictures.to(self._execution_device), *statistics)
        return states.to(self.adapter.dtype)

    def plan(self, request: Request, words: list[Tensor] | None = None) -> Plan:
        """The request with people encoded and poses in place.

        words: the states of each row's prompt (`text_states`); None: no clothes are drawn by them.
        Raises ValueError as `encode_identity`.
        """
        people = None
        if request.has_identity and request.people is not None:
            encoded = [self.encode_identity(person) for person in request.people]
            people = encoded if request.group else inputs.as_list(encoded, "reference", request.rows)
        if not request.has_pose:
            return Plan(request, people, [None] * len(request.poses), words)
        if getattr(self, "controlnet", None) is None:
            self._require("adapter")
        poses = [self._target(request, people, row) for row in range(len(request.poses))]
        return Plan(request, people, poses, words, self.garments)

    def _target(self, request: Request, people: list[Identity] | None, row: int) -> np.ndarray | None:
        """One row's pose [18, 3], with the reference's proportions where wanted."""
        pose = self._read_pose(request, row)
        references = shown_references(request, people, row)
        if pose is None or not request.retargets(row) or not references:
            return pose
        return fitted(pose, references, request.strength[row])

    def _read_pose(self, request: Request, row: int) -> np.ndarray | None:
        source, (height, width) = request.poses[row], request.size
        count = len(request.poses) if request.group else 1

        def find(picture: PictureSource) -> Reference:
            return self.find_person(picture, "pose picture")

        if count > 1 and not inputs.is_placed(source):
            column = (height, width // count)
            pose = inputs.read_pose(source, *column, lambda picture: find(picture).resized(*column))
            return None if pose is None else in_column(pose, row, count)
        return inputs.read_pose(source, height, width, find)

    @torch.no_grad()
    def text_states(self, prompt: Any, kwargs: dict[str, Any], rows: Sequence[int]) -> list[Tensor]:
        """The states [1, L, C] that the UNet gets of some rows' prompts, or of the call's `prompt_embeds`.

        Each prompt is encoded alone: beside others it would differ in the last digit, and so might a pixel of
        its pose.
        """
        embeds = kwargs.get("prompt_embeds")
        if embeds is not None:
            return [embeds[row : row + 1] for row in rows]
        names = {"prompt", "prompt_2", "clip_skip"} & inspect.signature(self.encode_prompt).parameters.keys()
        given = {name: value for name, value in {**kwargs, "prompt": prompt}.items() if name in names}
        common = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        states, coded = [], {}
        for row in rows:
            own = {name: each[row] if isinstance(each, list) else each for name, each in given.items()}
            key = tuple(own.values())
            if key not in coded:  # rows of one prompt are the rule
                coded[key] = self.encode_prompt(**own, **common, device=self._execution_device)[0]
            states.append(coded[key])
        return states

    def prepare(self, plan: Plan) -> AdapterInputs | None:
        """Everything the adapter needs for a call; None if nothing of BoLID takes part in it."""
        given: dict[str, Tensor] = {}
        if plan.people is not None:
            given |= self._identity_inputs(plan.people, plan.request.strength)
        if plan.request.has_image:
            given |= self._image_inputs(plan.request)
        if plan.request.has_pose and self.adapter is not None:
            given |= self._body_inputs(plan)
        return AdapterInputs(**given) if given else None

    def _identity_inputs(self, people: list[Identity], strength: np.ndarray) -> dict[str, Tensor]:
        """Tokens of one person per row; persons with fewer references are filled up with absent tokens."""
        longest = max((person.part_ids for person in people), key=len)
        tokens, present = [], []
        for person in people:
            missing = len(longest) - len(person.tokens)
            if not torch.equal(person.part_ids, longest[: len(person.tokens)]):
                raise ValueError(
                    "one call has people seen part by part and people seen whole; encode all of them alike"
                )
            tokens.append(functional.pad(person.tokens, (0, 0, 0, missing)))
            present.append(functional.pad(person.present, (0, missing)))
        return {
            "tokens": torch.stack(tokens),
            "token_present": torch.stack(present),
            "part_ids": longest,
            "strength": torch.from_numpy(strength).to(tokens[0].device),
        }

    def _image_inputs(self, request: Request) -> dict[str, Tensor]:
        """Tokens of the image prompts; a row without one has strength 0."""
        self._require("adapter", "image_encoder")
        size = self.image_encoder.config.image_size
        pixels = torch.zeros(request.rows, 3, size, size)
        for row, picture in enumerate(request.pictures):
            if picture is not None:
                image = load_picture(picture, "image prompt")
                image.thumbnail((LARGEST_PROMPT, LARGEST_PROMPT))  # else a photograph is a gigabyte of floats
                whole = pixels_of([np.asarray(image)])
                # squeezed to the encoder's square, as in training: nothing is cut off
                pixels[row] = functional.interpolate(whole, (size, size), mode="bilinear", antialias=True)[0]
        tokens = self.adapter.encode_image(self._states(self.adapter.look.prompt, pixels))
        given = [0.0 if picture is None else request.image_strength for picture in request.pictures]
        return {"image_tokens": tokens, "image_strength": torch.tensor(given, device=tokens.device)}

    def _body_inputs(self, plan: Plan) -> dict[str, Tensor]:
        """Skeleton maps and appearance maps, one per row; a row without pose has neither."""
        device, dtype = self._execution_device, self.adapter.dtype
        given = torch.tensor([pose is not None for pose in plan.poses]) * plan.request.pose_strength
        return {
            "skeleton": plan.skeletons.to(device, dtype),
            "appearance": self._pack(plan.maps).to(dtype),
            "pose_strength": given.to(device),
        }

    def _pack(self, maps: Tensor) -> Tensor:
        """Appearance maps [B, 4, H, W] -> BodyNet's input [B, L + 1, H/8, W/8]; empty maps are zeros
        there.
        """
        latents = encode_latents(self.vae, maps[:, :3].to(self._execution_device))
        return pack_appearance(latents, maps[:, 3:].to(latents.device))

    def conditions(self, given: AdapterInputs, per_row: int, guided: bool) -> Conditions:
        """What the UNet's cross-attentions get: each row `per_row` times, under guidance the negative half
        first.
        """
        self.adapter.require_attached(self.unet)
        conditions = self.adapter.conditions(given).repeat(per_row)
        if guided:
            negative = self.adapter.conditions(given.negative()).repeat(per_row)
            conditions = Conditions.guidance(negative, conditions)
        return conditions.to(self._execution_device, self.unet.dtype)

    def conditions_for(self, plan: Plan, per_row: int, guided: bool) -> Conditions | None:
        """All conditions of a call; None if nothing of BoLID takes part in it.

        Of several people each acts within the region of its own pose, so that nobody lends to another.
        """
        if not plan.request.group:
            return self._together(plan, per_row, guided)
        height, width = (side // self.vae_scale_factor for side in plan.request.size)
        total = self._together(Plan(plan.request.of_scene(), None, [None]), per_row, guided)
        for person, region in zip(plan.persons, plan.regions(height, width), strict=True):
            one = self._together(person, per_row, guided)
            if one is not None:
                one = one.within(region.expand(one.rows, 1, -1, -1).to(self._execution_device))
                total = one if total is None else total + one
        return total

    def _together(self, plan: Plan, per_row: int, guided: bool) -> Conditions | None:
        given = self.prepare(plan)
        own = None if given is None else self.conditions(given, per_row, guided)
        face = self._face_conditions(plan, per_row, guided)
        if own is None or face is None:
            return face if own is None else own
        return own + face

    def _face_conditions(self, plan: Plan, per_row: int, guided: bool) -> Conditions | None:
        """The face adapter's tokens at the head's strength, on the head where the pose says where it is."""
        faces = [person.face for person in plan.people or []]
        known = [face for face in faces if face is not None]
        if not known:
            return None
        self.adapter.require_attached(self.unet)
        tokens = torch.stack([torch.zeros_like(known[0]) if face is None else face for face in faces])
        given = torch.tensor([face is not None for face in faces])
        strength = (torch.from_numpy(plan.request.strength[:, 0]) * given).to(tokens)
        height, width = (side // self.vae_scale_factor for side in plan.request.size)
        poses = np.stack([np.zeros((18, 3)) if pose is None else pose for pose in plan.poses])
        region = head_regions(poses, height, width).to(tokens)

        def half(each: Tensor) -> Conditions:
            return self.face.face_conditions(tokens, each).within(region).repeat(per_row)

        made = half(strength)
        if guided:
            made = Conditions.guidance(half(torch.zeros_like(strength)), made)
        return made.to(self._execution_device, self.unet.dtype)
