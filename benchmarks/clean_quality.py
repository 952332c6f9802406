"""Undefended posteriors beside those of sbi with its defaults, on the same simulations.

    python benchmarks/clean_quality.py export            # simulations and references, as arrays
    python benchmarks/clean_quality.py train             # robust-npe with its defaults
    SBI/bin/python benchmarks/clean_quality.py sbi       # in an environment with sbi 0.27 alone
    python benchmarks/clean_quality.py c2st              # of all samples that there are
    python benchmarks/clean_quality.py report            # the table; writes clean_quality.csv

`train` and `sbi` each append one row per network to a file, and continue where they were stopped;
run them side by side, so that both meet the same load. Several processes can share a folder, each
with its own `--tasks`, `--estimators` or `--seeds`. One thread each. The time is the CPU time of
training alone. NLL is the mean of -log q(theta|x) over 2000 test pairs; sbi's flows leak out of a
bounded prior, and their log densities are divided by the share of samples within it (over 500 pairs
for sbi's fmpe, which solves an ODE for each sample). C2ST is that of sbibm, a mean over the first
three stored references, 1000 samples from each side.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

SBIBM = (
    "gaussian_linear",
    "gaussian_linear_uniform",
    "gaussian_mixture",
    "two_moons",
    "slcp",
    "slcp_distractors",
    "bernoulli_glm",
    "bernoulli_glm_raw",
    "sir",
    "lotka_volterra",
)
TASKS = ("gaussian_linear", "lotka_volterra", "sir", *(f"sbibm/{name}" for name in SBIBM))
ESTIMATORS = ("maf", "nsf", "fmpe")
NUM_SIMULATIONS, NUM_VALIDATION, NUM_TEST = 10_000, 512, 2000
REFERENCES, SAMPLES = 3, 1000
CHUNK = 100  # observations whose samples are held at a time
SOLVED = 500, 64  # test pairs and samples of sbi's fmpe, each an ODE solved to high accuracy
FIELDS = ("library", "task", "estimator", "seed", "nll", "error", "leakage", "epochs", "seconds")
Arrays = dict[str, np.ndarray]


def experiment(task: str, estimator: str, seed: int) -> Any:
    """Return what `robust-npe train` would run with these words."""
    from hydra import compose, initialize_config_dir

    from robust_npe.commands.experiment import Experiment
    from robust_npe.config import prepare_hydra
    from robust_npe.paths import config_directory

    prepare_hydra()
    words = [f"task={task}", f"estimator={estimator}", f"seed={seed}", "output_dir=outputs"]
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return Experiment(compose("train", words))


def export(task: str, seed: int, folder: Path) -> None:
    """Write simulations, the bounds of the prior and references of a task."""
    from robust_npe.random import stream
    from robust_npe.tasks.pairs import draw_pairs

    path = folder / f"{task.replace('/', '_')}_{seed}.npz"
    if path.exists():
        return
    source = experiment(task, "maf", seed).task
    sizes = {"train": NUM_SIMULATIONS, "validation": NUM_VALIDATION, "test": NUM_TEST}
    arrays: Arrays = {}
    for split, size in sizes.items():
        theta, x, _ = draw_pairs(source, size, stream(seed, "simulate", split))
        arrays |= {f"theta_{split}": theta.numpy(), f"x_{split}": x.numpy()}
    count = min(REFERENCES, source.num_references)
    for name in ("x", "samples"):
        parts = [getattr(source.reference(i + 1), name)[:SAMPLES].numpy() for i in range(count)]
        arrays[f"{name}_reference"] = np.array(parts)
    support = getattr(source.support, "base_constraint", source.support)
    for name, default in (("lower_bound", -np.inf), ("upper_bound", np.inf)):
        bound = torch.as_tensor(getattr(support, name, default))
        arrays[name] = bound.expand(source.dim_theta).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def train_ours(arrays: Arrays, task: str, name: str, seed: int) -> tuple[dict[str, Any], Tensor]:
    """Train with robust-npe; return what was measured, and samples at the references."""
    from robust_npe.random import draws_from, stream
    from robust_npe.training import train

    settings = experiment(task, name, seed)
    estimator = settings._fresh_estimator()
    pairs = [[torch.from_numpy(arrays[f"{v}_{s}"]) for v in ("theta", "x")] for s in SPLITS]
    generator = stream(seed, "train")
    start = time.process_time()
    history = train(estimator, settings.defense, *pairs[:2], settings.training, generator)
    seconds = time.process_time() - start
    theta, x = pairs[2]
    with torch.no_grad(), draws_from(stream(seed, "evaluate")):
        losses = -estimator.eval()(x).log_prob(theta)
        reference = torch.from_numpy(arrays["x_reference"])
        samples = estimator(reference).sample((SAMPLES,)) if len(reference) else torch.zeros(0)
    facts = {"seconds": seconds, "epochs": len(history.train_loss), "leakage": 0.0}
    return facts | summary(losses), samples


def train_sbi(arrays: Arrays, task: str, name: str, seed: int) -> tuple[dict[str, Any], Tensor]:
    """Train with sbi; return what was measured, and samples at the references."""
    from sbi.inference import FMPE, NPE

    torch.manual_seed(seed)
    both = [np.concatenate([arrays[f"{v}_{s}"] for s in SPLITS[:2]]) for v in ("theta", "x")]
    pairs = [torch.from_numpy(values) for values in both]
    start = time.process_time()
    trainer = FMPE() if name == "fmpe" else NPE(density_estimator=name)
    share = NUM_VALIDATION / (NUM_SIMULATIONS + NUM_VALIDATION)
    estimator = trainer.append_simulations(*pairs).train(validation_fraction=share)
    seconds = time.process_time() - start
    number, drawn = SOLVED if name == "fmpe" else (NUM_TEST, 256)
    theta, x = (torch.from_numpy(arrays[f"{v}_test"][:number]) for v in ("theta", "x"))
    reference = torch.from_numpy(arrays["x_reference"])
    with torch.no_grad():
        log_prob, sample = density_sbi(estimator, name)
        accepted = acceptance(arrays, sample, x, drawn)
        losses = accepted.log() - log_prob(theta, x)
        samples = inside(arrays, sample, reference) if len(reference) else torch.zeros(0)
    facts = {"seconds": seconds, "epochs": trainer.summary["epochs_trained"][-1]}
    return facts | {"leakage": float(1 - accepted.mean())} | summary(losses), samples


def density_sbi(estimator: Any, name: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Return log density `(theta, x) -> (B,)` and samples `(x, S) -> (S, B, D)` of a network."""
    if name != "fmpe":
        return (
            lambda theta, x: estimator.log_prob(theta.unsqueeze(0), x).squeeze(0),
            lambda x, count: estimator.sample((count,), x),
        )
    from sbi.inference.potentials.vector_field_potential import VectorFieldBasedPotential

    flow = VectorFieldBasedPotential(estimator, None).neural_ode
    return (
        lambda theta, x: torch.cat(
            [flow(b).log_prob(a) for a, b in zip(theta.split(CHUNK), x.split(CHUNK), strict=True)]
        ),
        lambda x, count: flow(x).sample((count,)),
    )


def acceptance(arrays: Arrays, sample: Callable[..., Tensor], x: Tensor, count: int) -> Tensor:
    """Return the share of samples within the prior, `(B,)`; one where it is unbounded."""
    if not np.isfinite([arrays["lower_bound"], arrays["upper_bound"]]).any():
        return torch.ones(len(x))
    shares = [is_inside(arrays, sample(part, count)).float().mean(0) for part in x.split(CHUNK)]
    return torch.cat(shares).clamp(min=1 / count)


def is_inside(arrays: Arrays, theta: Tensor) -> Tensor:
    """Tell which theta `(*, D)` are within the support of the prior, `(*)`."""
    low, high = (torch.from_numpy(arrays[f"{side}_bound"]) for side in ("lower", "upper"))
    return ((theta >= low) & (theta <= high)).all(-1)


def inside(arrays: Arrays, sample: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Return samples within the prior, `(SAMPLES, B, D)`."""
    theta = sample(x, 10 * SAMPLES)
    kept = [part[is_inside(arrays, part)][:SAMPLES] for part in theta.unbind(1)]
    count = min(map(len, kept))
    return torch.stack([part[:count] for part in kept], 1)


def summary(losses: Tensor) -> dict[str, float]:
    """Return the mean loss and its standard error."""
    return {"nll": float(losses.mean()), "error": float(losses.std() / len(losses) ** 0.5)}


SPLITS = ("train", "validation", "test")
LIBRARIES = {"train": ("robust-npe", train_ours), "sbi": ("sbi", train_sbi)}


def run(args: argparse.Namespace) -> None:
    """Train what is missing of one library."""
    torch.set_num_threads(1)
    library, function = LIBRARIES[args.command]
    path = args.folder / f"{library}.csv"
    path.touch()
    with path.open() as file:
        known = {tuple(row[k] for k in FIELDS[1:4]) for row in csv.DictReader(file)}
    for seed, task, name in itertools.product(args.seeds, args.tasks, args.estimators):
        if (task, name, str(seed)) in known:
            continue
        stem = task.replace("/", "_")
        arrays = dict(np.load(args.folder / f"{stem}_{seed}.npz"))
        facts, samples = function(arrays, task, name, seed)
        np.save(args.folder / f"{library}_{stem}_{name}_{seed}.npy", samples.numpy())
        row = {"library": library, "task": task, "estimator": name, "seed": seed} | facts
        append(path, FIELDS, row)
        print(row, flush=True)


def append(path: Path, fields: Sequence[str], row: dict[str, Any]) -> None:
    """Add a row to a table, which begins with the names of its columns."""
    with path.open("a") as file:
        writer = csv.DictWriter(file, fields)
        if not path.stat().st_size:
            writer.writeheader()
        writer.writerow(row)


def measure_c2st(args: argparse.Namespace) -> None:
    """Compare the samples of each network with those of the references; one row each."""
    from robust_npe.metrics.two_sample import c2st

    torch.set_num_threads(1)
    path = args.folder / "c2st.csv"
    known = set(pd.read_csv(path)["file"]) if path.exists() else set()
    jobs = itertools.product(args.seeds, args.tasks, args.estimators, LIBRARIES.values())
    for seed, task, name, (library, _) in jobs:
        stem = task.replace("/", "_")
        file = args.folder / f"{library}_{stem}_{name}_{seed}.npy"
        references = np.load(args.folder / f"{stem}_{seed}.npz")["samples_reference"]
        if file.stem in known or not file.exists() or len(references) == 0:
            continue
        pairs = zip(references, np.load(file).swapaxes(0, 1), strict=True)
        values = [c2st(torch.from_numpy(p), torch.from_numpy(q)) for p, q in pairs]
        row = {"file": file.stem, "library": library, "c2st": np.mean(values)}
        append(path, list(row), row)


def report(folder: Path) -> None:
    """Print one line for each task, and write all numbers to clean_quality.csv."""
    tables = [pd.read_csv(folder / f"{library}.csv") for library, _ in LIBRARIES.values()]
    table = pd.concat(tables, ignore_index=True)
    names = table.task.str.replace("/", "_") + "_" + table.estimator + "_" + table.seed.astype(str)
    found = folder / "c2st.csv"
    if found.exists():
        values = pd.read_csv(found).set_index("file").c2st
        table["c2st"] = (table.library + "_" + names).map(values)
    table.round(4).to_csv(Path(__file__).with_suffix(".csv"), index=False)
    keys = ["library", "estimator"]
    for value in [c for c in ("nll", "c2st", "seconds") if c in table]:
        wide = table.pivot_table(index="task", columns=keys, values=value, aggfunc="mean")
        print(f"{value}\n{wide.reindex([t for t in TASKS if t in wide.index]).round(3)}\n")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["export", "train", "sbi", "c2st", "report"])
    parser.add_argument("--folder", type=Path, default=Path("outputs/clean_quality"))
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--estimators", nargs="+", default=ESTIMATORS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    if args.command == "export":
        for seed, task in itertools.product(args.seeds, args.tasks):
            export(task, seed, args.folder)
    elif args.command == "c2st":
        measure_c2st(args)
    elif args.command == "report":
        report(args.folder)
    else:
        run(args)


if __name__ == "__main__":
    main()
