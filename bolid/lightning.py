"""Few-step generation inside training: from pure noise to latents with the conditions a batch already has."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers.schedulers import DDIMScheduler
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .attention import KEY, Conditions, TokenGroup, cross_attentions


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of a roll-out: away from the negative half, by `scale` (1 is none).

    text: the negative half's [B, T, D]; conditions: its own; unet_kwargs: as in `lightning`, None takes the
    positive half's.
    """

    scale: float
    text: Tensor
    conditions: Any
    unet_kwargs: dict[str, Any] | None = None


@dataclass(frozen=True)
class LightningOptions:
    """Options of the lightning branch: how many steps, and through which of them gradients go."""

    steps: int = 4  # network calls from pure noise to picture
    mode: Literal["one_step", "last_k", "full"] = "last_k"  # one_step: x0 as the first step alone sees it
    last: int = 1  # K of last_k
    checkpoint: bool = True  # steps before the last keep their inputs only and are computed again in backward

    def __post_init__(self) -> None:
        if self.mode not in ("one_step", "last_k", "full"):
            raise ValueError(f"mode={self.mode!r}: one of one_step, last_k, full is needed.")
        if self.steps < 1 or (self.mode == "last_k" and not 1 <= self.last <= self.steps):
            raise ValueError(f"steps={self.steps}, last={self.last}: 1 ≤ last ≤ steps is needed.")

    @property
    def calls(self) -> int:
        """Network calls that are made."""
        return 1 if self.mode == "one_step" else self.steps

    @property
    def free(self) -> int:
        """Calls at the start that get no gradient."""
        return self.steps - self.last if self.mode == "last_k" else 0


@dataclass(frozen=True)
class Generated:
    """latents x0 [B, C, h, w]; queries: layer name → [B, heads, HW, d] of each step that gets gradients."""

    latents: Tensor
    queries: tuple[dict[str, Tensor], ...]


def roll_out(
    unet: Any,
    scheduler: DDIMScheduler,
    noise: Tensor,
    text: Tensor,
    conditions: Any,
    steps: int = 4,
    guidance: Guidance | None = None,
    **unet_kwargs: Any,
) -> Tensor:
    """Latents x0 [B, C, h, w] after `steps` deterministic DDIM steps from `noise` [B, C, h, w].

    text [B, T, D] and `conditions` (bolid.attention.Conditions) are those of the positive half. The
    scheduler's config decides prediction type and spacing; a fresh one is made of it, so nothing shared is
    changed. Gradients go as autograd takes them; `lightning` chooses.
    """
    options = LightningOptions(steps, "full", checkpoint=False)
    return lightning(unet, scheduler, noise, text, conditions, options, guidance, **unet_kwargs).latents


def lightning(
    unet: Any,
    scheduler: DDIMScheduler,
    noise: Tensor,
    text: Tensor,
    conditions: Conditions,
    options: LightningOptions,
    guidance: Guidance | None = None,
    record: Collection[str] = (),
    renoise: Tensor | None = None,
    **unet_kwargs: Any,
) -> Generated:
    """`roll_out` with a choice of gradients, and with the cross-attentions' queries for alignment losses.

    Under torch.no_grad() the values and the recorded steps are the same: so runs the path without identity.

    Args:
        record: names of the cross-attention layers whose queries are wanted (`adapter.layer_names`).
        renoise: [steps - 1, B, C, h, w] of standard normals: after each step x0 gets fresh noise, as LCM
            samples; None goes on deterministically (DDIM).
        unet_kwargs: straight to the UNet, such as SDXL's `added_cond_kwargs`.
    """
    schedule: Any = DDIMScheduler.from_config(scheduler.config)
    schedule.set_timesteps(options.steps, device=noise.device)
    network = _Network(unet, text, conditions, guidance, frozenset(record), unet_kwargs)
    latents, queries = noise, []
    for index, t in enumerate(schedule.timesteps[: options.calls]):

        def step(latents: Tensor, t: Tensor = t) -> tuple[Any, dict[str, Tensor]]:
            prediction, heard = network(latents, t)
            return schedule.step(prediction.float(), t, latents), heard

        again = options.checkpoint and index < options.calls - 1
        moved, heard = _run(step, latents, free=index < options.free, again=again)
        latents = moved.pred_original_sample if options.mode == "one_step" else moved.prev_sample
        if renoise is not None and options.mode != "one_step" and index < options.steps - 1:
            following = schedule.timesteps[index + 1].expand(len(latents))
            latents = schedule.add_noise(moved.pred_original_sample, renoise[index], following)
        if index >= options.free:
            queries.append(heard)
    return Generated(latents, tuple(queries))


def text_keys(unet: Any, text: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    """Keys [B, heads, T, d] that the text [B, T, D] has in each named layer: K of PuLID's L_sem, no gradient.

    They are the same at every step and with or without identity, so they are made once.
    """
    found = cross_attentions(unet)
    with torch.no_grad():
        return {name: _keys(found[name], text) for name in layers}


def _keys(attn: Any, text: Tensor) -> Tensor:
    if attn.norm_cross:
        text = attn.norm_encoder_hidden_states(text)
    keys = attn.to_k(text).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    return keys if attn.norm_k is None else attn.norm_k(keys)


def _run(
    step: Callable[[Tensor], tuple[Any, dict[str, Tensor]]], latents: Tensor, free: bool, again: bool
) -> tuple[Any, dict[str, Tensor]]:
    """One step: without gradient (free), computed again in backward (again), or plainly."""
    if free or not torch.is_grad_enabled():
        with torch.no_grad():
            result = step(latents)
        # autocast keeps its casts of weights, and until torch 2.10 or so (its #165068) those made without
        # gradient would cut later steps off from the weights
        torch.clear_autocast_cache()
        return result
    if again:
        return checkpoint(step, latents, use_reentrant=False)  # pyright: ignore[reportReturnType]
    return step(latents)


@dataclass(frozen=True)
class _Network:
    """The UNet with all that stays the same over the steps."""

    unet: Any
    text: Tensor
    conditions: Conditions
    guidance: Guidance | None
    record: frozenset[str]
    kwargs: dict[str, Any]

    def __call__(self, latents: Tensor, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Guided prediction [B, C, h, w], and the queries of the positive half."""
        heard: dict[str, Tensor] = {}
        conditions = listening(self.conditions, heard, self.record) if self.record else self.conditions
        prediction = self._predict(latents, t, self.text, conditions, self.kwargs)
        queries = dict(heard)  # a UNet with checkpointing hears each layer again in backward
        if self.guidance is not None:
            negative = self.guidance
            kwargs = self.kwargs if negative.unet_kwargs is None else negative.unet_kwargs
            away = self._predict(latents, t, negative.text, negative.conditions, kwargs)
            prediction = away + negative.scale * (prediction - away)
        return prediction, queries

    def _predict(
        self, latents: Tensor, t: Tensor, text: Tensor, conditions: Any, kwargs: dict[str, Any]
    ) -> Tensor:
        return self.unet(latents, t, text, cross_attention_kwargs={KEY: conditions}, **kwargs).sample


def listening(conditions: Conditions, heard: dict[str, Tensor], layers: Collection[str]) -> Conditions:
    """The same conditions, of one UNet call, that also write the queries of `layers` into `heard` (by name).

    The ear is one more token group that adds 0: nothing is kept on the UNet or its processors, so calls do
    not see each other, and the prediction is that of `conditions`.
    """
    ear = _Ear({}, {}, torch.zeros(conditions.rows, 0), hear=heard.__setitem__, layers=frozenset(layers))
    return replace(conditions, groups=(*conditions.groups, ear))


@dataclass(frozen=True)
class _Ear(TokenGroup):
    """A token group without tokens that hands every query to `hear`: no dictionary of its own, for sharded
    blocks get a copy of all containers among their arguments."""

    hear: Callable[[str, Tensor], None] = lambda _layer, _query: None
    layers: frozenset[str] = frozenset()

    def attend(self, query: Tensor, layer: str) -> Tensor:
        if layer in self.layers:
            self.hear(layer, query)
        return query.new_zeros(())

    def map(self, function: Callable[[Tensor], Tensor]) -> TokenGroup:  # noqa: ARG002 - it has no tensors
        return self
