"""Tables of margins: what was measured at each observation of encoders, and some images."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from robust_npe.commands.experiment import Experiment
from robust_npe.encoders import Encoder
from robust_npe.recipes.examples import rounded
from robust_npe.recipes.recipe import Recipe
from robust_npe.recipes.stored import attacked
from robust_npe.recipes.tables import observations, results
from robust_npe.store import StoreError
from robust_npe.tasks import Images

__all__ = ["margin_images", "margins_table"]

KEYS = ["run_id", "task", "estimator", "defense", "beta", "num_simulations", "seed"]
KEYS += ["attack", "norm", "epsilon", "epsilon_unit"]
TOLD = ["kl_weight", "diverged"]
CLEAN = ["margin_published", "margin_spectral", "margin_fisher_rao", "margin_upper"]
CLEAN += ["encoder_std", "encoder_variance", "jacobian_norm"]
ATTACKED = ["likelihood_degradation", "damage", "damage_noise"]


def margins_table(recipes: Sequence[Recipe], epsilon: float) -> pd.DataFrame:
    """Return one row for each observation of each run.

    Columns: the settings of the run, `kl_weight` of the estimator, `diverged` (1 where its training
    had to restore earlier weights), `observation`, what `MarginBound` and `MarginMeasured` measure,
    and `likelihood_degradation`, `damage` and `damage_noise` at one radius.

    Args:
        recipes: Their runs are finished.
        epsilon: The radius.

    Raises:
        StoreError: Runs are missing, or did not measure that.
    """
    table = observations(recipes)["observations"]
    perturbed = table[(table.attack != "none") & (table.epsilon == epsilon)]
    clean = table[(table.attack == "none") & table.metric.isin(CLEAN)]
    rows = pd.concat([clean, perturbed[perturbed.metric.isin(ATTACKED)]])
    wide = rows.pivot_table(index=["run_id", "observation"], columns="metric", values="value")
    if lacking := {*CLEAN, *ATTACKED} - {*wide.columns}:
        raise StoreError(f"the runs lack {', '.join(sorted(lacking))} at radius {epsilon:g}")
    told = results(recipes)["results"].drop_duplicates(["run_id", "statistic"])
    told = told.pivot(index="run_id", columns="statistic", values="value")[TOLD]
    settings = perturbed.drop_duplicates("run_id")[KEYS].merge(told, on="run_id")
    found = wide.dropna().reset_index().merge(settings, on="run_id")
    measured = found[[*CLEAN, *ATTACKED]].apply(rounded)
    return found[[*KEYS, *TOLD, "observation"]].join(measured)


def margin_images(
    experiments: Sequence[Experiment], table: pd.DataFrame, epsilon: float
) -> pd.DataFrame:
    """Return the images of the observations with the largest and the smallest measured margin of
    the run with the smallest `kl_weight`.

    Columns: settings as in `margins_table`, `observation`, `margin_upper`, `image` (one of
    original, perturbed, perturbation, reconstruction, attacked), `row`, `column`, `value`.

    Args:
        experiments: Finished runs.
        table: From `margins_table`.
        epsilon: Radius of the attack.
    """
    ranked = table.sort_values(["kl_weight", "seed"])
    of_run = ranked[ranked.run_id == ranked.run_id.iloc[0]].sort_values("margin_upper")
    runs = {e.run_id: e for e in experiments}
    experiment = runs[of_run.run_id.iloc[0]]
    tables = []
    for which in (-1, 0):
        row = of_run.iloc[which]
        keys = row[[*KEYS, *TOLD, "observation", "margin_upper"]].to_dict()
        for name, pixels in _images(experiment, int(row.observation), epsilon).items():
            tables.append(_pixels(experiment, pixels).assign(**keys, image=name))
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def _images(experiment: Experiment, number: int, epsilon: float) -> dict[str, Tensor]:
    _, *both = attacked(experiment, epsilon)
    encoder = Encoder(experiment.trained().posterior)
    clean, perturbed = (x[number : number + 1] for x in both)
    return {
        "original": clean,
        "perturbed": perturbed,
        "perturbation": perturbed - clean,
        "reconstruction": encoder.reconstruct(clean),
        "attacked": encoder.reconstruct(perturbed),
    }


def _pixels(experiment: Experiment, image: Tensor) -> pd.DataFrame:
    """Rows of the pixels of one image `(1, Dx)`."""
    task = experiment.task
    side = task.side if isinstance(task, Images) else (1, task.dim_x)
    rows = pd.DataFrame(image.cpu().reshape(side).numpy()).rename_axis("row")
    long = rows.melt(var_name="column", ignore_index=False).reset_index()
    return long.assign(value=rounded(long.value))
