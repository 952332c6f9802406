"""Matrix products of compiled code against numpy's."""

import numpy as np
import pytest

from robust_npe.estimators.products import LANES, add_outer_products, add_product, close

SHAPES = [(1, 1), (2, 0), (3, 5), (7, 4), (10, 9), (13, 20)]


def numbers(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize(("height", "depth"), SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_product(height, depth, transposed):
    guarded = numbers(height + 2, 2 * LANES)
    weights = numbers(30, 30)[3 : 3 + depth, 1 : 1 + height].T
    weights = weights if transposed else weights.copy()
    below = numbers(depth + 3, 2 * LANES, seed=1)
    expected = guarded.copy()
    expected[1:-1] += weights @ below[:depth]
    add_product(guarded[1:-1], weights, below)
    np.testing.assert_allclose(guarded, expected, rtol=1e-12, atol=1e-12)


def test_product_in_single_precision():
    out, weights, below = (
        numbers(*shape, dtype=np.float32) for shape in ((9, 64), (9, 30), (30, 64))
    )
    expected = out + weights @ below
    add_product(out, weights, below)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("height", "depth"), SHAPES)
def test_outer_products_touch_only_what_is_kept(height, depth):
    a, c = numbers(2, height, 2 * LANES)
    b, d = numbers(2, depth + 2, 2 * LANES, seed=1)
    kept = np.sort(np.random.default_rng(2).integers(0, depth + 1, height))
    out = numbers(height, depth)
    expected = out + (a @ b[:depth].T + c @ d[:depth].T) * (np.arange(depth) < kept[:, None])
    add_outer_products(out, kept, a, b, c, d)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)


def test_close():
    out, gate = numbers(3, LANES), numbers(3, LANES, seed=1)
    gate[0, :3] = 0.0, -0.0, np.nan
    expected = np.where(gate <= 0, 0.0, out)
    close(out, gate)
    np.testing.assert_array_equal(out, expected)
    close(gate, gate)
    assert np.nanmin(gate) == 0
    assert np.isnan(gate[0, 2])
