"""What the contract tests of estimators share; no tests here."""

from __future__ import annotations

import pytest
import torch

from robust_npe.estimators import FMPE, Estimator
from robust_npe.random import draws_from, stream
from tests.helpers import (
    SUPPORTS,
    conf_names,
    connect_directly,
    from_conf,
    make_estimator,
)

ESTIMATORS = conf_names("estimator")
EMBEDDINGS = conf_names("embedding")
DIM_X = {"cnn1d": 12, "cnn2d": 16, "pyloric_cnn": 27}  # 3 for the others
EVERY_DIMENSION = [n for n in ESTIMATORS if not n.startswith(("nflows", "sbi"))]
# random weights are scaled up, so that q depends on x and is not Gaussian, but stays well resolved
GAIN = {"maf": 1.5, "nsf": 1.3, "gaussian": 1.3, "gaussian_full": 1.2, "mdn": 1.3, "fmpe": 1.3}
# what keeps tests on a grid of theta fast
SETTINGS = {"fmpe": {"hidden": 16, "steps": 6}}

WIDE = {"nflows_maf": 3, "sbi_maf": 5, "nsf": 1.5}
MIN_NOISE = 0.01  # of flow matching

# the others are trained on x alone
OF_THETA = [n for n in ESTIMATORS if not from_conf("estimator", n).func.models_x]

each_estimator = pytest.mark.parametrize("name", ESTIMATORS)
each_of_theta = pytest.mark.parametrize("name", OF_THETA)
each_support = pytest.mark.parametrize("support", SUPPORTS)


def make(name, support="real", embedding="identity", **kwargs):
    head = from_conf("estimator", name, **SETTINGS.get(name, {}))
    net = from_conf("embedding", embedding)
    gain = GAIN.get(name, 1.15)
    dim_x = DIM_X.get(embedding, 3)
    estimator = make_estimator(head, support, embedding=net, gain=gain, dim_x=dim_x, **kwargs)
    connect_directly(estimator, 0.1)
    if name in WIDE:  # so many times as wide as the prior
        estimator.bijection.standardize.std.div_(WIDE[name])
    return estimator


def spread_out(kind, points=240):
    """Points `(N, 2)` that cover a support, and the area that each stands for."""
    half = {"real": 20, "box": 14, "positive": 6}[kind]
    width = 2 * half / points
    t = -half + width * (torch.arange(points, dtype=torch.float64) + 0.5)
    s = torch.sigmoid(t)
    line, length = {
        "real": (t, torch.full_like(t, width)),
        "box": (-2 + 5 * s, 5 * s * (1 - s) * width),
        "positive": (t.exp(), t.exp() * width),
    }[kind]
    return torch.cartesian_prod(line, line).float(), torch.outer(length, length).flatten()


def make_fresh(name, embedding):
    support = make(name, "box").bijection.support
    head = from_conf("estimator", name, **SETTINGS.get(name, {}))
    net = from_conf("embedding", embedding)
    return Estimator(head, net, 2, DIM_X.get(embedding, 3), support)


def make_flow_matching(dim_theta=2, gain=1.4, steps=20, **settings):
    with draws_from(stream(0, "weights")):
        head = FMPE(dim_theta, 3, hidden=12, steps=steps, min_noise=MIN_NOISE, **settings).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(gain)
    return head


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)
