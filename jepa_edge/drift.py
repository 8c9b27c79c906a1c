# SPDX-License-Identifier: Apache-2.0
"""Watches for slow drift: a conformal test martingale over blocks of steps, valid at any time."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from jepa_edge.errors import InputError

_POWERS = (0.1, 0.25, 0.5, 0.75)
"""Exponents kappa of the bets kappa p^(kappa - 1): small ones for strong drift, large for weak."""

_ONSET = 20
"""Blocks within which half of the capital is put to work: the prior of the drift's onset."""

CAPACITY = 4096
"""Block scores that a robot keeps: 32 kB, about a day of 20-second blocks."""


class DriftReference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What nominal blocks score, and how much evidence against it makes an alarm.

    nominal: score of one block of each nominal episode, ascending. block_steps: steps per block.
    alpha: probability that a robot that stays nominal ever raises the alarm between one start of
    its process and the next, over the recording, the runs and the seed. seed: of the ranks'
    smoothing. capacity: block scores kept at most.
    """

    nominal: tuple[float, ...]
    block_steps: Annotated[int, Meta(ge=1)]
    alpha: Annotated[float, Meta(gt=0.0, lt=1.0)]
    seed: Annotated[int, Meta(ge=0)]
    capacity: Annotated[int, Meta(ge=1)]

    def __post_init__(self) -> None:
        """Raise ValueError when the scores are not finite and ascending, or more than capacity."""
        if not self.nominal or not all(math.isfinite(score) for score in self.nominal):
            raise ValueError(
                f"nominal holds {len(self.nominal)} scores, expected one or more, all finite"
            )
        if list(self.nominal) != sorted(self.nominal):
            raise ValueError("nominal is not ascending, expected sorted block scores")
        if len(self.nominal) > self.capacity:
            raise ValueError(
                f"nominal holds {len(self.nominal)} scores, expected capacity {self.capacity} "
                "or fewer"
            )


class DriftMonitor:
    """Collects step scores into blocks and bets against their being nominal.

    Every block is ranked among the nominal blocks *and all earlier run-time blocks*. If these are
    exchangeable, the smoothed ranks are independent and uniform; ranks among the nominal blocks
    alone are not, because all of them share one draw of the reference. The capital of bets on
    small ranks is then a martingale that starts at 1, and it ever reaches 1 / alpha with
    probability at most alpha, whenever one looks. Part of the capital sleeps and is put to work
    block by block, so that late drift is found too. The alarm stays until `reset`.

    Memory: at most `reference.capacity` scores. Beyond that, one score, drawn uniformly from all
    of them and the newest, is forgotten after every block. That choice ignores the values and the
    order, so the ranks stay independent and uniform; but nominal scores are forgotten too, and
    drift much slower than `capacity` blocks goes unseen.

    The reference was made of blocks that start with their episode. So is every run-time block: the
    first `block_steps` steps of an episode; the rest of a longer one, or of one with a gap in it,
    is not exchangeable with them and is left out.

    All of it dies with the process: a new one begins a new test, with a new alpha, and drift that
    is slower than the time between two starts goes unseen.
    Source: Vovk, Nouretdinov & Gammerman 2003, Testing exchangeability on-line; Ville 1939.
    """

    def __init__(self, reference: DriftReference) -> None:
        self.reference = reference
        self._steps: list[float] = []
        self._skipping = False
        self.reset()

    @property
    def value(self) -> float:
        """Evidence of drift, an e-value: at 1 / alpha it alarms. 1 at the start."""
        return self._asleep + sum(self._awake)

    @property
    def alarmed(self) -> bool:
        """True from the first block at which the evidence reached 1 / alpha, until `reset`."""
        return self._alarmed

    @property
    def p_value(self) -> float:
        """Smoothed conformal p-value of the last block; 1 before the first."""
        return self._p_value

    @property
    def blocks(self) -> int:
        """Blocks judged since the last reset."""
        return self._blocks

    def reset(self) -> None:
        """Start a new test, with a new alpha, from the nominal blocks; the episode goes on."""
        self._rng = np.random.default_rng(self.reference.seed)
        self._scores = list(self.reference.nominal)
        self._asleep = 1.0
        self._awake = [0.0] * len(_POWERS)
        self._alarmed = False
        self._p_value = 1.0
        self._blocks = 0

    def start_episode(self) -> None:
        """Begin a block with the next step; one that is unfinished is dropped."""
        self._steps.clear()
        self._skipping = False

    def skip_episode(self) -> None:
        """Drop an unfinished block, and begin none until `start_episode`: the input had a gap."""
        self._steps.clear()
        self._skipping = True

    def add_step(self, score: float) -> bool:
        """Add one step's largest channel score; return whether the alarm is raised.

        Steps after the episode's first block count for nothing until `start_episode`.
        Raises InputError when the score is not finite; the block is then as before.
        """
        _check_score(score)
        if self._skipping or len(self._steps) == self.reference.block_steps:
            return self._alarmed
        self._steps.append(score)
        if len(self._steps) < self.reference.block_steps:
            return self._alarmed
        return self.add_block(block_score(self._steps))

    def add_block(self, score: float) -> bool:
        """Add one block's score; return whether the alarm is raised, which ends the test.

        Raises InputError when the score is not finite.
        """
        _check_score(score)
        if self._alarmed:
            return True
        left = bisect.bisect_left(self._scores, score)
        right = bisect.bisect_right(self._scores, score, lo=left)
        size = len(self._scores)
        smooth = 1.0 - float(self._rng.random())  # in (0, 1]: a p-value is never 0
        self._p_value = (size - right + smooth * (right - left + 1)) / (size + 1)
        self._scores.insert(right, score)
        if size == self.reference.capacity:
            del self._scores[int(self._rng.integers(size + 1))]
        self._bet(self._p_value)
        self._alarmed = self.value >= 1.0 / self.reference.alpha
        return self._alarmed

    def _bet(self, p_value: float) -> None:
        """Wake a part of the sleeping capital and stake all that is awake on a small p-value."""
        woken = self._asleep / (_ONSET + self._blocks)
        self._asleep -= woken
        share = woken / len(_POWERS)
        self._awake = [
            (capital + share) * power * p_value ** (power - 1.0)
            for capital, power in zip(self._awake, _POWERS, strict=True)
        ]
        self._blocks += 1


def block_score(scores: Sequence[float] | NDArray[np.float64]) -> float:
    """Return the score of one block: the mean of its steps' scores.

    scores: largest channel score of each step. Slow drift moves the mean more than the maximum.
    """
    return float(np.mean(np.asarray(scores, np.float64)))


def conformal_p_values(
    nominal: NDArray[np.float64],
    scores: NDArray[np.float64],
    smooth: NDArray[np.float64] | float = 1.0,
) -> NDArray[np.float64]:
    """Return the conformal p-value of each score among the nominal ones, same shape as scores.

    nominal: (n,) in any order. smooth: uniform random numbers in (0, 1], which make p-values of
    exchangeable scores exactly uniform; 1, the plain p-value, is never smaller.
    Values that share one draw of `nominal` depend on each other: do not multiply them up.
    Source: Vovk et al. 2005, eqs. 2.18 and 2.20.
    """
    ordered = np.sort(nominal)
    left = np.searchsorted(ordered, scores, side="left")
    right = np.searchsorted(ordered, scores, side="right")
    above, equal = ordered.size - right, right - left
    return np.asarray((above + smooth * (equal + 1)) / (ordered.size + 1), np.float64)


def _check_score(score: float) -> None:
    if not math.isfinite(score):
        raise InputError(
            f"drift score is {score}, expected a finite number; pass the largest channel score of "
            "a step that was judged"
        )
