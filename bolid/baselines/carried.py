"""Conditions that reach the UNet by a hook before its call instead of by its cross-attentions.

They travel with the call's conditions all the same, so pipelines and training loop call the UNet as ever, and
guidance, batches and rows are stacked as with any other group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from ..attention import KEY, Conditions, TokenGroup


@dataclass(frozen=True)
class CarriedGroup(TokenGroup):
    """A group that is only carried: it adds nothing to an attention."""

    def join(self, hidden: Tensor, query: Tensor, layer: str) -> Tensor:  # noqa: ARG002
        return hidden


Kind = TypeVar("Kind", bound=CarriedGroup)


def carried(kind: type[Kind], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Kind | None:
    """The group of that kind among the conditions of a UNet's call, for its rows; None if there is none."""
    conditions: Conditions | None = (kwargs.get("cross_attention_kwargs") or {}).get(KEY)
    if conditions is None:
        return None
    sample = args[0] if args else kwargs["sample"]
    return next((group for group in conditions.for_rows(len(sample)).groups if isinstance(group, kind)), None)
