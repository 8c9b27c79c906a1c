# SPDX-License-Identifier: Apache-2.0
"""Learn then Test: the boldest threshold whose risk, in a user's own loss, is provably low."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jepa_edge.errors import CalibrationError
from jepa_edge.risk import RiskThreshold

_ROUNDING = 1e-9
"""Slack for episodes * risk, which floating point puts beside the integer."""

_MOST_EPISODES = 10_000_000
"""Beyond this many more episodes, the advice is to change the limit instead."""


def episode_losses(
    scores: Sequence[NDArray[np.float64]],
    losses: Sequence[NDArray[np.float32]],
    thresholds: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the mean loss over the frames of each episode at each threshold: (n, Q) float64.

    scores: largest channel score at every frame, (T_k + 1,); NaN or minus infinity where a frame
    was not judged. losses: the recording's, (T_k + 1,) in [0, 1], incurred at a frame if the robot
    still acts on the model there. thresholds: (Q,). The first score above a threshold latches the
    alarm, and from that very frame on nothing is lost; before the first judged frame all is.
    Raises CalibrationError when an episode's scores and losses differ in length.
    """
    rows = np.empty((len(scores), thresholds.size))
    for index, (score, loss) in enumerate(zip(scores, losses, strict=True)):
        if score.shape != loss.shape or loss.ndim != 1:
            raise CalibrationError(
                f"risk episode {index} has scores of shape {score.shape} and losses of shape "
                f"{loss.shape}, expected one of each per frame"
            )
        highest = np.maximum.accumulate(np.where(np.isnan(score), -np.inf, score))
        lost = np.concatenate([[0.0], np.cumsum(loss, dtype=np.float64)])
        # Frames up to the first score above the threshold: `highest` is sorted.
        rows[index] = lost[np.searchsorted(highest, thresholds, side="right")] / len(loss)
    return np.clip(rows, 0.0, 1.0)


def hoeffding_bentkus(
    risk: NDArray[np.float64], episodes: int, max_risk: float
) -> NDArray[np.float64]:
    """Return p-values, same shape as risk, of the true risk being above max_risk.

    risk: mean of `episodes` independent losses in [0, 1].
    Source: Angelopoulos et al. 2021, Learn then Test, section 3.1; Bates et al. 2021, eq. 6.
    """
    capped = np.minimum(risk, max_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(capped > 0.0, capped * np.log(capped / max_risk), 0.0)
    relative = relative + (1.0 - capped) * np.log((1.0 - capped) / (1.0 - max_risk))
    hoeffding = np.exp(-episodes * relative)
    bentkus = np.e * stats.binom.cdf(np.ceil(episodes * risk - _ROUNDING), episodes, max_risk)
    return np.asarray(np.minimum(hoeffding, bentkus), np.float64)


def fixed_sequence(p_values: NDArray[np.float64], delta: float) -> NDArray[np.int64]:
    """Return how many hypotheses, from the first on, are rejected before one is not: (...,).

    p_values: (..., Q) in an order that was fixed beforehand. All rejections together are wrong
    with probability at most delta, without correction: testing ends at the first true hypothesis.
    Source: Angelopoulos et al. 2021, Learn then Test, section 2.
    """
    return np.asarray(np.sum(np.cumprod(p_values <= delta, axis=-1), axis=-1), np.int64)


def learn_threshold(
    losses: NDArray[np.float64], thresholds: NDArray[np.float64], max_risk: float, delta: float
) -> RiskThreshold:
    """Return the largest threshold whose risk is at most max_risk with confidence 1 - delta.

    losses: (n, Q) in [0, 1] from `episode_losses`, the episodes exchangeable with those to come.
    thresholds: (Q,) ascending, the most cautious first, fixed without a look at these episodes:
    the nominal scores of the thresholds' own calibration do.
    Raises CalibrationError when not even the first one can be accepted, saying how many more
    episodes are needed.
    """
    _check(losses, thresholds, max_risk, delta)
    count = len(losses)
    risk = losses.mean(axis=0)
    p_values = hoeffding_bentkus(risk, count, max_risk)
    passed = int(fixed_sequence(p_values, delta))
    if passed == 0:
        raise CalibrationError(_refusal(float(risk[0]), count, max_risk, delta))
    best = passed - 1
    return RiskThreshold(
        threshold=float(thresholds[best]),
        max_risk=max_risk,
        delta=delta,
        episodes=count,
        risk=float(risk[best]),
        p_value=float(p_values[best]),
        candidates=thresholds.size,
        passed=passed,
    )


def required_risk_episodes(
    risk: float, max_risk: float, delta: float, recorded: int = 0
) -> int | None:
    """Return how many episodes prove max_risk if their mean loss is `risk`; None if no number does.

    59 for no loss at all, max_risk 0.05 and delta 0.05. recorded: episodes that do not suffice.
    """

    def proven(episodes: int) -> bool:
        return bool(hoeffding_bentkus(np.array(risk), episodes, max_risk) <= delta)

    if risk >= max_risk or not proven(_MOST_EPISODES):
        return None
    low, high = recorded, _MOST_EPISODES
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proven(middle) else (middle, high)
    return high


def _refusal(risk: float, count: int, max_risk: float, delta: float) -> str:
    needed = required_risk_episodes(risk, max_risk, delta, count)
    found = (
        f"mean loss {risk:.4g} in {count} episodes at the most cautious threshold does not show "
        f"a risk of at most {max_risk:g} at confidence {1.0 - delta:g}"
    )
    if needed is None:
        return f"{found}, and no number of episodes would; raise --max-risk or change the loss"
    return (
        f"{found}: {needed} episodes with that loss are needed; record {needed - count} more, "
        "or raise --max-risk or --risk-delta"
    )


def _check(
    losses: NDArray[np.float64], thresholds: NDArray[np.float64], max_risk: float, delta: float
) -> None:
    for name, value in (("max_risk", max_risk), ("delta", delta)):
        if not math.isfinite(value) or not 0.0 < value < 1.0:
            raise CalibrationError(f"{name} is {value:g}, expected a number between 0 and 1")
    if losses.ndim != 2 or losses.shape[1:] != thresholds.shape or losses.size == 0:
        raise CalibrationError(
            f"losses have shape {losses.shape} for {thresholds.size} thresholds, expected "
            "(episodes, thresholds), one episode or more"
        )
    if not ((losses >= 0.0) & (losses <= 1.0)).all():
        raise CalibrationError("losses lie outside 0 to 1; scale the recording's loss")
    if not np.isfinite(thresholds).all() or (np.diff(thresholds) <= 0.0).any():
        raise CalibrationError("thresholds must be finite and rise, the most cautious one first")
