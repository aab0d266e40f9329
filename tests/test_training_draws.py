"""Draws: a row's numbers don't depend on the split of the global batch; names, rows and steps are
independent."""

import numpy as np
import pytest
import torch

from bolid.training.draws import Draws, step_draws


def gathered(name: str, processes: int, micro_batches: int, total: int = 12) -> torch.Tensor:
    """The normals of a whole step, put together from its pieces, in the order of the global batch."""
    found = torch.full((total, 3), torch.nan)
    for rank in range(processes):
        for micro_batch in range(micro_batches):
            draws = step_draws(
                5,
                7,
                total // processes // micro_batches,
                micro_batch=micro_batch,
                micro_batches=micro_batches,
                rank=rank,
                processes=processes,
            )
            assert draws.total == total
            found[torch.as_tensor(draws.rows)] = draws.normal(name, 3)
    return found


@pytest.mark.parametrize(("processes", "micro_batches"), [(2, 1), (1, 3), (2, 3), (4, 1)])
def test_numbers_do_not_depend_on_processes_and_micro_batches(processes, micro_batches):
    assert torch.equal(gathered("noise", processes, micro_batches), gathered("noise", 1, 1))


def test_a_micro_batch_is_one_stretch_of_the_global_batch():
    rows = [
        step_draws(0, 0, 3, micro_batch=1, micro_batches=2, rank=r, processes=2).rows.tolist() for r in (0, 1)
    ]
    assert sorted(rows[0] + rows[1]) == [6, 7, 8, 9, 10, 11]


def test_names_rows_steps_and_seeds_are_independent():
    def one(seed: int, step: int, name: str) -> torch.Tensor:
        return step_draws(seed, step, 2000).normal(name)

    kinds = [one(0, 0, "a"), one(0, 0, "b"), one(0, 1, "a"), one(1, 0, "a"), one(0, 0, "a").roll(1)]
    correlation = torch.corrcoef(torch.stack(kinds)) - torch.eye(len(kinds))
    assert correlation.abs().max() < 0.1  # deviation 1 / sqrt(2000) = 0.022 when independent
    assert torch.equal(one(0, 0, "a"), kinds[0])


def test_distributions_and_ranges():
    draws = step_draws(3, 1, 4000)
    uniform, normal, integers = draws.uniform("u"), draws.normal("n"), draws.integers("i", 5)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    torch.testing.assert_close(uniform.mean(), torch.tensor(0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(normal.std(), torch.tensor(1.0), atol=0.05, rtol=0)
    assert integers.dtype == torch.int64
    assert torch.bincount(integers, minlength=5).min() > 700
    assert len(torch.bincount(integers)) == 5


def test_no_rows_give_empty_numbers():
    draws = Draws(0, 0, np.arange(0), 4, torch.device("cpu"))
    assert draws.uniform("u", 2).shape == (0, 2)
    assert draws.integers("i", 3).dtype == torch.int64


def test_mean_is_weighted_and_keeps_gradients():
    draws = step_draws(0, 0, 3)
    values = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    assert draws.mean(values) == 3
    weighted = draws.mean(values, torch.tensor([1.0, 1.0, 0.0]))
    assert weighted == 1.5
    weighted.backward()
    torch.testing.assert_close(values.grad, torch.tensor([0.5, 0.5, 0.0]))
    nothing = draws.mean(values, torch.zeros(3))
    assert nothing == 0
    nothing.backward()  # no not-a-number reaches the weights
    assert torch.isfinite(values.grad).all()
