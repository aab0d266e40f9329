"""A critic of few-step pictures: where the truth is not decided, a squared error asks for a blur, a critic
for one of the sharp ones.

What lightning distillations do (SDXL-Lightning, arXiv 2402.13929; LADD, arXiv 2403.12015): the critic looks
at latents, so nothing is decoded, and knows the conditions that decide a picture, here the skeleton and the
appearance map. It lives in training only, and a run leaves it beside its export, for another that goes on:
with a new critic the other losses blur what was sharp until it has learnt (docs/LOG.md). The stage `critic`
(critic_stage.py) teaches one ahead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.func import functional_call

from bolid.adapter import AdapterInputs, BoLIDAdapter

SHAKE = 0.1  # deviation of the noise under which a verdict must not change, in those of the latents
SHAKE_WEIGHT = 0.3  # of the squared change over SHAKE


class Critic(ModelMixin, ConfigMixin):
    """L_critic and L_adversarial of one batch.

    Args:
        latent_channels: of the latents.
        fold: pixels of a skeleton map to a latent pixel, each way.
        widths: channels at the latents' size, its half, its quarter and so on.
        gain: of the verdicts: the critic learns at the model's rate, which is a rate for fine-tuning.
    """

    config: Any  # made by ConfigMixin from the arguments
    config_name = "config.json"

    @register_to_config
    def __init__(
        self, latent_channels: int, fold: int, widths: tuple[int, ...] = (64, 96, 128), gain: float = 8.0
    ) -> None:
        super().__init__()
        self.gain, first = gain, widths[0]
        self.skeleton_in = nn.Sequential(nn.PixelUnshuffle(fold), nn.Conv2d(3 * fold**2, first, 1))
        self.latents_in = nn.Conv2d(2 * latent_channels + 1, first, 3, padding=1)
        self.stages = nn.ModuleList(_Stage(width) for width in widths)
        self.narrow = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in pairwise(widths))
        self.verdicts = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths)

    @classmethod
    def for_adapter(cls, adapter: BoLIDAdapter) -> Self:
        """A new one, for the latents and skeleton maps of this adapter."""
        config = adapter.body_net.config
        return cls(latent_channels=config.latent_channels, fold=config.fold)

    @classmethod
    def open(cls, folder: str, adapter: BoLIDAdapter) -> Self:
        """The trained one in a folder or in its sub-folder `critic`, float32.

        Raises ValueError when there is none, or it was made for other latents.
        """
        place = _place(cls, folder)
        critic = cls.from_pretrained(place, torch_dtype=torch.float32)
        made_for = (critic.config.latent_channels, critic.config.fold)
        wanted = (adapter.body_net.config.latent_channels, adapter.body_net.config.fold)
        if made_for != wanted:
            raise ValueError(
                f"{place} was made for latents and a fold of {made_for}, this base has {wanted}: "
                "give one that was trained on this base, or leave objective.critic out for a new one."
            )
        return critic

    def forward(self, x0: Tensor, inputs: AdapterInputs) -> list[Tensor]:
        """Latents [B, C, h, w] -> verdicts [B, 1, h, w], also at half and quarter size; higher: truer."""
        assert inputs.skeleton is not None
        assert inputs.appearance is not None
        shown = self.latents_in(torch.cat([x0, inputs.appearance.to(x0.dtype)], 1))
        hidden = shown + self.skeleton_in(inputs.skeleton.to(x0.dtype))
        return verdicts(self, hidden)

    def losses(self, x0: Tensor, truth: Tensor, inputs: AdapterInputs, noise: Tensor) -> dict[str, Tensor]:
        """{"critic": what the critic learns from, "adversarial": what x0 learns from}, each [B].

        The verdict on x0 is held against the verdict on the same row's truth (relativistic: arXiv 1807.00734,
        2501.05441). Verdicts must not change under a little noise, which stands for a penalty on their
        gradient (arXiv 2501.08316). x0, truth: [B, C, h, w] of the model and true; noise: normal, like them.
        """
        return relativistic(self, x0, truth, noise, lambda times: repeat(inputs, times))


class PictureCritic(ModelMixin, ConfigMixin):
    """A critic of pictures beside their appearance map, for `DetailNet`: its losses are `Critic`'s.

    Args:
        widths: channels at 1/2, 1/4, 1/8, ... of the pictures' size.
        gain: as of `Critic`.
    """

    config: Any  # made by ConfigMixin from the arguments
    config_name = "config.json"

    @register_to_config
    def __init__(self, widths: tuple[int, ...] = (32, 48, 64), gain: float = 8.0) -> None:
        super().__init__()
        self.gain = gain
        self.enter = nn.Conv2d(4 * 7, widths[0], 3, padding=1)
        self.stages = nn.ModuleList(_Stage(width) for width in widths)
        self.narrow = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in pairwise(widths))
        self.verdicts = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths)

    @classmethod
    def open(cls, folder: str) -> Self:
        """The trained one in a folder or in its sub-folder `critic`, float32. Raises ValueError for none."""
        return cls.from_pretrained(_place(cls, folder), torch_dtype=torch.float32)

    def forward(self, picture: Tensor, appearance: Tensor) -> list[Tensor]:
        """Pictures [B, 3, H, W], maps [B, 4, H, W] -> verdicts [B, 1, h, w] at 1/2, 1/4, ... of the size."""
        seen = torch.cat([picture, appearance.to(picture.dtype)], 1)
        return verdicts(self, self.enter(F.pixel_unshuffle(seen, 2)))

    def losses(self, picture: Tensor, truth: Tensor, appearance: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """As `Critic.losses`, of pictures."""
        return relativistic(self, picture, truth, noise, lambda times: appearance.repeat(times, 1, 1, 1))


def _place(kind: type, folder: str) -> Path:
    """Where the critic of that kind lies. Raises ValueError when there is none."""
    place = Path(folder) / "critic" if (Path(folder) / "critic").is_dir() else Path(folder)
    config = place / "config.json"
    if not config.is_file() or json.loads(config.read_text()).get("_class_name") != kind.__name__:
        raise ValueError(
            f"objective.critic={folder!r} holds no {kind.__name__}: give the output_dir of a run with "
            "objective.weights.adversarial, or the export of stage=critic; without it a new one learns."
        )
    return place


def verdicts(critic: Any, hidden: Tensor) -> list[Tensor]:
    """Of every stage of a critic, [B, 1, h, w]: each half the size of the one before, rounded up."""
    found = []
    for level, (stage, verdict) in enumerate(zip(critic.stages, critic.verdicts, strict=True)):
        if level:
            odd = (0, hidden.shape[-1] % 2, 0, hidden.shape[-2] % 2)
            hidden = critic.narrow[level - 1](F.pixel_unshuffle(F.pad(hidden, odd), 2))
        hidden = stage(hidden)
        found.append(critic.gain * verdict(F.silu(hidden)))
    return found


def relativistic(
    critic: nn.Module, x0: Tensor, truth: Tensor, noise: Tensor, given: Callable[[int], Any]
) -> dict[str, Tensor]:
    """{"critic", "adversarial"}, each [B]: see `Critic.losses`.

    given: the rows' conditions, so many times one after the other.
    """
    own, noise = x0.detach(), SHAKE * noise
    told = critic(torch.cat([truth, own, truth + noise, own + noise]), given(4))
    true, own, *shaken = zip(*(verdict.chunk(4) for verdict in told), strict=True)
    change = mean([(a - b) ** 2 for a, b in zip((*true, *own), (*shaken[0], *shaken[1]), strict=True)])
    judged = mean([F.softplus(b - a) for a, b in zip(true, own, strict=True)])
    frozen = {name: value.detach() for name, value in critic.named_parameters()}
    seen = functional_call(critic, frozen, (x0, given(1)))
    return {
        "critic": judged + SHAKE_WEIGHT / SHAKE**2 * change,
        "adversarial": mean([F.softplus(a.detach() - b) for a, b in zip(true, seen, strict=True)]),
    }


class _Stage(nn.Module):
    """x + conv(silu(conv(silu(x)))), without normalisation: a critic must see contrast."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


def repeat(inputs: AdapterInputs, times: int) -> AdapterInputs:
    """All rows, `times` times one after the other."""
    assert inputs.skeleton is not None
    return inputs[torch.arange(len(inputs.skeleton), device=inputs.skeleton.device).repeat(times)]


def mean(levels: Sequence[Tensor]) -> Tensor:
    """Of verdicts [B, 1, h, w] of several sizes, each size counting alike: [B], float32."""
    return torch.stack([level.float().mean((1, 2, 3)) for level in levels]).mean(0)
