"""CPU seconds of a default job, stage by stage.

    python benchmarks/default_job.py                        # lotka_volterra and gaussian_linear
    python benchmarks/default_job.py task=sir defense=fim   # one job, with these overrides

Each job is `robust-npe train` in a fresh process with an empty store. A first one at `scale=smoke`
lets numba compile what is not in its cache; `--cold` leaves that out and empties the cache. What is
reported is the processor time of the whole process, user and system; a stage does not count what
others within it do.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

WARM = ("scale=smoke", "evaluation.num_test=512", "evaluation.num_attacked=512")
JOBS = (["task=lotka_volterra"], ["task=gaussian_linear"])


def main() -> None:
    """Run the jobs in processes of their own."""
    words = sys.argv[1:]
    cold = "--cold" in words
    overrides = [word for word in words if word != "--cold"]
    for job in [overrides] if overrides else JOBS:
        with TemporaryDirectory() as folder:
            environment = {**os.environ, **({"NUMBA_CACHE_DIR": folder} if cold else {})}
            for name in ["job"] if cold else ["warm", "job"]:
                given = [*job, f"output_dir={Path(folder) / name}"]
                given += [w for w in WARM if name == "warm" and w not in job]
                command = [sys.executable, __file__, "--child", *given]
                done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        print(" ".join(job), done.stdout.decode().partition("STAGES")[2], sep="\n", flush=True)


class Stages:
    """Processor time of functions, without that of others that are measured inside of them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = [0.0]

    def measure(self, owner: Any, attribute: str, name: str) -> None:
        """Replace a function by one that is measured."""
        function: Callable[..., Any] = getattr(owner, attribute)

        def measured(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            self._inside.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.process_time() - start
                self.seconds[name] += spent - self._inside.pop()
                self._inside[-1] += spent

        setattr(owner, attribute, measured)


def child(words: list[str]) -> None:
    """Run one job in this process."""
    start, stages = time.process_time(), Stages()
    from robust_npe import launch, metrics
    from robust_npe.cli import main as robust_npe
    from robust_npe.commands import evaluation, experiment, fitting, train

    stages.seconds["imports"] = time.process_time() - start
    stages.measure(launch, "_run_command", "writing, and the rest")
    stages.measure(experiment.Experiment, "simulate", "simulations")
    stages.measure(fitting, "train", "training")
    stages.measure(evaluation, "_search", "attack")
    for name in metrics.__all__:
        part = getattr(metrics, name)
        if isinstance(part, type) and "__call__" in vars(part):
            stages.measure(part, "__call__", f"metric {getattr(part, 'name', name)}")
    stages.measure(train, "_draw", "plots")
    robust_npe(["train", *words])
    used = resource.getrusage(resource.RUSAGE_SELF)
    total = used.ru_utime + used.ru_stime
    stages.seconds["starting Python, Hydra"] = total - sum(stages.seconds.values())
    rows = [f"{seconds:7.2f}  {name}" for name, seconds in stages.seconds.items() if seconds > 0.02]
    print("STAGES", *rows, f"{total:7.2f}  in total", sep="\n")


if __name__ == "__main__":
    child(sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
