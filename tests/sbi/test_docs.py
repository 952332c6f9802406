"""The page about posteriors of sbi: its code runs, and shows what it says."""

from __future__ import annotations

import re
from pathlib import Path

from robust_npe import cli
from robust_npe.random import draws_from, stream

PAGE = Path(__file__).parents[2] / "docs" / "audit-sbi.md"


def test_the_code_of_the_page_runs(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    code = "\n".join(blocks)
    small = code.replace("simulate(10_000)", "simulate(1000)").replace("epochs=40", "epochs=8")
    assert small.count("epochs=8") == 2
    names = {}
    with draws_from(stream(0)):
        exec(compile(small, PAGE.name, "exec"), names)
    said = capsys.readouterr().out
    for what in ("KL under attack:", "inside of the prior:", "plain NLL:"):
        assert what in said
    theta, x = names["theta"][:20], names["x"][:20]
    expected = names["q_robust"](x).log_prob(theta)
    assert (names["again"](x).log_prob(theta) - expected).abs().max() < 1e-5
    (command,) = re.findall(r"^robust-npe (audit .*)$", PAGE.read_text(), re.M)
    quick = ("attack=fgsm", "audit.num_samples=50", "audit.num_predictive=0", "audit.num_minimal=1")
    quick += ("audit.num_scores=8", "audit.flow=false", "report=false")
    assert cli.main([*command.split(), *quick]) == 0
    assert "wrote:" in capsys.readouterr().out
