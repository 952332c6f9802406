"""What `robust-npe audit` looks at: the posterior of a run, or one from a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from robust_npe.adapters.loading import MAX_BYTES, load_posterior, stored_facts
from robust_npe.attacks import Attack, ThreatModel
from robust_npe.auditing import AuditSettings, Case, checked_radii, unit_text
from robust_npe.auditing.preparing import Given, check, prepare
from robust_npe.auditing.reading import read_any, read_rows
from robust_npe.auditing.run import check_theta
from robust_npe.checks import ConfigError, require
from robust_npe.commands.attack import REPLACED
from robust_npe.commands.evaluation import digest
from robust_npe.commands.experiment import Experiment
from robust_npe.commands.runs import earlier_config, run_folder, stored_estimators
from robust_npe.commands.versioned import versioned
from robust_npe.components import build, complete, describe
from robust_npe.config import TrainConfig, checked
from robust_npe.consent import digest_of, modules_behind
from robust_npe.defenses import Defense
from robust_npe.files import file_digest
from robust_npe.posterior import Posterior
from robust_npe.store import Store
from robust_npe.tasks import DataTask, Task
from robust_npe.tasks.reading import read_array

__all__ = ["Audited", "audited_posterior", "audited_run"]


class Audited(NamedTuple):
    """What is audited.

    Attributes:
        description: What determines it, its attack and its observations.
        attack: The attack.
        case: Does the work that is needed before the audit.
        defense: Of the run; None for a posterior from elsewhere.
    """

    description: Mapping[str, Any]
    attack: Attack
    case: Callable[[], Case]
    defense: Defense | None = None


def audited_run(config: Mapping[str, Any]) -> Audited:
    """Find the run and read the observations.

    Args:
        config: Values of `AuditConfig`.

    Raises:
        ConfigError: There is no such run, or something does not fit it.
    """
    experiment, run = _experiment(config)
    x, theta, _ = _observations(config, experiment.task, {})
    check_theta(experiment.attack, theta)
    description = {
        **experiment.threat_description,
        "epsilon": checked_radii(experiment.epsilons),
        **_digests(x=x, theta=theta),
    }

    def case() -> Case:
        return _case_of_run(experiment, run, x, theta, config)

    return Audited(description, experiment.attack, case, experiment.defense)


def _experiment(config: Mapping[str, Any]) -> tuple[Experiment, str]:
    run = config["run"]
    require(isinstance(run, str | int), "run", run, "a run's id or folder")
    folder = run_folder(str(run), Path(config["output_dir"]) / "runs")
    kept = {key: config[key] for key in REPLACED if key in config}
    source = Store(folder.parent.parent / "store")
    earlier = earlier_config(folder) | kept | {"metrics": {}, "plots": False}
    members = stored_estimators(source, folder)
    experiment = Experiment(checked(earlier, TrainConfig), source=source, members=members)
    expected = "a run whose task has parameters; that of a VAE is looked at by metrics alone"
    require(experiment.task.has_theta, "run", run, expected)
    return experiment, folder.name


def _case_of_run(
    experiment: Experiment, run: str, x: Tensor, theta: Tensor | None, config: Mapping[str, Any]
) -> Case:
    """Load the posterior, and the simulations that it was trained and tested on."""
    radii, trained = checked_radii(experiment.epsilons), experiment.trained()
    most, num = config["audit"]["num_simulations"], experiment.config["num_simulations"]
    reference = experiment.simulate("train", num).x[:most]
    held_theta, held_x = (part.cpu() for part in experiment.test_set)
    names, defense = experiment.task.x_names, experiment.defense
    text = unit_text(experiment.threat, experiment.auto, radii, names, experiment.ball)
    beta = "" if defense.beta is None else f" beta={defense.beta:g}"
    about = {
        "Posterior": f"{trained.name} of {experiment.task.name}, defense {defense.name}{beta}, "
        f"trained on {trained.num_pairs:.0f} simulations",
        "Run": run,
        "Observations": f"{len(x)} with {x.shape[1]} feature(s), from {Path(config['x']).name}",
        "Simulations": f"{len(reference)} of the training to learn what is typical from, "
        f"{len(held_x)} others to test",
    }
    given = trained.posterior, x, theta, experiment.task
    pairs = reference, (held_theta, held_x)
    return Case(*given, *pairs, radii, experiment.ball, text, about, config["seed"])


def audited_posterior(config: Mapping[str, Any]) -> Audited:
    """Load the posterior, and read the observations and what else is known.

    Args:
        config: Values of `AuditConfig`.

    Raises:
        ConfigError: Something is missing, damaged, or does not fit.
    """
    path, builder = Path(config["posterior"]), config["builder"]
    described: dict[str, Any] = _described(path, builder)
    task = None if config["task"] is None else build(complete(config["task"]), "task", Task)
    data, files = _simulations(config["simulations"], task)
    known = task or data
    x, theta, names = _observations(config, known, described["facts"])
    attack = build(complete(config["attack"]), "attack", Attack)
    attack.load_sources(_no_source)
    check_theta(attack, theta)
    posterior = load_posterior(path, builder, config["trust"])
    about = {"Posterior": f"{_kind(posterior)}, from {path.name}"}
    given = Given(posterior, x, theta, known, data, names, about)
    threat = ThreatModel(*(config[key] for key in ("norm", "epsilon_unit", "domain")))
    radii = check(given, threat, config["epsilon"])
    attack.check(x.shape[1] if theta is None else theta.shape[1])
    description = {
        "posterior": described,
        "task": None if task is None else describe(config["task"], "task", Task),
        "simulations": files,
        "threat": versioned(threat),
        "attack": describe(config["attack"], "attack", Attack),
        "epsilon": radii,
        "names": names,
        **_digests(x=x, theta=theta),
    }
    finely = AuditSettings(**config["audit"])
    return Audited(
        description, attack, lambda: prepare(given, threat, radii, finely, config["seed"])
    )


def _described(path: Path, builder: str | None) -> dict[str, Any]:
    """Return everything that determines a stored posterior."""
    digest_of_weights, facts = file_digest(path, "posterior", MAX_BYTES), stored_facts(path)
    builder = builder or facts.get("builder")
    module = str(builder).partition(":")[0]
    sources = {name: digest_of(name) for name in sorted(modules_behind(module))}
    return {"sha256": digest_of_weights, "builder": builder, "facts": facts, "sources": sources}


def _simulations(value: Any, task: Task | None) -> tuple[DataTask | None, list[str]]:
    """Return the simulations of a file, or of one for each of theta and x, and their digests."""
    if value is None:
        return (task if isinstance(task, DataTask) else None), []
    paths = value if isinstance(value, list) else [value]
    named = len(paths) in (1, 2) and all(isinstance(path, str) for path in paths)
    expected = "an npz file with the arrays theta and x, or [<file of theta>,<file of x>]"
    require(named, "simulations", value, expected)
    both = Path(paths[0]), Path(paths[-1])
    require(len(paths) == 2 or both[0].suffix.lower() == ".npz", "simulations", value, expected)
    (theta, theta_names), (x, x_names) = (
        read_array(path, what, "simulations")
        for path, what in zip(both, ("theta", "x"), strict=True)
    )
    if len(theta) != len(x):
        raise ConfigError(
            f"simulations={value} has {len(theta)} rows of theta and {len(x)} of x, expected one "
            "of x for each of theta."
        )
    data = DataTask(theta, x, theta_names=theta_names, x_names=x_names)
    return data, [file_digest(path, "simulations", MAX_BYTES) for path in both]


def _observations(
    config: Mapping[str, Any], task: Task | None, facts: Mapping[str, str]
) -> tuple[Tensor, Tensor | None, dict[str, list[str] | None]]:
    """Return x `(B, Dx)`, theta `(B, D)` if known, and names from the files if no task has any.

    Args:
        config: Names the files.
        task: What knows shapes and names, if anybody does.
        facts: Of the posterior, see `stored_facts`.
    """
    rows: dict[str, Tensor] = {}
    names: dict[str, list[str] | None] = {}
    for what in ("x", "theta"):
        path = config[what]
        if path is None:
            continue
        dim = facts.get(f"dim_{what}")
        if task is None:
            rows[what], names[what] = read_any(what, Path(path), int(dim) if dim else None)
        elif what == "x":
            shape = getattr(task, "x_shape", (task.dim_x,))
            rows[what] = read_rows(what, Path(path), shape, task.x_names)
        else:
            rows[what] = read_rows(what, Path(path), (task.dim_theta,), task.theta_names)
    x, theta = rows["x"], rows.get("theta")
    if theta is not None:
        expected = f"as x, {len(x)} of them"
        require(len(theta) == len(x), "number of rows of theta", len(theta), expected)
    return x, theta, names


def _digests(**rows: Tensor | None) -> dict[str, str | None]:
    return {name: None if values is None else digest(values) for name, values in rows.items()}


def _kind(posterior: Posterior) -> str:
    """Return what a posterior is, under the adapters around it."""
    inner: Any = posterior
    for name in ("module", "estimator"):
        inner = getattr(inner, name, inner)
    return type(inner).__name__


def _no_source(run: str) -> Posterior:
    raise ConfigError(f"attack.run={run!r} is a run, which a posterior from a file cannot be for.")
