from __future__ import annotations

import math

import pandas as pd
import pytest

from robust_npe.commands.experiment import Experiment
from robust_npe.defenses import NoDefense
from robust_npe.plotting import NothingToDrawError, training_plot
from robust_npe.plotting.saving import caption_of
from robust_npe.training import History, history_table, read_history, write_history
from tests.test_config import composed
from tests.training.test_checkpoints import small_maf, trained

HISTORY = History(
    train_loss=[3.0, 2.0, 0.1 + 0.2],
    validation_loss=[3.5, 1 / 3],
    best_epoch=1,
    diverged=True,
    learning_rate=[1e-2, 1e-2, 3e-3],
)


def test_a_row_for_each_epoch(tmp_path):
    table = history_table(HISTORY)
    assert list(table.columns) == [
        "epoch",
        "train_loss",
        "validation_loss",
        "learning_rate",
        "is_best",
    ]
    assert list(table.is_best) == [False, True, False]
    assert math.isnan(table.validation_loss[2])  # it diverged before
    write_history(history_table(HISTORY), tmp_path / "history.csv")
    pd.testing.assert_frame_equal(read_history(tmp_path / "history.csv"), table, check_exact=True)


def test_picture_of_losses_and_best_epoch():
    figure = training_plot([history_table(HISTORY), history_table(HISTORY)])
    losses, rates = figure.subfigs[0].axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in losses.get_lines()}
    assert drawn["training"] == HISTORY.train_loss
    assert drawn["validation"][:2] == HISTORY.validation_loss
    best = [line for line in losses.get_lines() if line.get_label().startswith("best")]
    assert [list(line.get_xdata()) for line in best] == [[1, 1], [1, 1]]
    assert list(rates.get_lines()[0].get_ydata()) == HISTORY.learning_rate
    assert rates.get_yscale() == "log"
    with pytest.raises(NothingToDrawError):
        training_plot([history_table(History())])


def test_an_exploded_loss_hides_no_others():
    usual = [5.0 - i / 30 for i in range(100)]
    exploded = History([1e8, *usual], [math.nan, *usual], 5, False, [1e-2] * 101)
    for history, top, caption in (
        (History(usual, usual, 5, False, [1e-2] * 100), 5.2, ""),
        (exploded, 8.0, "1 losses, up to 1e+08, lie above the axis."),
    ):
        figure = training_plot([history_table(history)])
        losses = figure.subfigs[0].axes[0]
        assert losses.get_ylim()[1] == pytest.approx(top, abs=0.2)
        assert losses.get_ylim()[0] < min(usual)
        assert caption_of(figure) == caption


def test_trackers_are_told_every_epoch():
    class Listening:
        def __init__(self):
            self.told = []

        def log(self, epoch, values):
            self.told.append((epoch, values))

    tracker = Listening()
    history = trained(small_maf, NoDefense(), tracker=tracker)[1]
    rows = history_table(history).drop(columns="is_best").to_dict("records")
    assert [{"epoch": epoch, **values} for epoch, values in tracker.told] == rows
    assert len(rows) == 3


def test_tensorboard_gets_the_history(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("scale=smoke", "estimator=gaussian", "num_simulations=100", "training.max_epochs=2")
    words += ("tracker=tensorboard", f"output_dir={tmp_path}")
    (artefact,) = Experiment(composed(*words)).trained().artefacts
    events = EventAccumulator(str(tmp_path / "tensorboard" / artefact.key)).Reload()
    told = [event.value for event in events.Scalars("validation_loss")]
    assert told == pytest.approx(artefact.manifest["facts"]["validation_loss"])
