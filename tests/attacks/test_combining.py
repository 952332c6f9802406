from __future__ import annotations

import pytest
import torch

from robust_npe.attacks import (
    PGD,
    KLForward,
    KLReverse,
    Noise,
    PaperPGD,
    Restarts,
    SpectralAttack,
    WorstCase,
    make_ball,
    settings,
)
from robust_npe.attacks.balls import L1, L2, Linf
from robust_npe.attacks.pgd import with_step_samples
from robust_npe.attacks.starts import data_starts, random_starts, spectral_starts
from robust_npe.estimators import MAF
from robust_npe.random import stream
from tests.attacks.test_pgd import TASK, Value, movement_matrix, true_value
from tests.helpers import NoClosedForm, make_estimator, observations, pairs
from tests.planted import DETERMINISTIC, planted_kl
from tests.planted import observations as zeros


def test_restarts_find_the_higher_hill_more_often():
    kink, ball = DETERMINISTIC["kink"], make_ball("l2", 1.0)
    share = {}
    for n in (1, 6):
        attack = Restarts(PGD(KLForward(), steps=20), n)
        x_adv = attack(kink, zeros(), ball=ball, generator=stream(0))
        share[n] = float((planted_kl(kink, x_adv) > 1.9).float().mean())
    # one run ends on either side, or stays where it is flat
    assert share[1] < 0.6
    assert share[6] > 0.85


def test_the_worst_case_is_the_best_of_its_attacks_by_its_own_objective():
    nonlinear, x, ball = make_estimator(MAF, gain=2.5), observations(30), make_ball("l2", 1.5)
    parts = [PGD(KLReverse(), steps=10), SpectralAttack(KLReverse()), Noise()]
    both = WorstCase(parts, KLForward(1000))  # judged with that many
    reached = true_value(nonlinear, x, both(nonlinear, x, ball=ball, generator=stream(0)))
    generator = stream(0)  # the parts draw one after the other
    alone = [
        true_value(nonlinear, x, a(nonlinear, x, ball=ball, generator=generator)) for a in parts
    ]
    best = torch.stack(alone).amax(0)
    assert float((reached >= 0.95 * best).float().mean()) > 0.9
    assert float(reached.mean()) > max(float(value.mean()) for value in alone) - 1e-6


def test_zero_gradients_are_the_mean_over_attacks_that_have_any():
    flat, slope = PGD(Value(lambda d: 0 * d[:, 0]), 4), PGD(Value(lambda d: d[:, 0]), 4)
    x, ball, judge = torch.zeros(3, 2), make_ball("l2", 1.0), Value(lambda d: d[:, 0])

    def zero(*attacks):
        return WorstCase(attacks, judge).search(None, x, None, ball, stream(0)).zero_gradients

    assert zero(flat, slope, Noise()).tolist() == [0.5] * 3
    assert zero(Noise()) is None


def test_wrong_combinations_are_named():
    with pytest.raises(ValueError, match=r"attacks=\[\]"):
        WorstCase([], KLForward())
    with pytest.raises(ValueError, match="n=0"):
        Restarts(PGD(KLForward()), 0)
    with pytest.raises(ValueError, match=r"noise.*worst_case"):
        Restarts(Noise())
    assert settings(Restarts(PGD(KLForward(), steps=20), 3)) == (
        "attack=pgd(objective=kl_forward,steps=20) n=3"
    )


# The published attack.


def test_the_published_attack_takes_constant_steps_and_keeps_the_last_iterate():
    seen = []

    def height(delta):
        seen.append(delta.detach().clone())
        return delta[:, 0]

    x, ball = torch.zeros(4, 3), make_ball("l2", 2.0)
    x_adv = PaperPGD(Value(height))(None, x, ball=ball, generator=stream(0))
    assert len(seen) == 200  # and no more: nothing is judged
    inside = seen[0].norm(dim=-1) < 1.7
    first = (seen[1] - seen[0])[inside]
    torch.testing.assert_close(first[:, 0], torch.full_like(first[:, 0], 0.2))
    torch.testing.assert_close(x_adv[:, 0], torch.full((4,), 2.0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("objective", [KLForward(2), KLReverse(2)], ids=["forward", "reverse"])
def test_the_published_attack_takes_five_fresh_samples_whatever_the_objective_says(objective):
    drawn = []

    class Counted(NoClosedForm):
        def log_prob(self, theta):
            drawn.append(theta.detach())
            return super().log_prob(theta)

    x = pairs(TASK, 2)[1]
    PaperPGD(objective)(
        lambda y: Counted(TASK.true_posterior(y)),
        x,
        ball=make_ball("l2", 0.1),
        generator=stream(0),
    )
    steps = [theta for theta in drawn if len(theta) == 5]
    assert len(steps) >= 200
    fresh = {float(theta[0, 0, 0]) for theta in steps}
    assert len(fresh) >= 200
    assert objective.num_samples == 2  # as it was
    assert with_step_samples(Value(lambda d: d[:, 0]), 5, 200).name == "value"


# Starts.


@pytest.mark.parametrize("scale", [None, torch.linspace(0.5, 2, 10).double()])
@pytest.mark.parametrize("kind", [L1, L2, Linf])
def test_starts_lie_on_the_surface(kind, scale):
    x = pairs(TASK, 5)[1].double()
    ball = kind(0.3, scale)
    generator = stream(0)
    points = [
        *spectral_starts(TASK.true_posterior, x, ball, 2, 64, generator),
        *data_starts(x, ball, 10, generator),
        *random_starts(x, ball, 3, generator),
    ]
    assert len(points) == 4 + 4 + 3  # there are four other observations
    for point in points:
        torch.testing.assert_close(ball.norm(point - x), torch.full((5,), 0.3).double())


def test_spectral_starts_are_the_eigenvectors_in_scaled_coordinates():
    x = pairs(TASK, 5)[1].double()
    scale = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10]).double()
    m = movement_matrix(TASK) * scale**2
    first, _, second, _ = spectral_starts(
        TASK.true_posterior, x, L2(0.1, scale), 2, 20_000, stream(0)
    )
    order = m.argsort(descending=True)
    for point, index in ((first, order[0]), (second, order[1])):
        along = ((point - x) / scale / 0.1)[:, index].abs()
        assert float(along.min()) > 0.98


def test_data_starts_point_to_other_observations():
    x = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    for point in data_starts(x, make_ball("l2", 1.0), 5, stream(0)):
        directions = (x[None] - x[:, None]) / (x[None] - x[:, None]).norm(dim=-1, keepdim=True)
        apart = (directions.nan_to_num(9.0) - (point - x)[:, None]).norm(dim=-1)
        torch.testing.assert_close(apart.amin(1), torch.zeros(3), atol=1e-6, rtol=0)
    assert data_starts(x[:1], make_ball("l2", 1.0), 5, stream(0)) == []
    same = data_starts(torch.zeros(3, 2), make_ball("l2", 1.0), 1, stream(0))[0]
    torch.testing.assert_close(same.norm(dim=-1), torch.ones(3))  # x itself is no start
