"""The search for fronts, with trainings that are replaced by a formula."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from robust_npe import cli
from robust_npe.commands import train
from robust_npe.store import RESULT_COLUMNS
from robust_npe.store.results import write_table
from tests.plotting.tables import row, table

optuna = pytest.importorskip("optuna", reason="needs the extra pareto")

pytestmark = pytest.mark.usefixtures("elsewhere")

WORDS = ("train", "-m", "hydra/sweeper=pareto", "defense=fim", "estimator=gaussian", "scale=smoke")
CLEAN = {"attack": "none", "epsilon": 0.0, "metric": "nll"}


class Trainings:
    """Stands for `train.main`: NLL beta and KL 1/beta; some calls are interrupted or fail."""

    def __init__(self, monkeypatch):
        self.betas, self.errors = [], {}
        monkeypatch.setattr(train, "main", self)

    def __call__(self, config):
        number = len(self.betas)
        self.betas.append(config.beta)
        if number in self.errors:
            raise self.errors[number]
        folder = Path(config.output_dir) / "runs" / f"{config.defense._target_}-{config.beta}"
        rows = [
            row(statistic="mean", value=config.beta, **CLEAN),
            row(statistic="median", value=-1.0, **CLEAN),
            row(epsilon=0.5, value=1 / config.beta if config.beta > 0.001 else math.nan),
            row(epsilon=1.0, value=-1.0),
            row(epsilon=0.5, statistic="mean", value=-1.0),
        ]
        write_table(table(rows), folder / "results.csv", RESULT_COLUMNS)
        return SimpleNamespace(folder=folder, created=True)


@pytest.fixture
def trainings(monkeypatch):
    return Trainings(monkeypatch)


def search(*words, trials=5):
    return cli.main([*WORDS, f"hydra.sweeper.n_trials={trials}", *words])


def stored(path="outputs/pareto.journal"):
    backend = optuna.storages.journal.JournalFileBackend(path)
    storage = optuna.storages.JournalStorage(backend)
    return [
        trial
        for study in optuna.get_all_study_summaries(storage)
        for trial in optuna.load_study(study_name=study.study_name, storage=storage).trials
    ]


def test_both_numbers_come_from_the_results(trainings, capsys):
    assert search("beta=interval(1e-4,0.01)", trials=8) == 0
    assert len(set(trainings.betas)) == 8
    assert min(trainings.betas) < 0.001 < max(trainings.betas) <= 0.01
    for trial, beta in zip(stored(), trainings.betas, strict=True):
        assert trial.values == [beta, 1 / beta if beta > 0.001 else math.inf]
    out = capsys.readouterr().out
    assert "8 jobs: 8 done, 0 found, 0 failed, 0 skipped" in out
    finite = [beta for beta in trainings.betas if beta > 0.001]
    # the smallest NLL is not beaten, though its KL is not a number
    assert f"{len(finite) + 1} of 8 trials are not dominated" in out


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(trainings, capsys):
    assert search("output_dir=whole", trials=12) == 0
    whole = list(trainings.betas)
    trainings.betas.clear()
    trainings.errors = {10: KeyboardInterrupt()}
    assert search(trials=12) == 130
    assert trainings.betas == whole[:11]
    with Path("outputs/pareto.journal").open("ab") as file:  # as a process leaves it that is killed
        file.write(b'{"op_code":')
    Path("outputs/pareto.journal.lock").touch()
    trainings.betas.clear()
    capsys.readouterr()
    assert search(trials=12) == 0
    assert trainings.betas == whole[10:]
    assert "12 jobs: 2 done, 10 found, 0 failed, 0 skipped" in capsys.readouterr().out
    trainings.betas.clear()
    assert search(trials=12) == 0
    assert trainings.betas == []
    assert search(trials=13) == 0
    assert len(trainings.betas) == 1


def test_a_failed_trial_is_tried_again_by_the_next_command(trainings, capsys):
    trainings.errors = {1: ValueError("broken")}
    assert search(trials=3) == 1
    out, err = capsys.readouterr()
    assert "3 jobs: 2 done, 0 found, 1 failed, 0 skipped" in out
    assert "ValueError: broken" in err
    assert search(trials=3) == 0
    assert trainings.betas[3:] == trainings.betas[1:2]


def test_choices_are_searches_of_their_own_and_batches_share_a_launch(trainings, capsys):
    assert search("defense=fim,trades", "hydra.sweeper.n_jobs=3", trials=4) == 2
    assert "given once" in capsys.readouterr().err
    words = [word for word in WORDS if word != "defense=fim"]
    words += ["defense=fim,trades", "hydra.sweeper.n_jobs=3", "hydra.sweeper.n_trials=4"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "8 jobs: 8 done" in out
    for defense in ("fim", "trades"):
        assert f"defense={defense}: 4 of 4 trials are not dominated" in out
    assert len({path.name for path in Path("outputs/runs").iterdir()}) == 8


def test_another_setting_is_another_search(trainings):
    assert search(trials=1) == 0
    assert search("training.max_epochs=7", trials=1) == 0
    assert len(trainings.betas) == 2
    assert search("plots=false", trials=1) == 0
    assert len(trainings.betas) == 2


def test_without_optuna_the_extra_is_named(trainings, monkeypatch, capsys):
    for name in ("robust_npe.sweeps.pareto", "robust_npe.sweeps.trials"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert search() == 2
    assert "needs optuna: pip install '.[pareto]'" in capsys.readouterr().err
    assert trainings.betas == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["hydra.sweeper.epsilon=0.7"],
            "hydra.sweeper.epsilon=0.7 is not valid: it must be one of",
        ),
        (["hydra.sweeper.n_trials=many"], "hydra.sweeper.n_trials"),
        (["+hydra.sweeper.foo=1"], "hydra.sweeper.foo is no setting"),
        (["hydra.sweeper.n_jobs=0"], "hydra.sweeper.n_jobs=0 is not valid"),
        (["beta=interval(1,0.1)"], "beta=interval(1.0,0.1) is not valid"),
        (["beta=0.1"], "'beta=interval(1e-4,1)'"),
        (["metric=[divergence]"], "a list with nll"),
        (["defense=none"], "beta changes nothing here"),
        (["plots=true,false"], "two of the combinations give the same results"),
        (["standardize=oops"], "'oops' is not valid"),
        (["hydra.sweeper.storage=text.txt"], "is no journal of Optuna"),
        (["hydra.sweeper.storage=used"], "is used by another command"),
    ],
)
def test_wrong_settings_are_one_line_before_any_work(words, message, trainings, capsys):
    Path("text.txt").write_text("hello\n")
    key = words[0].partition("=")[0]
    before = [word for word in WORDS if word.partition("=")[0] != key]
    with FileLock("used.owner"):
        assert cli.main([*before, *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert trainings.betas == []
