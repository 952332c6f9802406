"""What tables call things, as people write it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from textwrap import wrap

import pandas as pd

__all__ = [
    "SHORT",
    "count_text",
    "defense_name",
    "in_paper_order",
    "line_name",
    "named_defenses",
    "named_variants",
    "number_text",
    "radius_name",
    "task_name",
    "title_lines",
    "unit_name",
]

TASKS = {
    "gaussian_linear": "Linear Gaussian",
    "lotka_volterra": "Lotka-Volterra",
    "vae": "VAE",
    "hodgkin_huxley": "Hodgkin-Huxley",
    "sir": "SIR",
    "spatial_sir": "Spatial SIR",
    "hodgkin_huxley_2d": "Hodgkin-Huxley, 2 parameters",
    "pyloric": "Pyloric network",
    "toy": "Toy example",
    "half_moons": "Half moons",
    "digits": "Digits",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "bernoulli_glm": "Bernoulli GLM",
    "bernoulli_glm_raw": "Bernoulli GLM, raw",
    "gaussian_linear_uniform": "Linear Gaussian, uniform prior",
    "gaussian_mixture": "Gaussian mixture",
    "slcp": "SLCP",
    "slcp_distractors": "SLCP with distractors",
    "two_moons": "Two moons",
}
"""The paper's tasks first, in its order."""

LINES = {
    "attack": {
        "auto-1": "standard evaluation",
        "pgd": "PGD",
        "paper_pgd": "PGD as published",
        "fgsm": "FGSM",
        "noise": "random noise",
    },
    "defense": {
        "none": "no defense",
        "fim": "FIM",
        "fim_eigenvalue": "FIM, largest eigenvalue",
        "adversarial_training": "adversarial training",
        "trades": "TRADES",
        "noise": "noise augmentation",
        "posthoc": "resampled",
        "dro": "DRO",
    },
    "estimator": {
        "gaussian": "diagonal Gaussian",
        "gaussian_full": "full Gaussian",
        "mdn": "mixture of Gaussians",
        "maf": "MAF",
        "nsf": "NSF",
        "fmpe": "flow matching",
        "vae": "VAE encoder",
    },
    "objective": {
        "kl_forward": "KL(q ‖ q̃)",
        "kl_reverse": "KL(q̃ ‖ q)",
        "mmd": "MMD",
        "nll": "density of the true θ",
    },
}
"""Names of lines by column, in the order of legends."""

VALUES = {
    "beta": "β = {}",
    "num_simulations": "{} simulations",
    "defense_epsilon": "training radius {}",
}
MISSING = {"beta": "no defense", "defense_epsilon": "no defense"}

SYMBOLS = {"beta": "β", "eps": "ε", "epsilon": "ε", "sigma": "\u03c3"}

SHORT = {"beta": "beta", "defense_epsilon": "eps"}
"""Settings of defenses in the names of `named_defenses`."""

GRADIENTS = {"gradient=exact": "averaged", "gradient=exact weight=1.0": "exact"}
"""How the gradient of FIM is computed, by its settings; `fast` without."""

UNITS = {
    "std": "standard deviations of x",
    "absolute": "units of x",
    "noise": "expected norms of the noise",
    "feature": "standard deviations of each feature",
    "auto": "distances of two simulations",
}

TITLE = 100  # letters of titles above two columns of a page

NORMS = {"l1": "L1", "l2": "L2", "linf": "L∞"}


def number_text(number: float, form: str = "g") -> str:
    """Return a number with a minus sign, in a format."""
    return f"{number:{form}}".replace("-", "\N{MINUS SIGN}")


def count_text(count: float) -> str:
    """Return a whole number with thin spaces between thousands."""
    return f"{int(count):,}".replace(",", "\u2009")


def task_name(task: str) -> str:
    """Return the name of a task; that of a user's own task stays as it is."""
    name = task.removeprefix("sbibm/")
    return TASKS.get(name, name) + (" (sbibm)" if name != task else "")


def title_lines(title: str, columns: int) -> str:
    """Break a title into lines that fit above one of so many panels beside one another."""
    width = max(8, TITLE // columns)
    return "\n".join(wrap(title, width, break_on_hyphens=False))


def in_paper_order(tasks: Iterable[str]) -> list[str]:
    """Return tasks, each once: the paper's first, in its order, others as they come."""
    order = {name: i for i, name in enumerate(TASKS)}
    return sorted(dict.fromkeys(tasks), key=lambda task: order.get(task, len(order)))


def line_name(column: str, value: str) -> str:
    """Return the name of what a line or a row of panels is.

    Args:
        column: A column of the results, such as `attack`, `defense` or `beta`.
        value: Its value as text; a name may be followed by a space and settings.
    """
    if value == "nan":
        return MISSING.get(column, f"no {column}")
    if column in VALUES:
        return VALUES[column].format(count_text(int(value)) if value.isdigit() else value)
    if column not in LINES:
        return f"{column} {value}"
    name, _, settings = value.partition(" ")
    base = ""
    if column == "defense":
        settings, base = _base(settings)
    shown = [f"{SYMBOLS.get(key, key)}{rest}" for key, rest in map(_split, settings.split())]
    return " ".join([LINES[column].get(name, name), *shown, base]).strip()


def _base(settings: str) -> tuple[str, str]:
    """Split settings into those of a post-hoc defense itself, and `of` the defense below it.

    Tables show beta and radius of the defense below as if they were its own.
    """
    found = re.search(r"\bbase=(\w+)(?:\((.*)\))?$", settings)
    if found is None:
        return settings, ""
    name, own, inner = found[1], settings[: found.start()].split(), (found[2] or "").split(",")
    known = {_split(word)[0].replace("epsilon", "eps") for word in inner}
    below = [word for word in own if _split(word)[0] in ("beta", "eps")]
    inner = [word for word in below if _split(word)[0] not in known] + inner
    rest = " ".join(word for word in own if word not in below)
    return rest, "" if name == "none" else "of " + line_name("defense", " ".join([name, *inner]))


def _split(word: str) -> tuple[str, str]:
    key, sign, value = word.partition("=")
    return key, sign + value


def defense_name(name: str, beta: float | None, epsilon: float | None, others: str = "") -> str:
    """Return a defense with its settings, which may be missing, as in `fim beta=0.01`."""
    given = {"beta": beta, "eps": epsilon}
    settings = [f"{k}={v:g}" for k, v in given.items() if v is not None and not math.isnan(v)]
    return " ".join([name, *settings, others]).strip()


def named_defenses(
    table: pd.DataFrame,
    settings: Collection[str] = ("beta", "defense_epsilon", "defense_settings"),
) -> pd.DataFrame:
    """Return results in which the names of defenses contain some of their settings.

    Args:
        table: Results.
        settings: Columns that tell lines apart; what may differ from task to task is left out.
    """
    columns = ["beta", "defense_epsilon", "defense_settings"]
    told = table[["defense", *columns]].copy()
    told["defense_settings"] = told.defense_settings.astype(object).fillna(
        ""
    )  # as `read_csv` reads
    for name in set(columns) - set(settings):
        told[name] = "" if name == "defense_settings" else math.nan
    named = told.itertuples(index=False)
    return table.assign(defense=[defense_name(*row) for row in named])


def named_variants(table: pd.DataFrame) -> pd.DataFrame:
    """Return results in which the names of FIM contain how its gradient was computed."""
    ways = table.defense_settings.map(GRADIENTS).fillna("fast")
    fim = table.defense == "fim"
    return table.assign(defense=table.defense.where(~fim, "fim " + ways))


def radius_name(attacked: pd.DataFrame) -> str:
    """Return what a radius of these attacked rows is, with its unit and norm if there is one."""
    units = attacked[["epsilon_unit", "norm"]].drop_duplicates()
    return f"perturbation radius{f', in {unit_name(attacked)}' * (len(units) < 2)}"


def unit_name(attacked: pd.DataFrame) -> str:
    """Return the unit of radii and their norm."""
    units = " or ".join(UNITS.get(unit, unit) for unit in attacked.epsilon_unit.unique())
    norms = ", ".join(NORMS.get(norm, norm) for norm in attacked.norm.dropna().unique())
    return f"{units} ({norms})"
