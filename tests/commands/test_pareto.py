from __future__ import annotations

from functools import partial

import pandas as pd
import pytest
from PIL import Image

from robust_npe import cli
from robust_npe.store import RESULT_COLUMNS, Store
from robust_npe.store.results import write_table
from tests.plotting.tables import table
from tests.test_pareto import FIM, MIDDLE, NONE, STRONG, WEAK, run

pytestmark = pytest.mark.usefixtures("elsewhere")


def store(*runs):
    """Store each of the runs in `outputs`."""

    for number, rows in enumerate(runs):
        own = table(rows).assign(run_id=f"run {number}")
        make = partial(_write, own)
        Store("outputs").get("runs", {"number": number}, make)


def _write(rows, folder):
    write_table(rows, folder / "results.csv", RESULT_COLUMNS)


def test_front_answer_table_and_figure(elsewhere, capsys):
    store(NONE, WEAK, MIDDLE, STRONG, run(1.3, 1.0, defense="trades", beta=0.1))
    assert cli.main(["pareto", "to=new/front.csv"]) == 0
    out = capsys.readouterr().out
    assert "gl: 3 of 5 settings are not dominated" in out
    assert "fim beta=0.01: KL 4 instead of 10, for +0.050 nats relative to no defense" in out
    assert "trades: none; the cheapest, trades beta=0.1, costs +0.300 nats" in out
    written = pd.read_csv(elsewhere / "new" / "front.csv")
    front = written[written.non_dominated]
    assert [*zip(front.nll, front.kl, strict=True)] == [(1.0, 10.0), (1.05, 4.0), (1.3, 1.0)]
    assert len(written) == 5
    with Image.open(elsewhere / "new" / "front.png") as image:
        assert "Shaded: at most 0.1 nats" in image.info["Description"]


def test_what_a_loss_is_relative_to_is_told(capsys):
    store(WEAK, STRONG)
    assert cli.main(["pareto", "max_nll_loss=0.5"]) == 0
    out = capsys.readouterr().out
    assert "fim beta=0.1: KL 2, for +0.450 nats relative to the best NLL" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["epsilon=3"], "outputs has no runs with nll and kl_forward at radius 3: it is there at"),
        (["quantity=mmd"], "no runs with nll and mmd at radius 0.5: none has it"),
        (["epsilon=0"], "epsilon=0.0 is not valid: it must be a positive number"),
        (["max_nll_loss=-1"], "max_nll_loss=-1.0 is not valid"),
        (["to=front.txt"], "to='front.txt' is not valid: it must be a path that ends in .csv"),
        ([], "outputs has one setting for each task: train with defense=none,fim."),
    ],
)
def test_wrong_settings_are_one_line(words, message, capsys):
    store(run(1.05, 4.0, beta=0.01, **FIM))
    assert cli.main(["pareto", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
