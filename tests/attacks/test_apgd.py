from __future__ import annotations

import pytest
import torch

from robust_npe.attacks import APGD, FGSM, PGD, KLForward, KLReverse, make_ball, std_unit
from robust_npe.attacks.apgd import checkpoints
from robust_npe.estimators import MAF
from robust_npe.random import stream
from tests.attacks.test_pgd import (
    NORMS,
    TASK,
    Value,
    half_square,
    movement_matrix,
    true_value,
)
from tests.helpers import NoClosedForm, make_estimator, observations, pairs


def test_checkpoints_are_the_published_ones():
    # p_j = 0.22, 0.41, 0.57, ... by the paper's recursion, by hand
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [1]


@pytest.mark.parametrize("objective", [KLForward(), KLReverse()], ids=["forward", "reverse"])
@pytest.mark.parametrize("norm", NORMS)
def test_reaches_the_closed_form_optimum(norm, objective):
    x = pairs(TASK, 64)[1].double()
    radius, m = 0.1 * std_unit(x), movement_matrix(TASK)
    optimum = 0.5 * radius**2 * float(m.sum() if norm == "linf" else m.max())
    found = APGD(objective).search(TASK.true_posterior, x, None, make_ball(norm, radius), stream(0))
    reached = half_square(found.x_adv - x) / optimum
    assert float(reached.max()) <= 1 + 1e-9
    # corners of an L1 ball are local maxima, which the momentum of steps as long as it cannot leave
    assert float(reached.median()) >= (0.99 if norm != "l1" else 0.8)
    assert (found.zero_gradients == 0).all()


class Path(Value):
    """Records what is evaluated."""

    def __call__(self, posterior, x, theta, generator):
        inner, self.seen = super().__call__(posterior, x, theta, generator), []

        def climb(x_adv):
            self.seen.append(x_adv.detach().clone())
            return inner(x_adv)

        return climb


def test_steps_halve_where_the_search_overshoots_and_settle_on_the_top():
    path = Path(lambda d: -(d[:, 0] - 0.3).square())
    attack = APGD(path, steps=100)
    found = attack.search(
        None,
        torch.zeros(2, 1),
        None,
        make_ball("l2", 1.0),
        stream(0),
        torch.tensor([[0.9], [-1.0]]),
    )
    torch.testing.assert_close(found.x_adv, torch.full((2, 1), 0.3), atol=0.01, rtol=0)
    moves = (torch.stack(path.seen).diff(dim=0)).abs().squeeze(-1)
    assert float(moves[:20].median()) > 10 * float(moves[-5:].median())


def test_momentum_carries_a_quarter_of_the_last_move():
    path = Path(lambda d: -d[:, 0].abs())
    ball, start = make_ball("l2", 1.0), torch.tensor([[-0.5]])
    APGD(path, steps=9).search(None, torch.zeros(1, 1), None, ball, stream(0), start)
    # -0.5, then 1, then z = -1 and 1 + 0.75 (-2) + 0.25 (1.5) = -0.125: by hand
    seen = torch.cat(path.seen).flatten()
    torch.testing.assert_close(seen[:3], torch.tensor([-0.5, 1.0, -0.125]))
    # one rise in two steps: the step is halved, the search goes on from the best, -0.125
    torch.testing.assert_close(seen[3], torch.tensor(-0.125 + 0.75 * 1.0))


def test_sampled_objectives_are_climbed_on_the_same_samples():
    def hidden(y):
        return NoClosedForm(TASK.true_posterior(y))

    x = pairs(TASK, 16)[1]
    radius, m = 0.5 * std_unit(x), movement_matrix(TASK)
    for objective in (KLForward(), KLReverse()):
        x_adv = APGD(objective)(hidden, x, ball=make_ball("l2", radius), generator=stream(0))
        reached = half_square(x_adv - x) / (0.5 * radius**2 * float(m.max()))
        assert float(reached.median()) >= 0.9


def test_is_about_as_strong_as_pgd_and_beats_one_step_on_a_nonlinear_estimator():
    nonlinear, x, ball = make_estimator(MAF, gain=3.0), observations(40), make_ball("l2", 1.5)
    value = {
        attack.name: true_value(nonlinear, x, attack(nonlinear, x, ball=ball, generator=stream(0)))
        for attack in (APGD(KLForward(5)), PGD(KLForward(5)), FGSM(KLForward(5)))
    }
    assert float(value["apgd"].median()) > 0.8 * float(value["pgd"].median())
    assert float((value["apgd"] > value["fgsm"]).float().mean()) > 0.8


def test_counts_steps_without_gradient():
    flat = Value(lambda d: torch.where(d[:, 0] > -9, 0 * d[:, 0], 0 * d[:, 0]))
    found = APGD(flat, 5).search(None, torch.zeros(3, 2), None, make_ball("l2", 1), stream(0))
    assert (found.zero_gradients == 1).all()
    start = torch.tensor([[0.1, 0.2]])
    found = APGD(flat, 5).search(
        None, torch.zeros(1, 2), None, make_ball("l2", 1), stream(0), start
    )
    assert torch.equal(found.x_adv, start)


@pytest.mark.parametrize("argument", ["steps", "num_samples"])
def test_wrong_arguments_are_named(argument):
    with pytest.raises(ValueError, match=f"{argument}=0"):
        APGD(KLForward(), **{argument: 0})
