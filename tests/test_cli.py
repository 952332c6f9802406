from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hydra.errors import MissingConfigException

from robust_npe import cli
from robust_npe.messages import hydra_message


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    # the command works from any folder; argv and environment are put back
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["robust-npe"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    return tmp_path


def fails(capsys, *words):
    status = cli.main(words)
    message = capsys.readouterr().err
    assert status == 2
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_help_lists_the_commands(words, capsys):
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in cli.COMMANDS)


def test_help_of_a_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    assert "lotka_volterra" in text
    assert "epsilon" in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("robust-npe tr", {"train"}),
        ("robust-npe train task=lotka", {"lotka_volterra"}),
    ],
)
def test_completion(line, expected):
    # bash splits a line at blanks and at "="
    words = " ".join(f"'{w}'" for w in re.split(r"\s+|(?<==)|(?==)", line) if w)
    script = f"""
        robust-npe() {{ {sys.executable} -m robust_npe.cli "$@"; }}
        eval "$(robust-npe completion)"
        COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
        _robust_npe; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("robust-npe ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian'. Did you mean 'train'?"),
        (["train", "bta=1"], "there is no key 'bta'. Did you mean 'beta'?"),
        (["train", "beta=-1"], "beta=-1.0 is not valid"),
        (["train", "beta=abc"], "beta='abc' is not valid: it must be a finite number."),
        (["train", "epsilon=abc"], "epsilon='abc' is not valid"),
        (["train", "task=nope"], "task=nope does not exist. Choices: "),
        (["train", "task=sbibm/nope"], "sbibm/two_moons"),
        (["train", "device=cuda:99"], "device='cuda:99' is not available"),
        (["train", "num_simulations=0"], "num_simulations=0 is not valid"),
        (["attack"], "run is not set"),
        (["collect"], "run `robust-npe train` first"),
    ],
)
def test_errors_are_one_clear_line(words, message, capsys, elsewhere):
    assert message in fails(capsys, *words)
    assert not (elsewhere / "outputs" / "store").exists()


def test_sbibm_that_is_not_installed(capsys, monkeypatch):
    monkeypatch.setattr("robust_npe.tasks.sbibm.find_spec", lambda name: None)
    message = fails(capsys, "train", "task=sbibm/two_moons")
    assert "pip install 'robust-npe[sbibm]'" in message


def test_sweep(capsys, elsewhere):
    words = ["train", "-m", "scale=smoke", "num_simulations=64", "training.max_epochs=1"]
    words += ["plots=false", "epsilon=1", "estimator=gaussian", "seed=0,1"]
    assert cli.main(words) == 0
    assert len(list(elsewhere.glob("outputs/runs/*/results.csv"))) == 2
    assert capsys.readouterr().out.count("gaussian_linear, gaussian, defense none") == 2


def test_sweep_on_all_cores(capsys, elsewhere):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["train", "-m", "hydra/launcher=cores", "scale=smoke", "num_simulations=64"]
    words += ["training.max_epochs=1", "plots=false", "epsilon=1", "estimator=gaussian"]
    assert cli.main([*words, "seed=0,1"]) == 0
    assert len(list(elsewhere.glob("outputs/runs/*/results.csv"))) == 2


def test_launcher_that_is_not_installed():
    error = MissingConfigException("", missing_cfg_file="hydra/launcher/joblib")
    assert hydra_message(error) == (
        "hydra/launcher=cores needs the joblib launcher: pip install '.[cores]'."
    )


def test_failed_job_of_a_sweep_is_logged_and_the_others_run(capsys, elsewhere):
    words = ["train", "-m", "scale=smoke", "num_simulations=64", "training.max_epochs=1"]
    words += ["plots=false", "epsilon=1", "estimator=gaussian", "beta=-1,1"]
    assert "beta=-1.0 is not valid" in fails(capsys, *words)
    assert len(list(elsewhere.glob("outputs/runs/*/results.csv"))) == 1
    logs = [p.read_text() for p in elsewhere.glob("outputs/logs/*/0/train.log")]
    assert "failed: beta=-1.0 is not valid" in logs[0]
