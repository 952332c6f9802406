"""The summary statistics once more: plain, slow, straight from their definitions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import stats
from scipy.signal import savgol_filter

DT = 0.025


def spike_positions(smooth: np.ndarray) -> list[int]:
    step = np.diff(smooth)
    return [
        k
        for k in range(len(smooth) - 2)
        if smooth[k + 1] > -10 and step[k] >= 0 and step[k + 1] <= 0
    ]


def group_bursts(times: list[float]) -> list[list[float]]:
    groups: list[list[float]] = []
    for time in times:
        if groups and time - groups[-1][-1] < 150:
            groups[-1].append(time)
        else:
            groups.append([time])
    return [group for group in groups if group[-1] - group[0] > 40]


def plateau(smooth: np.ndarray, bursts: list[list[float]], times: list[float]) -> float:
    if not bursts:
        return np.nan
    borders = [burst[0] for burst in bursts] + [times[-1]]
    longest = []
    for start, end in pairwise(borders):
        above = smooth[round(start / DT) : round(end / DT) : 10] > -30
        text = "".join("1" if x else "0" for x in above)
        ended = text[: text.rfind("0") + 1]
        longest.append(10 * max((len(run) for run in ended.split("0")), default=0))
    mean = float(np.mean(longest))
    return DT * (mean if mean >= 200 else 100)


def triphasic_periods(bursts: list[list[list[float]]]) -> list[tuple[list[float], ...]]:
    pd, lp, py = bursts
    found = []
    for now, following in pairwise(pd):
        inside = [[b for b in cell if now[0] <= b[0] < following[0]] for cell in (lp, py)]
        if all(len(x) == 1 for x in inside):
            found.append((now, inside[0][0], inside[1][0]))
    return found


def slow_statistics(voltage: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """The 15 statistics, the 21 optional ones, and whether the rhythm is pyloric-like."""
    smooth = [savgol_filter(v.astype(float), 21, 3) for v in voltage]
    times = [[k * DT for k in spike_positions(s)] for s in smooth]
    bursts = [group_bursts(t) for t in times]
    duration = [np.mean([b[-1] - b[0] for b in cell]) if cell else np.nan for cell in bursts]
    optional = [plateau(s, b, t) for s, b, t in zip(smooth, bursts, times, strict=True)]
    optional += [len(b) for b in bursts] + [len(t) for t in times]
    for v in voltage.astype(float):
        optional += [v.mean(), v.std(), stats.skew(v), stats.kurtosis(v)]

    result = np.full(15, np.nan)
    result[1:4] = duration
    like = False
    if len(bursts[0]) >= 2:
        cycle = np.mean(np.diff([b[0] for b in bursts[0]]))
        result[0] = cycle
        result[4:7] = result[1:4] / cycle
        periods = triphasic_periods(bursts)
        if len(periods) >= 0.9 * (len(bursts[0]) - 1):
            result[7] = np.mean([lp[0] - pd[0] for pd, lp, _ in periods]) / cycle
            result[8] = np.mean([py[0] - pd[0] for pd, _, py in periods]) / cycle
            result[9] = np.mean([lp[0] - pd[0] for pd, lp, _ in periods])
            result[10] = np.mean([py[0] - lp[0] for _, lp, py in periods])
            result[11] = np.mean([lp[0] - pd[-1] for pd, lp, _ in periods])
            result[12] = np.mean([py[0] - lp[-1] for _, lp, py in periods])
            result[13:15] = result[11:13] / cycle
            in_order = [
                lp[0] <= py[0] and lp[-1] <= py[-1] and pd[-1] <= lp[0] for pd, lp, py in periods
            ]
            like = sum(in_order) >= 0.7 * len(periods)
    return result, np.array(optional, dtype=float), like
