from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from robust_npe.attacks import PGD, KLForward, ThreatModel
from robust_npe.certificates import certified_kl
from robust_npe.estimators import MAF, DiagonalGaussian
from robust_npe.metrics import CertifiedKL, Context, Divergence
from robust_npe.random import stream
from tests.helpers import linear_task, make_estimator, pairs

EPSILON = 0.3


def context(head=None, unit="std"):
    head = head or partial(DiagonalGaussian, hidden=(20,))
    task = linear_task((1.0, -0.5, 2.0))
    theta, x = pairs(task, 40)
    posterior = make_estimator(head, dim_theta=3, dim_x=3, gain=2.0)
    ball = partial(ThreatModel("l2", unit, "data").ball, task=task, x=x)
    attack = PGD(KLForward())
    found = attack.search(posterior, x, theta, ball(EPSILON), stream(0))
    known = attack, ball, EPSILON, found
    return Context(task, posterior, theta, x, found.x_adv, True, 0, 16, *known)


def measured(metric, context):
    return {m.metric: m for m in metric(context)}


@pytest.mark.parametrize("unit", ["std", "feature", "absolute"])
def test_bounds_what_the_attack_found_by_little(unit):
    c = context(unit=unit)
    bounds, found = measured(CertifiedKL(), c), measured(Divergence(), c)
    assert set(bounds) == {"certified_kl_forward", "certified_kl_reverse"}
    for direction in ("kl_forward", "kl_reverse"):
        bound = bounds[f"certified_{direction}"]
        ratio = bound.per_observation / found[direction].per_observation
        assert (ratio > 1 - 1e-4).all()  # the divergence is in float32
        assert ratio.median() < 1.6
        medians = [row["value"] for row in bound.rows if row["statistic"] == "median"]
        assert medians == [pytest.approx(float(bound.per_observation.quantile(0.5)))]


def test_holds_for_where_rounding_leaves_x_adv():
    c = context()
    exact = measured(CertifiedKL(), replace(c, x_adv=c.x))
    expected = certified_kl(c.posterior, c.x, c.ball(EPSILON)).forward
    torch.testing.assert_close(exact["certified_kl_forward"].per_observation, expected)
    outside = c.x + 1.01 * (c.x_adv - c.x)
    bound = measured(CertifiedKL(), replace(c, x_adv=outside))["certified_kl_forward"]
    distance = (outside - c.x).double().norm(dim=-1) / c.ball(1.0).radius
    assert (distance > EPSILON).any()
    further = certified_kl(c.posterior, c.x, c.ball(distance.clamp(min=EPSILON))).forward
    torch.testing.assert_close(bound.per_observation, further)


def test_does_not_apply_without_attack_radius_or_certificate():
    c = context()
    assert CertifiedKL()(c)
    assert CertifiedKL()(replace(c, attacked=False)) == []
    assert CertifiedKL()(replace(c, epsilon=None)) == []
    assert CertifiedKL()(replace(c, ball=None)) == []
    assert CertifiedKL()(context(MAF)) == []
