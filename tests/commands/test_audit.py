from __future__ import annotations

import html
import os
import re
import shlex
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from robust_npe import cli
from robust_npe.commands import audit, train
from robust_npe.commands.words import with_changes
from robust_npe.interruption import INTERRUPTED
from tests.test_config import composed

SMALL = ("scale=smoke", "num_simulations=128", "training.max_epochs=1", "estimator=gaussian")
SMALL += ("epsilon=1", "plots=false", "metric=[nll]", "embedding=mlp", "embedding.hidden=[8]")
QUICK = ("attack=fgsm", "audit.num_samples=50", "audit.num_scores=8", "audit.num_predictive=20")
QUICK += ("audit.flow=false", "audit.num_pictured=1", "audit.num_minimal=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    output = tmp_path_factory.mktemp("outputs")
    run = train.main(composed(*SMALL, f"output_dir={output}")).folder.name
    generator = np.random.default_rng(0)
    np.save(output / "x.npy", generator.normal(size=(2, 10)))
    np.save(output / "theta.npy", generator.normal(size=(2, 10)))
    return output, run


def audited(trained, *words, x="x.npy"):
    output, run = trained
    given = (f"run='{run}'", f"x={output / x}", f"output_dir={output}", *QUICK, *words)
    return audit.main(composed(*given, command="audit"))


def tables(text):
    folder = next(line.strip() for line in text.splitlines() if line.endswith("attacks.csv"))
    return folder.removesuffix("attacks.csv")


def test_an_audit_writes_tables_pictures_and_the_page_once(trained, caplog):
    caplog.set_level("INFO")
    output, run = trained
    text = audited(trained, f"theta={output / 'theta.npy'}")
    folder = tables(text)
    assert "wrote:" in text
    table = pd.read_csv(f"{folder}attacks.csv")
    assert sorted(table.attack.unique()) == ["fgsm", "noise", "none"]
    assert table.epsilon.unique().tolist() == [0.0, 0.25, 0.5, 1.0]
    assert table.nll.notna().all()
    spaces = set(pd.read_csv(f"{folder}typicality.csv").space)
    assert spaces == {"data", "embedding", "all"}  # the embedding is an mlp
    page = (output / "audits" / folder.rstrip("/").rpartition("/")[2] / "audit.html").read_text()
    assert f"robust-npe audit run={run} x=" in page
    assert "gaussian of gaussian_linear, defense none" in page
    assert "a single feature" in page.lower()
    again = audited(trained, f"theta={output / 'theta.npy'}")
    assert "found:" in again
    assert "nothing to compute" in caplog.text
    assert again.replace("found:", "wrote:") == text


def test_columns_of_a_table_may_come_in_any_order(trained):
    output, _ = trained
    x = np.load(output / "x.npy")[:1]
    names = [f"x_{i + 1}" for i in range(10)]
    backwards = pd.DataFrame(x[:, ::-1], columns=names[::-1])
    backwards.to_csv(output / "x.csv", index=False)
    np.save(output / "one.npy", x[0])
    first, second = (tables(audited(trained, "report=false", x=n)) for n in ("x.csv", "one.npy"))
    assert first == second


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it must be the path of a file"),
        ("a,b\n", "has no rows"),
        ("a,b\n1,2\n", "has 2 columns, expected 10: x_1, x_2, x_3, x_4, x_5 and 5 more."),
        ("x_1,x_2\n1,2\n", "has 2 columns, expected 10"),
        (f"{','.join(f'x_{i}' for i in range(10))}\n{','.join('1' * 10)}\n", "no column x_10."),
        (f"{','.join('abcdefghij')}\n{','.join('1' * 9)},nan\n", "not finite in 1 of 1 rows"),
        (f"{','.join('1' * 10)}\n{','.join('1' * 10)}\n", "expected names of the columns"),
        (f"{','.join('abcdefghij')}\n{','.join('1' * 9)},q\n", "its column 'j' holds"),
    ],
)
def test_wrong_files_are_refused_in_one_line(trained, content, message, capsys, tmp_path):
    output, run = trained
    path = tmp_path / "wrong.csv"
    if content is not None:
        path.write_text(content)
    words = ["audit", f"run={run}", f"x={path}", f"output_dir={output}"]
    before = sorted(output.rglob("*"))
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"x='{path}'" in error
    assert message in error
    assert [p for p in sorted(output.rglob("*")) if "logs" not in p.parts] == [
        p for p in before if "logs" not in p.parts
    ]


def test_parameters_of_other_number_are_refused(trained, capsys, tmp_path):
    output, run = trained
    np.save(tmp_path / "theta.npy", np.zeros((3, 10)))
    words = ["audit", f"run={run}", f"x={output / 'x.npy'}", f"theta={tmp_path / 'theta.npy'}"]
    assert cli.main([*words, f"output_dir={output}"]) == 2
    assert "number of rows of theta=3" in capsys.readouterr().err


def test_what_comes_next_runs_as_it_is_printed(tmp_path, monkeypatch, capsys):
    """Steps of the page, typed into a shell: the defended training, and the audit of its run."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.full((1, 10), 0.3))
    train = ["train", *SMALL, "training.max_epochs=20", "output_dir=out"]
    train.remove("training.max_epochs=1")
    assert cli.main(train) == 0
    (run,) = (path.name for path in Path("out/runs").iterdir())
    first = ["audit", f"run={run}", "x=x.npy", "output_dir=out", *QUICK, "epsilon=4"]
    assert cli.main(first) == 0
    (page,) = Path("out/audits").glob("*/audit.html")
    text = html.unescape(page.read_text())
    assert f"<dd>{shlex.join(['robust-npe', *first])}</dd>" in text
    *others, training, audit = re.findall(r"<br><code>(robust-npe .*)</code>", text)
    assert training == shlex.join(["robust-npe", *train, "defense=fim", "beta=0.01"])
    assert all(other.endswith("attack=auto") for other in others)
    for command in (training, audit):
        assert cli.main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert len(list(Path("out/runs").iterdir())) == 2
    pages = [path.read_text() for path in Path("out/audits").glob("*/audit.html")]
    assert sum("defense fim beta=0.01, trained" in page for page in pages) == 1


def test_commands_with_changes():
    words = [
        "robust-npe",
        "--module",
        "my sim.py",
        "audit",
        "x=a.csv",
        "attack=pgd",
        "attack.steps=9",
    ]
    changed = with_changes(words, {"attack": "auto", "x": None})
    assert changed == "robust-npe --module 'my sim.py' audit attack=auto"


def test_an_audit_that_was_interrupted_goes_on(trained, monkeypatch):
    """Attacks are not repeated, and the tables are those of an audit without interruption."""
    output, _ = trained
    words = "report=false", "seed=3", "epsilon=[0.5,1]"
    whole = Path(tables(audited(trained, *words)))
    expected = {path.name: path.read_bytes() for path in whole.glob("*.csv")}
    shutil.rmtree(whole)
    with monkeypatch.context() as patch:
        patch.setattr("robust_npe.auditing.run.minimal", raised(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            audited(trained, *words)
    kept = {path.stem for path in output.glob("audits/*.partial/parts/*.npz")}
    attacks = {f"attack_{kind}_{radius}" for kind in (0, 1) for radius in (0, 1)}
    assert kept == attacks | {f"moved_{k}" for k in range(5)} | {"typicality"}
    monkeypatch.setattr("robust_npe.auditing.movement._searched", raised(AssertionError))
    again = Path(tables(audited(trained, *words)))
    assert {path.name: path.read_bytes() for path in again.glob("*.csv")} == expected
    assert not (again / "parts").exists()


def test_an_interruption_amid_compiled_code_is_one(trained, monkeypatch, capsys):
    """numba makes a SystemError of it."""

    def compiled(*arguments):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    monkeypatch.setattr("robust_npe.auditing.run.minimal", compiled)
    output, run = trained
    given = f"run={run}", f"x={output / 'x.npy'}", f"output_dir={output}", *QUICK, "seed=4"
    assert cli.main(["audit", *given]) == 143
    assert capsys.readouterr().err.splitlines()[-1] == f"robust-npe: {INTERRUPTED}"


def raised(kind):
    def function(*arguments, **settings):
        raise kind

    return function
