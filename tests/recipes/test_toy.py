from __future__ import annotations

import math

import numpy as np
import torch
from torch.distributions import Independent, Normal

from robust_npe.recipes.toy import density_and_information, toy_table


def test_density_and_information_of_a_gaussian():
    def posterior(x):
        return Independent(Normal(x.square(), 0.5 * torch.ones_like(x)), 1)

    x, theta = torch.linspace(-1, 1, 5)[:, None], torch.linspace(-5, 5, 1001)
    density, information = density_and_information(posterior, x, theta)
    z = (theta - x**2) / 0.5
    torch.testing.assert_close(density, torch.exp(-0.5 * z**2) / (0.5 * math.sqrt(2 * math.pi)))
    torch.testing.assert_close(information, (2 * x[:, 0] / 0.5) ** 2)


def test_the_truth_is_in_the_table():
    table = toy_table([], num_x=5)
    assert set(table.defense) == {"truth"}
    grid = table[table.what == "density"].pivot_table(index="theta", columns="x", values="value")
    np.testing.assert_allclose(np.trapezoid(grid, grid.index, axis=0), 1, rtol=2e-3)
    x = 10.0
    means = -5 * math.exp(-0.1 * 64) - 1, 5 * math.exp(-0.1 * 25) + 1
    parts = [np.exp(-0.5 * (grid.index - m) ** 2) / math.sqrt(2 * math.pi) for m in means]
    expected = 0.65 * parts[0] + 0.35 * parts[1]
    np.testing.assert_allclose(grid[x], expected, rtol=1e-3, atol=1e-3)
