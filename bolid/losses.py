"""The training losses, one pure function per equation: tensors in, one value per row out.

Every loss is float32 [B], exactly 0 where generated and target agree, and 0 rather than NaN where nothing can
be seen. Rows that should not count are multiplied by 0; only `total` averages over rows, always over all of
them, so that processes with equal shares of a batch together give the loss of the whole batch.

Key-points are [B, J, 3]: x, y in [0, 1] by width and height, and the visibility (0 hidden, 1 seen; a
detector's confidence does as well). `size` is (height, width) in any unit that has square cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .estimator import local_soft_argmax
from .pose import BODY12

Form = Literal["huber", "square"]
JOINTS12: Mapping[int, tuple[int, ...]] = {18: BODY12, 17: tuple(range(5, 17)), 12: tuple(range(12))}
VISIBLE = 0.5  # a joint counts above it: 0.5 itself is "hidden but its place is known"
THIN = 0.25  # least ratio of the box's sides: a person seen edge-on has a line for a box, and a line no area
SMOOTH = 1 / 255  # half a step of an 8-bit colour, pictures spanning 2
SMALLEST = 0.05  # least √area of a box, as a share of the picture's: one lone joint would have none


@dataclass(frozen=True)
class LossWeights:
    """The λ of each loss; 0 leaves it out and loads nothing for it. The source has 1 for the first three."""

    rec: float = 1.0  # Eq. 2
    id: float = 0.0  # Eq. 3
    clip: float = 0.0  # Eq. 4
    heatmap: float = 0.0  # beside Eq. 3: pulls joints that are too far off for it
    appearance: float = 0.0  # cosine of body embeddings
    semantic: float = 0.0  # PuLID's alignment; 0.6 there
    layout: float = 0.0  # the same; 0.1 there
    picture: float = 0.0  # colours and edges of the decoded x0
    perceptual: float = 0.0  # the same picture's features in a network that knows appearances
    details: float = 0.0  # the same in a network that names attributes: upright crops at full resolution
    answers: float = 0.0  # what that network names in the same picture
    draft: float = 0.0  # x0 as BodyNet's features alone tell it
    adversarial: float = 0.0  # few-step x0 against a critic that learns beside it


def total(losses: Mapping[str, Tensor], weights: LossWeights) -> Tensor:
    """[Eq. 1] L = λ_rec L_rec + λ_id L_id + λ_clip L_clip, and λ times each further loss; a scalar.

    losses: by the names of LossWeights, [B] (rows are averaged here) or scalar; those of a branch that did
    not run are left out, those with λ = 0 are not looked at. Raises ValueError if one has no λ, or all are 0.
    """
    known = [field.name for field in fields(weights)]
    if unknown := sorted(set(losses) - set(known)):
        raise ValueError(f"There is no weight for the loss {unknown[0]!r}: use one of {', '.join(known)}.")
    terms = [getattr(weights, name) * loss.mean() for name, loss in losses.items() if getattr(weights, name)]
    if not terms:
        raise ValueError(f"Every loss of {sorted(losses)} has weight 0: give at least one a weight.")
    return torch.stack(terms).sum()


def reconstruction_loss(
    prediction: Tensor, target: Tensor, alphas: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """[Eq. 2] L_rec = mean over C, h, w of weight · (ε − ε_θ)².

    With `alphas` the two are v instead of ε, and the error is still that of ε: ε − ε̂ = √ᾱ_t (v − v̂).

    Args:
        prediction, target: [B, C, h, w], both ε or both v.
        alphas: ᾱ_t [B] of v-prediction; None for ε (or for the plain error of v, with `snr_weight`).
        weight: broadcastable to [B, C, h, w], such as `keypoint_weights`.
    """
    error = (prediction.float() - target.float()).square()
    if alphas is not None:
        error = error * alphas.float().view(-1, 1, 1, 1)
    return (error if weight is None else error * weight).mean((1, 2, 3))


def picture_loss(picture: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Mean over pixels of weight · (‖colour − its truth‖ + ‖the same of both neighbours' differences‖).

    Norms over RGB, not their squares: where two sharp pictures are possible the median is one of them, while
    the mean is a blur. The differences are what a blur loses.

    Args:
        picture, truth: [B, 3, H, W], in [-1, 1].
        weight: [B, 1, H, W], of mean 1.
    """
    error, weight = picture.float() - truth.float(), weight[:, 0]
    across, down = error.diff(dim=-1), error.diff(dim=-2)
    return (
        (weight * _norms(error)).mean((1, 2))
        + (weight[..., 1:] * _norms(across)).mean((1, 2))
        + (weight[..., 1:, :] * _norms(down)).mean((1, 2))
    )


def perceptual_loss(picture: Sequence[Tensor], truth: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Sum over feature maps of the mean over places of weight · ‖f/‖f‖ − g/‖g‖‖²: [B].

    LPIPS (Zhang et al. 2018) without learnt weights of channels. A blur has features of its own, so it costs
    more here than in colours.

    Args:
        picture, truth: maps [B, C, h, w] of a network.
        weights: of each map's places, [B, 1, h, w], of mean about 1.
    """
    found = []
    for f, g, weight in zip(picture, truth, weights, strict=True):
        apart = (F.normalize(f.float(), dim=1) - F.normalize(g.float(), dim=1)).square()
        found.append((weight * apart.sum(1, keepdim=True)).mean((1, 2, 3)))
    return torch.stack(found).sum(0)


def answer_loss(answers: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """Mean over attributes of KL(truth's answer ‖ the picture's): [B].

    Where the truth leaves no doubt this is the cross-entropy of its value; 0 where both leave the same doubt.

    Args:
        answers, truth: logits [B, values] of each attribute, of the same network.
    """
    found = [
        F.kl_div(one.float().log_softmax(1), other.float().log_softmax(1), log_target=True, reduction="none")
        for one, other in zip(answers, truth, strict=True)
    ]
    return torch.stack([each.sum(1) for each in found]).mean(0)


def _norms(error: Tensor) -> Tensor:
    """Lengths [B, H, W] of the vectors along axis 1; smooth at 0, to the precision of 8 bits."""
    return (error.square().sum(1) + SMOOTH**2).sqrt() - SMOOTH


def snr_weight(alphas: Tensor, gamma: float, prediction: str = "v_prediction") -> Tensor:
    """Weight [B] of the squared error of v or of ε at ᾱ_t [B] (0 is pure noise).

    For v min(SNR + 1, γ)/(SNR + 1). On Eq. 2 that is min(SNR + 1, γ)/SNR, since ε − ε̂ = √ᾱ_t (v − v̂).
    Min-SNR's own min(SNR, γ)/(SNR + 1) would give no weight to pure noise, where a schedule with zero
    terminal SNR starts every picture. For ε, whose schedules end before that, Min-SNR's min(SNR, γ)/SNR.
    """
    snr = alphas / (1 - alphas)
    if prediction == "epsilon":
        return snr.clamp(max=gamma) / snr
    return (snr + 1).clamp(max=gamma) / (snr + 1)


def body12(points: Tensor) -> Tensor:
    """The 12 joints of Eq. 3 (COCO 5-16) of [B, J, ...]: J = 18 is OpenPose's order, 17 COCO's, 12 these."""
    if points.shape[1] not in JOINTS12:
        raise ValueError(f"{points.shape[1]} joints: 18 (OpenPose), 17 (COCO) or these 12 are needed.")
    return points[:, JOINTS12[points.shape[1]]]


def joint_weights(target: Tensor, confidence: Tensor | None = None) -> Tensor:
    """How much each joint of a target [B, J, 3] counts, [B, J], without gradient: 0 hidden or out of frame.

    confidence: [B, J] in [0, 1], what the pose network thinks of the **target** picture. Never the generated
    picture's: hiding a joint must not pay.
    """
    visibility = target[..., 2].float()
    inside = ((target[..., :2] >= 0) & (target[..., :2] <= 1)).all(-1)  # False for NaN as well
    weight = torch.where(inside & (visibility > VISIBLE), visibility, 0.0)
    return (weight if confidence is None else weight * confidence).detach()


def person_scale(target: Tensor, size: tuple[int, int]) -> Tensor:
    """√(area) [B] of the box around every known joint of a target [B, J, 3], in the unit of `size`.

    Known is what is not exactly (0, 0): hidden joints too, so that a back view is as large as a front view.
    """
    points = target[..., :2].detach().float()
    known = (points.isfinite().all(-1) & (points != 0).any(-1))[..., None]
    points = points * points.new_tensor((size[1], size[0]))
    low, high = torch.where(known, points, torch.inf).amin(1), torch.where(known, points, -torch.inf).amax(1)
    extent = torch.where(known.any(1), high - low, 0.0)  # [B, 2]
    extent = torch.maximum(extent, THIN * extent.amax(-1, keepdim=True))
    return extent.prod(-1).sqrt().clamp_min(SMALLEST * (size[0] * size[1]) ** 0.5)


def soft_argmax(heatmaps: Tensor, beta: float, radius: int | None = 3) -> Tensor:
    """Places [B, J, 2] of the peaks of heat-maps [B, J, h, w], x and y in [0, 1], differentiable.

    Mean place under softmax(β · h) inside a window of ±radius cells around the detached argmax (None: all).
    β is 1 for logits (PersonEstimator) and 10 for regressed Gaussians (ViTPose): of a bump of σ = 2 cells
    that is right to 0.006 cells; 50 snaps to cells (0.3), and without a window even 10 misses by one.
    """
    reach = max(heatmaps.shape[-2:]) if radius is None else radius
    return local_soft_argmax(beta * heatmaps.float(), reach)[0]


def keypoint_loss(
    generated: Tensor,
    target: Tensor,
    size: tuple[int, int],
    confidence: Tensor | None = None,
    form: Form = "huber",
    delta: float = 0.1,
) -> Tensor:
    """[Eq. 3] L_id = Σ_{k=1..12} w_k · ρ(‖p_gen,k − p_ref,k‖ / scale), over the joint axis.

    "square" is the source's ρ(d) = d². "huber", the default, is the same up to d = delta and goes on as the
    straight line 2·delta·d − delta²: one joint that is far off does not rule the step.

    Args:
        generated: [B, J, 2 or more], from `soft_argmax` or a network's own read-out; J as for `body12`.
        target: [B, J', 3], the target pose's; w is `joint_weights`, scale is `person_scale` of all J' joints.
        confidence: [B, J'], the pose network's on the target picture.
    """
    weight = body12(joint_weights(target, confidence))
    size_xy = target.new_tensor((size[1], size[0])).float() / person_scale(target, size)[:, None, None]
    offset = (body12(generated)[..., :2].float() - body12(target)[..., :2].detach().float()) * size_xy
    squared = torch.where(weight[..., None] > 0, offset, 0.0).square().sum(-1)  # [B, 12]
    if form == "huber":
        line = 2 * delta * squared.clamp_min(delta**2).sqrt() - delta**2  # clamped: √ has no slope at 0
        squared = torch.where(squared <= delta**2, squared, line)
    return (weight * squared).sum(-1)


def heatmap_loss(generated: Tensor, reference: Tensor, weight: Tensor, logits: bool = True) -> Tensor:
    """Mean over the 12 joints of w_k · KL(reference ‖ softmax(generated)), or of their relative square error.

    Beside Eq. 3: the window of `soft_argmax` sees nothing of a joint that belongs elsewhere; this does.
    generated: [B, J, h, w], logits (PersonEstimator) or, with logits=False, regressed maps (ViTPose);
    reference: the same shape, ≥ 0, such as `bumps` of the target; weight: [B, J], `joint_weights`.
    """
    given, wanted = body12(generated).flatten(2).float(), body12(reference).detach().flatten(2).float()
    if logits:
        wanted = wanted / wanted.sum(-1, keepdim=True).clamp_min(1e-12)
        error = torch.xlogy(wanted, wanted).sum(-1) - (wanted * given.log_softmax(-1)).sum(-1)
    else:
        error = (given - wanted).square().sum(-1) / wanted.square().sum(-1).clamp_min(1e-12)
    weight = body12(weight)
    return (weight * torch.where(weight > 0, error, 0.0)).mean(-1)


def bumps(target: Tensor, size: tuple[int, int], sigma: Tensor) -> Tensor:
    """exp(−d²/2σ²) around every joint of [B, J, 2 or more] → [B, J, h, w] at `size`; sigma [B] in cells."""
    centre = target[..., :2].float().nan_to_num() * target.new_tensor((size[1], size[0])).float() - 0.5
    x, y = (torch.arange(side, device=target.device) for side in (size[1], size[0]))
    across = (x - centre[..., :1]).square()[:, :, None]  # [B, J, 1, w]
    down = (y - centre[..., 1:]).square()[..., None]  # [B, J, h, 1]
    return torch.exp(-(across + down) / (2 * sigma.view(-1, 1, 1, 1) ** 2))


def keypoint_weights(target: Tensor, size: tuple[int, int], gain: float = 4, spread: float = 0.08) -> Tensor:
    """Weight of Eq. 2 for each latent pixel, [B, 1, h, w] with mean 1 per row: 1 + gain · (highest bump).

    Bumps stand at the visible joints of target [B, J, 3], times their `joint_weights`. size: (h, w) of the
    latents; spread: σ as a share of the person's scale, at least 0.7 latent pixels: none falls between.
    """
    sigma = (spread * person_scale(target, size)).clamp_min(0.7)
    peaks = bumps(target, size, sigma) * joint_weights(target)[..., None, None]
    weight = 1 + gain * peaks.amax(1, keepdim=True)
    return weight / weight.mean((2, 3), keepdim=True)


def clip_loss(picture: Tensor, text: Tensor) -> Tensor:
    """[Eq. 4] L_clip = 1 − cos(CLIP(x_gen), CLIP(τ)), over the last axis; embeddings [B, E], any length."""
    return _cosine_distance(picture, text)


def appearance_loss(generated: Tensor, reference: Tensor, margin: float = 0.0) -> Tensor:
    """max(0, 1 − cos(generated, reference) − margin), body embeddings [B, E]; no gradient to the reference.

    The hinge stops the reward where two pictures of one person are as far apart: beyond, it would be hacked.
    """
    return (_cosine_distance(generated, reference.detach()) - margin).clamp_min(0)


def _cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 − cos as ½‖â − b̂‖²: the same number, but exactly 0 at equality and never below."""
    return (F.normalize(a.float(), dim=-1) - F.normalize(b.float(), dim=-1)).square().sum(-1) / 2


def semantic_alignment(query_id: Tensor, query: Tensor, keys: Tensor) -> Tensor:
    """PuLID's L_sem: mean square of softmax(K Q_idᵀ/√d) Q_id − softmax(K Qᵀ/√d) Q, softmax over pixels.

    What the text gathers from the picture must not change by the identity. query_id, query: [B, heads, HW, d]
    with and without identity; keys: the text's [B, heads, T, d]. Gradients reach query_id alone.
    """
    keys = keys.detach().float() * keys.shape[-1] ** -0.5

    def gathered(queries: Tensor) -> Tensor:
        return (keys @ queries.transpose(-1, -2)).softmax(-1) @ queries  # [B, heads, T, d]

    return (gathered(query_id.float()) - gathered(query.detach().float())).square().mean((1, 2, 3))


def layout_alignment(query_id: Tensor, query: Tensor) -> Tensor:
    """PuLID's L_layout: mean square of Q_id − Q, [B, heads, HW, d] each; gradients reach Q_id alone."""
    return (query_id.float() - query.detach().float()).square().mean((1, 2, 3))


def alignment_losses(
    with_identity: Sequence[Mapping[str, Tensor]],
    without: Sequence[Mapping[str, Tensor]],
    keys: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """{"semantic", "layout"}: means of the two above over steps and layers, of `lightning.Generated.queries`
    of the same noise and text; keys: `lightning.text_keys`.
    """
    semantic, layout = [], []
    for step_id, step in zip(with_identity, without, strict=True):
        for name, query_id in step_id.items():
            semantic.append(semantic_alignment(query_id, step[name], keys[name]))
            layout.append(layout_alignment(query_id, step[name]))
    if not layout:
        raise ValueError("No queries were recorded: run the lightning branch with record=layer names.")
    return {"semantic": torch.stack(semantic).mean(0), "layout": torch.stack(layout).mean(0)}
