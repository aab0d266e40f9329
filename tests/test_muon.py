"""Muon: directions made equal, AdamW for what is no matrix, state that survives a checkpoint."""

import copy

import pytest
import torch
from torch import nn

from bolid.training.muon import AS_ADAMW, Muon, orthogonalised


@pytest.mark.parametrize("shape", [(3, 24, 40), (2, 40, 24), (1, 32, 32)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    spread = torch.linspace(0.05, 1, shape[-1])  # columns of very different size
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape) * spread))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_a_step_is_as_large_as_adamws_and_the_same_for_a_kernel_and_its_matrix() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(32, 8, 3, 3))
    matrix = nn.Parameter(kernel.detach().reshape(32, 72).clone())
    gradient = torch.randn(32, 8, 3, 3)
    kernel.grad, matrix.grad = gradient, gradient.reshape(32, 72)
    before = kernel.detach().clone()
    for weight in (kernel, matrix):
        Muon([weight], lr=1e-2, weight_decay=0.0).step()
    torch.testing.assert_close(kernel.reshape(32, 72), matrix)
    size = float((kernel.detach() - before).square().mean().sqrt())
    assert size == pytest.approx(1e-2 * AS_ADAMW, rel=0.25)


def test_what_is_no_matrix_takes_adamws_steps() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(24)), nn.Parameter(torch.randn(4, 64))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    settings = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    optimizers = Muon(ours, **settings), torch.optim.AdamW(theirs, **settings)
    for _ in range(5):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.randn_like(own)
            other.grad = own.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_it_goes_on_from_a_saved_state_bit_by_bit() -> None:
    def steps(model: nn.Module, optimizer: Muon, seeds: range) -> None:
        for seed in seeds:
            x = torch.randn(8, 16, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 16))
    optimizer = Muon(model.parameters(), lr=1e-2)
    steps(model, optimizer, range(3))
    other = copy.deepcopy(model)
    resumed = Muon(other.parameters(), lr=1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(model, optimizer, range(3, 6))
    steps(other, resumed, range(3, 6))
    torch.testing.assert_close(list(model.parameters()), list(other.parameters()), rtol=0, atol=0)
