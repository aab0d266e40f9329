"""Muon: steps along orthogonalised momentum for weight matrices, AdamW's steps for everything else.

Facts: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024) for the momentum and
the quintic Newton-Schulz iteration with its coefficients; Liu et al., "Muon is scalable for LLM training"
(2025) for the factor 0.2 · √max(rows, columns), which gives a step the size of AdamW's, so that one learning
rate serves both. torch.optim.Muon takes matrices only; a convolution's kernel [O, I, kh, kw] is one too,
[O, I · kh · kw].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from bolid.training.precision import matrix_dtype

SMALLEST_SIDE = 16  # of a matrix: a thinner one has too few directions to make equal
AS_ADAMW = 0.2  # root mean square of AdamW's steps, in learning rates
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic: they bring singular values near 1, not to it


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Matrices [N, r, c] with their singular values brought near 1 (about 0.7 to 1.2), float32.

    A Newton-Schulz iteration in bfloat16 (float32 where that is emulated), on the shorter side.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(matrix_dtype(matrices.device))
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return (x.mT if tall else x).float()


def as_matrix(weight: Tensor) -> tuple[int, int]:
    """Rows and columns of a weight seen as a matrix: its first dimension, and all the others."""
    return weight.shape[0], weight[0].numel()


class Muon(torch.optim.Optimizer):
    """Muon for weights that are matrices of at least `SMALLEST_SIDE` each way, AdamW for the rest.

    Args:
        lr: of both; AdamW's usual one.
        betas, eps: of AdamW.
        momentum: of Muon, with Nesterov's look ahead.
        weight_decay: decoupled, of both.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        parameters = list(parameters)
        is_matrix = [p.ndim > 1 and min(as_matrix(p)) >= SMALLEST_SIDE for p in parameters]
        groups: list[dict[str, Any]] = [
            {"params": [p for p, yes in zip(parameters, is_matrix, strict=True) if yes == matrices],
             "matrices": matrices}
            for matrices in (True, False)
        ]  # fmt: skip
        common = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__([group for group in groups if group["params"]], common)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; weights without a gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            if group["matrices"]:
                self._step_matrices(weights, group)
            else:
                self._step_adamw(weights, group)
        return loss

    def _step_matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[Tensor]] = {}
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
            alike.setdefault(as_matrix(weight), []).append(weight)
        for shape, same in alike.items():  # matrices of one shape go through the iteration together
            gradients = torch.stack([cast(Tensor, weight.grad).reshape(shape) for weight in same])
            momenta = torch.stack([self.state[weight]["momentum"].reshape(shape) for weight in same])
            steps = orthogonalised(gradients.lerp(momenta, group["momentum"]))
            scale = group["lr"] * AS_ADAMW * max(shape) ** 0.5
            for weight, step in zip(same, steps, strict=True):
                weight.sub_(step.reshape(weight.shape), alpha=scale)

    def _step_adamw(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["step"] = torch.zeros(())
                state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
            state["step"] += 1
            count = float(state["step"])
            state["mean"].lerp_(weight.grad, 1 - beta1)
            state["square"].mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
            spread = (state["square"] / (1 - beta2**count)).sqrt_().add_(group["eps"])
            weight.addcdiv_(state["mean"] / (1 - beta1**count), spread, value=-group["lr"])
