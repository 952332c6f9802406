"""`attack=transfer attack.run=<id>`: an attack found on the posterior of another run."""

from __future__ import annotations

import pytest
import torch

from robust_npe.checks import ConfigError
from robust_npe.commands import attack, train
from robust_npe.commands.experiment import Experiment
from robust_npe.store import content_key
from tests.test_config import composed

SMALL = ("scale=smoke", "num_simulations=128", "training.max_epochs=1", "epsilon=1", "plots=false")
TRANSFER = ("attack=transfer", "attack.attack.steps=3", "epsilon=1", "plots=false")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    output = tmp_path_factory.mktemp("outputs")
    words = (*SMALL, "metric=[divergence]", "attack=noise", f"output_dir={output}")
    return output, [train.main(composed(*words, f"seed={seed}")).folder for seed in (0, 1)]


def transferred(output, run, source):
    words = (*TRANSFER, f"output_dir={output}", f"run='{run}'", f"attack.run='{source}'")
    return attack.main(composed(*words, command="attack"))


def test_is_found_on_the_other_run_and_measured_on_this_one(runs):
    output, (mine, other) = runs
    result = transferred(output, mine.name, other.name)
    table = result.table
    assert set(table[table.epsilon > 0].attack) == {"transfer"}
    assert set(table[table.epsilon > 0].objective) == {"kl_forward"}
    median = table[(table.metric == "kl_forward") & (table.statistic == "median")].value.iloc[-1]
    assert median > 0
    # x~ is what the attack finds on the posterior of the other run
    config = composed(*SMALL, *TRANSFER, f"attack.run='{other.name}'", f"output_dir={output}")
    experiment = Experiment(config)
    estimator = Experiment(composed(*SMALL, "seed=1", f"output_dir={output}")).trained().posterior
    for own, its in zip(experiment.attack.source.parameters(), estimator.parameters(), strict=True):
        assert torch.equal(own, its)
    found = {p.parent.name for p in (output / "store" / "attacks").glob("*/x_adv.npy")}
    again = transferred(output, mine.name, mine.name)  # another source: found anew
    later = {p.parent.name for p in (output / "store" / "attacks").glob("*/x_adv.npy")}
    assert len(later) == len(found) + 1
    assert again.folder != result.folder


def test_the_sources_estimator_is_part_of_the_identity(runs, tmp_path):
    output, (_, other) = runs
    words = (*SMALL, *TRANSFER, f"output_dir={output}")
    experiment = Experiment(composed(*words, f"attack.run='{other.name}'"))
    key = content_key(
        Experiment(composed(*SMALL, "seed=1", f"output_dir={output}")).posterior_description
    )
    assert experiment.threat_description["sources"] == {other.name: key}
    assert "sources" not in Experiment(composed(*SMALL)).threat_description


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("attack=transfer",), r"attack\.run is not set"),
        (("attack=transfer", "attack.run=nope"), r"attack\.run='nope' was not found"),
        (("attack=transfer", "task=sir", "attack.run='{}'"), r"attack\.run=.* with dim_x=50, "),
    ],
)
def test_sources_that_do_not_fit_fail_before_any_work(runs, words, message, monkeypatch):
    output, (mine, _) = runs
    monkeypatch.setattr(train, "run", None)
    words = [word.format(mine.name) for word in words]
    with pytest.raises(ConfigError, match=message):
        train.main(composed(*SMALL, *words, f"output_dir={output}"))
