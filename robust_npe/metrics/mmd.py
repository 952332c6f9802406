"""Maximum mean discrepancy: between clean and attacked posterior, and to stored references."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from robust_npe.checks import require, require_whole
from robust_npe.discrepancy import mmd
from robust_npe.metrics.base import Context, Measurement, Metric, batched, summary_rows
from robust_npe.posterior import as_vectors
from robust_npe.random import draws_from

__all__ = ["MMD", "mmd"]

BLOCK = 32  # observations whose kernel matrices are held together


class MMD(Metric):
    """Squared maximum mean discrepancy.

    - `mmd` on attacked data: between q(.|x) and q(.|x~), the sensitivity of q;
    - `mmd_reference` on clean data of tasks that store reference posteriors: between q and the
      reference samples, one row per reference observation and their mean.

    Args:
        num_samples: Samples from each side, at least 2.
        num_references: How many reference observations, from the first; 0 for none.
    """

    name = "mmd"

    def __init__(self, num_samples: int = 256, num_references: int = 10) -> None:
        require(num_samples > 1, "metrics.mmd.num_samples", num_samples, "at least 2")
        require_whole("metrics.mmd.num_references", num_references)
        self.num_samples = num_samples
        self.num_references = num_references

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        if context.attacked:
            values = self._sensitivity(context)
            return [Measurement("mmd", summary_rows(values), values)]
        count = min(self.num_references, context.task.num_references)
        if count == 0:
            return []
        scores = [self._reference(context, i) for i in range(1, count + 1)]
        rows = [
            {"statistic": "reference", "level": float(i), "value": score}
            for i, score in enumerate(scores, 1)
        ]
        rows.append({"statistic": "mean", "level": None, "value": sum(scores) / count})
        return [Measurement("mmd_reference", rows)]

    def _sensitivity(self, context: Context) -> Tensor:
        generator = context.generator("mmd")

        def moved(_: Tensor, x: Tensor, x_adv: Tensor) -> Tensor:
            with draws_from(generator):
                p, q = (
                    as_vectors(d, d.sample((self.num_samples,))).movedim(0, -2)
                    for d in (context.q(x), context.q(x_adv))
                )
            pairs = zip(p.split(BLOCK), q.split(BLOCK), strict=True)
            return torch.cat([mmd(a, b) for a, b in pairs])

        return batched(context, moved)

    def _reference(self, context: Context, i: int) -> float:
        reference = context.task.reference(i)
        x = reference.x.to(context.x.device).unsqueeze(0)
        with draws_from(context.generator(f"mmd {i}")), torch.no_grad():
            q = context.q(x)
            samples = as_vectors(q, q.sample((self.num_samples,))).squeeze(1).cpu()
        return float(mmd(reference.samples[: self.num_samples], samples))
