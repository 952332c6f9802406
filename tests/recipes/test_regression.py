from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.optimize import minimize

from robust_npe.checks import ConfigError
from robust_npe.recipes import FigureScript
from robust_npe.recipes.regression import PRIOR, SIGMA, bumps, fim_ridge, ridge_table


def data(count=12):
    generator = np.random.default_rng(0)
    x = generator.normal(size=count)
    return x, np.sin(x) + 0.1 * generator.normal(size=count)


def objective(w, x, y, beta):
    """Mean of -log q + beta I_x as defined, with slopes by central differences, and the prior."""
    step = 1e-4
    slope = (bumps(x + step)[0] - bumps(x - step)[0]) @ w / (2 * step)
    error = y - bumps(x)[0] @ w
    loss = (error**2 / (2 * SIGMA**2) + beta * (slope / SIGMA) ** 2).mean()
    return loss + PRIOR * (w @ w) / (2 * SIGMA**2 * len(x))


@pytest.mark.parametrize("beta", [0.0, 0.1, 10.0])
def test_the_closed_form_is_the_numerical_minimum(beta):
    x, y = data()
    w = fim_ridge(x, y, beta)
    best = objective(w, x, y, beta)
    # in the span of what the data see, where all minima are, as weights would be too many
    phi, slope = bumps(x)
    basis = np.linalg.qr(np.concatenate((phi, slope)).T)[0]
    found = minimize(lambda v: objective(basis @ v, x, y, beta), np.zeros(basis.shape[1]))
    assert best <= found.fun * (1 + 1e-5)
    assert found.fun == pytest.approx(best, rel=1e-3)
    np.testing.assert_allclose(phi @ basis @ found.x, phi @ w, atol=0.02)


def test_the_information_in_the_table_is_the_squared_slope_of_the_fit():
    table = ridge_table([0.0, 1.0])
    fit, information = (
        table[(table.what == w) & (table.beta == 1)] for w in ("fit", "information")
    )
    slope = np.gradient(fit.value.to_numpy(), fit.x.to_numpy())
    np.testing.assert_allclose(information.value, (slope / SIGMA) ** 2, rtol=0.1, atol=2)
    assert len(table[table.what == "data"]) == 40
    at_data = {
        beta: np.interp(
            table[table.what == "data"].x,
            rows.x,
            rows.value,
        ).mean()
        for beta, rows in table[table.what == "information"].groupby("beta")
    }
    assert at_data[1.0] < 0.2 * at_data[0.0]


def test_wrong_weights_are_refused():
    with pytest.raises(ConfigError, match="beta"):
        fim_ridge(*data(), -1.0)


@pytest.mark.parametrize(
    ("scale", "output", "seeds", "name"),
    [("papr", "out", None, "scale"), ("smoke", "out", 0, "seeds"), ("smoke", "ü", None, "output")],
)
def test_a_figure_without_a_recipe_checks_its_options(scale, output, seeds, name, tmp_path):
    script = FigureScript("ridge", lambda _: Figure(), gather=lambda _: {})
    with pytest.raises(ConfigError, match=rf"^{name}="):
        script.make(scale, tmp_path / output, seeds=seeds)
    assert not list(tmp_path.iterdir())
