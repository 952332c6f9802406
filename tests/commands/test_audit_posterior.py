"""`robust-npe audit posterior=<file>`: what is audited, and one line for whatever is wrong."""

from __future__ import annotations

import html
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import robust_npe as rn
from robust_npe import cli
from robust_npe.consent import VARIABLE
from robust_npe.random import draws_from, stream
from tests.auditing.common import exact, pairs

QUICK = ("attack=fgsm", "audit.num_samples=50", "audit.num_scores=8", "audit.num_predictive=20")
QUICK += ("audit.flow=false", "audit.num_pictured=1", "audit.num_minimal=1", "report=false")
BUILDER = '''
import torch
from torch import nn
from torch.distributions import MultivariateNormal


class Gain(nn.Module):
    """A posterior with linear mean."""

    def __init__(self, dim_theta, dim_x):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(dim_x, dim_theta))
        self.covariance = nn.Parameter(torch.eye(dim_theta))

    def forward(self, x):
        return MultivariateNormal(x @ self.gain, self.covariance)
'''
SIMULATOR = """
import torch
from tests.auditing.common import PRIOR as prior, simulate
"""


class Bomb:
    def __reduce__(self):
        return print, ("boom",)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The exact posterior in files, observations, and simulations."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_files()
    return folder


@pytest.fixture
def folder(files, tmp_path, monkeypatch):
    """They, in a folder of the test's own."""
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.chdir(shutil.copytree(files, tmp_path / "own"))
    return files


def write_files():
    Path("gain_of_x.py").write_text(BUILDER)
    Path("simulator_of_x.py").write_text(SIMULATOR)
    names: dict = {}
    exec(BUILDER, names)
    net, basis = names["Gain"](2, 6), exact(torch.eye(6))
    with torch.no_grad():
        net.gain.copy_(basis.mean)
        net.covariance.copy_(basis.covariance_matrix[0])
    rn.save_posterior(net, "q.safetensors", "gain_of_x:Gain", (2, 6))
    theta, x = (values.numpy() for values in pairs(300))
    np.savez("pairs.npz", theta=theta, x=x)
    np.save("theta.npy", theta)
    np.save("wide.npy", np.hstack([x, x]))
    np.save("x.npy", x[:2])
    np.save("t.npy", theta[:2])
    pd.DataFrame(x[:2], columns=list("abcdef")).to_csv("x.csv", index=False)
    torch.save({"weights": torch.ones(2)}, "dict.pt")
    torch.save(Bomb(), "bomb.pt")
    Path("broken.safetensors").write_bytes(b"nothing")


def audit(folder, *words, modules=("gain_of_x.py",)):
    given = [f"--module={folder / module}" for module in modules]
    return cli.main([*given, "audit", *words, *QUICK])


def newest(name):
    paths = sorted(Path("outputs/audits").glob(f"*/{name}.csv"), key=lambda p: p.stat().st_mtime)
    return pd.read_csv(paths[-1])


def test_files_give_what_python_gives(folder, capsys):
    given = "posterior=q.safetensors", "x=x.csv", "theta=t.npy", "simulations=pairs.npz"
    assert audit(folder, *given) == 0
    assert "wrote:" in capsys.readouterr().out
    stored = np.load("pairs.npz")
    report = rn.audit(
        exact,
        np.load("x.npy"),
        np.load("t.npy"),
        simulations=(stored["theta"], stored["x"]),
        method=rn.attacks.FGSM(rn.attacks.KLForward()),
        settings=rn.auditing.AuditSettings(
            num_samples=50, num_scores=8, num_minimal=1, num_pictured=1, flow=False
        ),
    )
    for name in ("attacks", "typicality", "quality", "threat"):
        expected, found = report.tables[name], newest(name).fillna(np.nan)
        assert list(found.columns) == list(expected.columns)
        numbers = expected.select_dtypes("number").columns
        np.testing.assert_allclose(found[numbers], expected[numbers], rtol=1e-3, atol=1e-4)
    assert newest("quality").metric.eq("nll").any()
    assert audit(folder, *given) == 0
    said = capsys.readouterr()
    assert "found:" in said.out
    assert "nothing to compute" in said.err


def test_without_simulations_names_are_those_of_the_file(folder):
    given = "posterior=q.safetensors", "x=x.csv", "epsilon=0.1", "epsilon_unit=absolute"
    assert audit(folder, *given) == 0
    assert newest("sensitivity").feature.unique().tolist() == list("abcdef")
    assert newest("quality").empty


def test_a_simulator_makes_the_simulations(folder):
    task = (
        "task=function",
        "task.simulator=simulator_of_x:simulate",
        "task.prior=simulator_of_x:prior",
    )
    few = "audit.num_simulations=60", "audit.num_held_out=40"
    modules = "simulator_of_x.py", "gain_of_x.py"
    assert audit(folder, "posterior=q.safetensors", "x=x.npy", *task, *few, modules=modules) == 0
    assert newest("typicality").num_held_out.unique().tolist() == [40]
    assert len(newest("predictive"))


def test_pickles_of_known_classes_need_no_trust_and_others_need_it(folder, capsys):
    import zuko

    with draws_from(stream(0)):
        torch.save(zuko.flows.GMM(2, 6, components=2), "gmm.pt")
    small = "x=x.npy", "epsilon=0.1", "epsilon_unit=absolute"
    assert audit(folder, "posterior=gmm.pt", *small) == 0
    torch.save(rn.attacks.Noise(), "other.pt")
    assert audit(folder, "posterior=other.pt", *small) == 2
    assert "it would import robust_npe.attacks.base.Noise" in capsys.readouterr().err
    assert audit(folder, "posterior=other.pt", "trust=true", *small) == 2
    said = capsys.readouterr().err
    assert "other.pt is loaded as a pickle, which may run any code: trusted" in said
    assert "the posterior at x with 6 features raised TypeError" in said


OF_TASK = ["task=function", "task.simulator=simulator_of_x:simulate"]
OF_TASK.append("task.prior=simulator_of_x:prior")


def steps(folder, given):
    """Return the commands of the page about an audit."""
    few = "audit.num_simulations=60", "audit.num_held_out=40", "audit.num_samples=30"
    quick = [word for word in QUICK if not word.startswith(("report", "audit.num_samples"))]
    consent = (f"--module={folder / name}.py" for name in ("gain_of_x", "simulator_of_x"))
    words = "posterior=q.safetensors", "x=x.npy", "epsilon=2", *given
    assert cli.main([*consent, "audit", *words, *few, *quick]) == 0
    (page,) = Path("outputs/audits").glob("*/audit.html")
    return re.findall(r"<br><code>(.*)</code>", html.unescape(page.read_text()))


def test_what_comes_next_with_simulations_runs_as_it_is_printed(folder, capsys):
    """A defended training on them, and the audit of its run."""
    stored = np.load("pairs.npz")
    np.savez("few.npz", theta=stored["theta"][:110], x=stored["x"][:110])
    *_, training, audit = steps(folder, ["simulations=few.npz"])
    for command in (training, audit):
        assert cli.main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert len(list(Path("outputs/runs").iterdir())) == 1
    assert len(list(Path("outputs/audits").iterdir())) == 2


def test_what_comes_next_of_a_task_is_a_training_on_it(folder):
    *_, training, audit = steps(folder, OF_TASK)
    own = f"simulator_of_x.py train {' '.join(OF_TASK)}"
    assert training.endswith(f"{own} defense=fim beta=0.01")
    assert re.search(r" audit x=x.npy epsilon=2 .*run=[0-9a-f]{16}$", audit)


def test_what_comes_next_where_nothing_is_known_is_for_sbi(folder):
    code = steps(folder, ["epsilon_unit=absolute"])[0]
    assert code.startswith("import robust_npe as rn; builder = rn.integrations.sbi.defended(")
    compile(code, "page", "exec")


WRONG = """
posterior=nope.safetensors -> posterior='nope.safetensors' is not valid: it must be a plain file
posterior=broken.safetensors -> posterior='broken.safetensors' is no file of weights
posterior=q.safetensors run=0123456789abcdef -> both are set.
posterior=q.safetensors builder=gain_of_x:Gian -> builder='gain_of_x:Gian' is not valid
posterior=q.safetensors builder=zuko:os -> a class of zuko.flows, e.g. zuko:MAF
posterior=bomb.pt -> it would import builtins.print
posterior=dict.pt -> posterior='dict of weights, ...' is not valid: it must be a posterior; weights
posterior=q.safetensors x=nope.csv -> x='nope.csv' is not valid: it must be the path of a file.
posterior=q.safetensors x=wide.npy -> (300, 12)), the posterior takes 6
posterior=q.safetensors simulations=pairs.npz x=wide.npy -> has 12 values in each row
posterior=q.safetensors simulations=nope.npz -> simulations='nope.npz' is not valid
posterior=q.safetensors simulations=[theta.npy,x.npy] -> has 300 rows of theta and 2 of x
posterior=q.safetensors simulations=[theta.npy,wide.npy] -> (its shape is (2, 6)), expected 12
posterior=q.safetensors simulations=x.npy -> it must be an npz file with the arrays theta and x
posterior=q.safetensors simulations=pairs.npz objective=nll -> nll needs the parameters
posterior=q.safetensors simulations=pairs.npz objective=coverage -> give theta, or
posterior=q.safetensors simulations=[a,b,c] -> it must be an npz file with the arrays theta
posterior=q.safetensors simulations=pairs.npz theta=theta.npy -> number of rows of theta=300
posterior=q.safetensors simulations=pairs.npz theta=x.npy -> theta='x.npy' has 6 values in each row
posterior=q.safetensors task=gaussian_linear -> (its shape is (2, 6)), expected 10
posterior=q.safetensors -> epsilon_unit=auto needs simulator or simulations
posterior=q.safetensors epsilon=0.1 epsilon_unit=noise -> epsilon_unit=noise needs a task with known
posterior=q.safetensors epsilon=-1 epsilon_unit=absolute -> epsilon=-1 is not valid
posterior=q.safetensors epsilon=1 epsilon_unit=std norm=l3 -> norm='l3'
posterior=q.safetensors trust=maybe -> trust='maybe' is not valid
posterior=q.safetensors posterior.x=1 -> posterior
"""


@pytest.mark.parametrize("case", WRONG.strip().splitlines())
def test_wrong_input_is_told_in_one_line(case, folder, capsys):
    words, message = case.split(" -> ")
    given = words.split()
    if not any(word.startswith("x=") for word in given):
        given.append("x=x.npy")
    assert audit(folder, *given) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not Path("outputs/audits").exists()
