"""`robust-npe attack` on several runs at once."""

from __future__ import annotations

import hashlib
import json
import shutil

import pandas as pd
import pytest

from robust_npe import cli
from robust_npe.checks import ConfigError
from robust_npe.commands import attack, train
from tests.test_config import composed

SMALL = ("scale=smoke", "num_simulations=128", "training.max_epochs=1", "epsilon=1", "plots=false")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    output = tmp_path_factory.mktemp("outputs")
    words = (*SMALL, "metric=[divergence]", f"output_dir={output}")
    return output, [train.main(composed(*words, f"seed={seed}")) for seed in (0, 1)]


def test_each_run_is_attacked_as_it_would_be_alone(runs):
    output, (first, second) = runs
    words = ("attack=noise", "epsilon=1", "plots=false", f"output_dir={output}")
    ids = [result.folder.name for result in (first, second)]
    both = attack.main(composed(*words, f"run=['{ids[0]}','{ids[1]}']", command="attack"))
    alone = [attack.main(composed(*words, f"run='{i}'", command="attack")) for i in ids]
    pd.testing.assert_frame_equal(
        both.table, pd.concat([r.table for r in alone], ignore_index=True)
    )
    assert all(str(r.folder) in both.text for r in alone)
    assert both.folder == output / "runs"


def test_a_list_on_the_command_line(runs, capsys):
    output, results = runs
    listed = ",".join(result.folder.name for result in results)
    words = ["attack", "attack=noise", "epsilon=1", "plots=false", f"output_dir={output}"]
    assert cli.main([*words, f"run={listed}"]) == 0
    assert capsys.readouterr().out.count("gaussian_linear, maf, defense none") == 2


@pytest.mark.parametrize("given", ["[]", "[a,a]", "[[a]]", "{a: b}", "1.5"])
def test_lists_that_are_none(given, tmp_path):
    with pytest.raises(ConfigError, match=r"run=.* is not valid"):
        attack.main(composed(f"run={given}", f"output_dir={tmp_path}", command="attack"))


def test_nothing_is_attacked_where_one_run_is_missing(runs, monkeypatch):
    output, (first, _) = runs
    monkeypatch.setattr(train, "run", None)
    words = (f"run=['{first.folder.name}',nope]", f"output_dir={output}", "attack=noise")
    with pytest.raises(ConfigError, match="run='nope' was not found"):
        attack.main(composed(*words, command="attack"))


def test_runs_that_kept_the_interval_of_checkpoints_at_the_top(runs, tmp_path):
    output, (first, _) = runs
    shutil.copytree(output, tmp_path / "older")
    folder = tmp_path / "older" / "runs" / first.folder.name
    lines = (folder / "config.yaml").read_text().splitlines()
    lines = [line for line in lines if "checkpoint_every" not in line]
    text = "\n".join(["checkpoint_every: 30.0", *lines])
    (folder / "config.yaml").write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["manifest_sha256"]
    manifest["sha256"]["config.yaml"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    words = ("attack=noise", "epsilon=1", "plots=false")
    new = attack.main(composed(*words, f"run={folder}", f"output_dir={tmp_path}", command="attack"))
    same = composed(*words, f"run='{first.folder.name}'", f"output_dir={output}", command="attack")
    pd.testing.assert_frame_equal(new.table, attack.main(same).table)
