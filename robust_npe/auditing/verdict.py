"""From the findings of an audit to two sentences of plain words."""

from __future__ import annotations

import math

from robust_npe.auditing.findings import UNUSUAL, Findings, number
from robust_npe.auditing.typicality import FEWEST

__all__ = ["verdict"]

USELESS = 0.1  # nats that the right x must be worth
POOR = 0.1  # mean absolute error of coverage
LEAKING = 0.01
FEW_DRAWS = 30  # from the prior; fewer tell neither tails nor spread
NOT_NUMBERS = "densities or samples are NaN there, or float32 has not the digits of their spread"


def verdict(found: Findings) -> str:
    """Return two sentences: what attacks found, and what stands against trusting the posterior or
    this audit."""
    return f"{_first(found)} {_second(found)}"


def _first(found: Findings) -> str:
    who = "the observation" if found.num_attacked == 1 else f"the {found.num_attacked} observations"
    reach = f"up to the radius {number(found.largest)}"
    moves = "by more than 1 nat or one posterior standard deviation"
    if not found.touched:
        return (
            f"Nothing was tested: perturbations {reach} are lost in the rounding of float32 at "
            f"{who}, so look at units and radii."
        )
    if found.num_unknown == found.num_attacked:
        return (
            f"Whether perturbations {reach} move the posterior at {who} {moves} is not known: "
            f"{NOT_NUMBERS}."
        )
    if not found.num_moved:
        return (
            f"No perturbation that was tried, {reach}, moved the posterior at {who} {moves}; that "
            f"is what this search found, not a proof that there is none{_unknown(found)}."
        )
    if found.num_attacked == 1:
        start = f"A perturbation {reach} moves the posterior at {who} {moves}"
    else:
        start = (
            f"Perturbations {reach} move the posterior at {found.num_moved} of {who[4:]} {moves}"
        )
    if found.num_attacked > 1 or found.num_shaken:
        shaken = f"{found.num_shaken} of {found.num_attacked}" if found.num_attacked > 1 else "too"
        start += f" (random noise of such a size: {shaken})"
    if not found.radius < math.inf:
        return f"{start}{_unknown(found)}."
    of_median = "" if found.num_attacked == 1 else " (median observation)"
    radius = f"a radius of {number(found.radius)} is enough for that{of_median}"
    return f"{start}, and {radius}{_unknown(found)}."


def _unknown(found: Findings) -> str:
    """Say at how many observations nothing is known."""
    return f"; at {found.num_unknown} it is not known: {NOT_NUMBERS}" if found.num_unknown else ""


def _second(found: Findings) -> str:
    doubts, fine = _doubts(found)
    if doubts:
        return f"Beware: {'; '.join(doubts)}."
    if fine:
        return f"On what was checked beside this, nothing stands out: {'; '.join(fine)}."
    return (
        "Neither the quality of the posterior nor whether the observations are typical was "
        "checked, as there are no simulations."
    )


def _doubts(found: Findings) -> tuple[list[str], list[str]]:
    """Return what stands against trust, and what does not."""
    doubts, fine, clean = [], [], found.clean
    if "noise" in found.flags:
        doubts.append("at some radius random noise moves the posterior further than the attack")
    if found.flags:
        which = f"{len(found.flags)} flag(s) ({', '.join(found.flags)})"
        doubts.append(f"{which} say that the attack may have missed much")
    if found.draws < FEW_DRAWS:
        few = f"only {number(found.draws)} draws from the prior carry the posterior somewhere"
        doubts.append(f"{few}, too few to believe it (as_posterior(..., num_draws=...))")
    if clean.get("no_density", 0.0) > 0:
        share = f"{100 * clean['no_density']:.3g} % of the held-out simulations"
        doubts.append(f"{share} have no density (NaN), and nothing is said about these")
    if clean.get("gain", math.inf) <= USELESS:
        useless = "the posterior hardly depends on x, so that it is robust but useless"
        if found.num_moved:
            useless = (
                "on held-out simulations another x serves the posterior as well: it is useless"
            )
        doubts.append(useless)
    if "coverage_error" in clean:
        good = clean["coverage_error"] <= POOR
        side = "too narrow" if clean["coverage_area"] < 0 else "too wide"
        if good:
            fine.append("coverage on held-out simulations is about right")
        else:
            doubts.append(f"on held-out simulations the posterior is {side}")
    if clean.get("leakage", 0.0) > LEAKING:
        doubts.append(f"{100 * clean['leakage']:.2g} % of the posterior is outside of the prior")
    if found.unusual is None and clean:
        doubts.append(
            f"with fewer than {FEWEST} simulations to learn from or to compare with, nothing is "
            "known about whether the observations look like simulations"
        )
    if found.unusual is not None:
        what = f"{found.unusual} of {found.num_observations} observations look"
        what = "the observation looks" if found.num_observations == 1 else what
        unlike = f"{what} unlike the training simulations (p < {UNUSUAL:g})"
        if found.smallest_p >= UNUSUAL:
            few = f"{found.num_held_out} held-out simulations are too few to call one unusual"
            one = found.num_observations == 1
            who = "the observation is" if one else f"{found.beyond} observations are"
            beyond = f"{who} further out than all held-out simulations, by at least one check; "
            doubts.append((beyond if found.beyond else "") + few)
        elif not found.unusual:
            fine.append("the checks do not tell the observations from training simulations")
        elif found.by_chance:
            fine.append(f"{unlike}, no more than chance explains")
        else:
            doubts.append(unlike)
    return doubts, fine
