"""`Identity`: what the adapter knows of one person; a user can keep it, save it and mix it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bolid.reference import Reference

FORMAT = "bolid-identity-1"


@dataclass(frozen=True, eq=False)
class Identity:
    """One person, from one or several references.

    tokens: float [N, C]; present: bool [N], False where the token's part was not seen; part_ids: int64 [N];
    references: the pictures the tokens come from, for the appearance map; face: tokens [M, C'] of the
    pipeline's face adapter, None without one or without a face.
    Made by `BoLIDPipeline.encode_identity`; valid for that model only.
    """

    tokens: Tensor
    present: Tensor
    part_ids: Tensor
    references: tuple[Reference, ...] = ()
    face: Tensor | None = None

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Identity:
        """The same on another device, tokens in another float type."""
        return replace(
            self,
            tokens=self.tokens.to(device=device, dtype=dtype),
            present=self.present.to(device=device),
            part_ids=self.part_ids.to(device=device),
            face=None if self.face is None else self.face.to(device=device, dtype=dtype),
        )

    @staticmethod
    def join(identities: Sequence[Identity]) -> Identity:
        """Several references of one person: tokens side by side, [N_1 + N_2 + ..., C]; the faces' mean."""
        faces = [identity.face for identity in identities if identity.face is not None]
        return Identity(
            torch.cat([identity.tokens for identity in identities]),
            torch.cat([identity.present for identity in identities]),
            torch.cat([identity.part_ids for identity in identities]),
            tuple(reference for identity in identities for reference in identity.references),
            torch.stack(faces).mean(dim=0) if faces else None,
        )

    def mix(self, other: Identity, weight: float = 0.5) -> Identity:
        """Between two persons: tokens (1 - weight) x self + weight x other; a part that only one shows is
        that one's.

        weight: in [0, 1]; 0 is self and 1 is other exactly. Pixels do not mix: the references (the
        appearance map) are those of the heavier side, self's at 0.5.
        Raises ValueError for a weight outside [0, 1], or identities of different models or numbers of
        references.
        """
        if not 0 <= weight <= 1:
            raise ValueError(
                f"weight is {weight}; it must lie in [0, 1]: 0 keeps this person, 1 is the other"
            )
        if self.tokens.shape != other.tokens.shape or not torch.equal(self.part_ids, other.part_ids):
            raise ValueError(
                f"identities of {list(self.tokens.shape)} and {list(other.tokens.shape)} tokens do not mix; "
                "encode both with the same model and the same number of references"
            )
        share = torch.where(self.present & other.present, weight, other.present.to(self.tokens.dtype))
        tokens = torch.lerp(self.tokens, other.tokens.to(self.tokens), share[:, None].to(self.tokens.dtype))
        heavier = other if weight > 0.5 else self
        present = self.present | other.present if 0 < weight < 1 else heavier.present
        face = heavier.face
        if self.face is not None and other.face is not None:
            face = torch.lerp(self.face, other.face.to(self.face), weight)
        return Identity(tokens * present[:, None], present, self.part_ids, heavier.references, face)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file (whole or not at all), the reference pictures included."""
        path = Path(path)
        tensors = {"tokens": self.tokens, "present": self.present, "part_ids": self.part_ids}
        if self.face is not None:
            tensors["face"] = self.face
        for index, reference in enumerate(self.references):
            tensors[f"reference.{index}.image"] = torch.from_numpy(reference.image.copy())
            tensors[f"reference.{index}.keypoints"] = torch.from_numpy(reference.keypoints.copy())
            tensors[f"reference.{index}.parts"] = torch.from_numpy(reference.parts.copy())
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, temporary, metadata={"format": FORMAT})
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Read what `save` wrote. Raises ValueError if the file is missing or something else."""
        if not Path(path).is_file():
            raise ValueError(
                f"identity file {str(path)!r} does not exist; give a file written by Identity.save"
            )
        try:
            with safe_open(path, framework="pt") as file:
                kind = (file.metadata() or {}).get("format")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except SafetensorError as error:
            raise ValueError(
                f"{str(path)!r} is not a safetensors file ({error}); give one of Identity.save"
            ) from error
        if kind != FORMAT:
            raise ValueError(
                f"{str(path)!r} holds {kind!r}, not {FORMAT!r}; give a file written by Identity.save"
            )
        count = sum(name.endswith(".image") for name in tensors)
        references = tuple(
            Reference(
                *(tensors[f"reference.{index}.{field}"].numpy() for field in ("image", "keypoints", "parts"))
            )
            for index in range(count)
        )
        return cls(
            tensors["tokens"], tensors["present"], tensors["part_ids"], references, tensors.get("face")
        )
