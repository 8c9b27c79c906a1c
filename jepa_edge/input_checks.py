# SPDX-License-Identifier: Apache-2.0
"""Whether a frame came in time and can be judged at all."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.flags import Reason
from jepa_edge.manifest import Manifest
from jepa_edge.session_config import MAX_HORIZON


class TimeCheck:
    """Holds every stamp against the clock and the stamp before it. Times in seconds."""

    def __init__(
        self,
        *,
        period_s: float,
        max_age_s: float,
        min_gap_periods: float,
        max_gap_periods: float,
        clock: Callable[[], float] | None,
    ) -> None:
        """clock: None means that input is never late. A time that is no number is always late."""
        self.max_age_s = max_age_s
        self._period_s = period_s
        self._min_gap_periods = max(min_gap_periods, 1e-9)  # a stamp may never repeat
        self._max_gap_periods = max_gap_periods
        self._clock = clock
        self._last_s = -math.inf
        self.kept = False
        self.input_age_s = 0.0

    def check(self, stamp_s: float, continues: bool = True) -> Reason:
        """Return STALE, CLOCK_JUMP, both or neither.

        continues: False when frames were lost before this one, which is a jump whatever the stamp
        is; but not for a first stamp, which continues nothing.
        `kept` tells whether the next stamp is held against this one: not if it is no number, or
        lies more than a period in the future. `input_age_s` is the age it had at this call.
        """
        self.kept = False
        age_s = self.input_age_s = self.age_s(stamp_s)
        if not math.isfinite(stamp_s):
            return Reason.CLOCK_JUMP
        if age_s < -self._period_s:
            # A stamp from the future is not kept: it would blind the watchdog until then.
            return Reason.CLOCK_JUMP
        reason = Reason(0)
        gap_periods = (stamp_s - self._last_s) / self._period_s
        first = not math.isfinite(self._last_s)
        within = self._min_gap_periods <= gap_periods <= self._max_gap_periods
        if not first and not (within and continues):
            reason |= Reason.CLOCK_JUMP
        self._last_s, self.kept = stamp_s, True
        if not age_s <= self.max_age_s:
            reason |= Reason.STALE
        return reason

    def age_s(self, stamp_s: float) -> float:
        """Return how old a stamp is; 0 without a clock."""
        return 0.0 if self._clock is None else seconds(self._clock()) - stamp_s

    def overdue_s(self) -> float | None:
        """Return the current time when no frame has come for max_age_s, else None."""
        if self._clock is None:
            return None
        now_s = seconds(self._clock())
        return None if now_s - self._last_s <= self.max_age_s else now_s

    def late(self, latency_s: float) -> bool:
        """Whether a verdict that took so long comes when its input is stale."""
        return self._clock is not None and self.input_age_s + latency_s > self.max_age_s

    def restart(self) -> None:
        """Take the next stamp as the first."""
        self._last_s = -math.inf


def seconds(stamp: object) -> float:
    """Return a stamp as a float; NaN when it is no number, or too large for one."""
    if not isinstance(stamp, (int, float, np.floating, np.integer)):
        return math.nan
    try:
        return float(stamp)
    except OverflowError:
        return math.nan


def check_content(
    frame: object, action: object, manifest: Manifest, state: object = None
) -> Reason:
    """Return NON_FINITE, or nothing when frame, action and state fit the model.

    action may be None. Raises InputError when a shape, a size or a type is not the model's, or it
    takes a state and there is none.
    """
    pixels = _numeric(frame, "frame")
    further = []
    if action is not None:
        further.append(_vector("action", action, manifest.require_action().dim))
    if manifest.state is not None:
        if state is None:
            raise InputError(
                "there is no state of the robot within sync_slop_s of the frame, expected "
                f"{manifest.state.dim} numbers; is its source running, on the clock of the camera?"
            )
        further.append(_vector("state", state, manifest.state.dim))
    if not np.isfinite(pixels).all():
        return Reason.NON_FINITE
    manifest.observation.check_frames(pixels[None])
    if not all(finite_float32(values) for values in further):
        return Reason.NON_FINITE
    return Reason(0)


def _vector(name: str, values: object, dim: int) -> NDArray[np.generic]:
    numbers = _numeric(values, name)
    if numbers.shape != (dim,):
        what = "one block, flattened" if name == "action" else "the robot's own, raw"
        raise InputError(f"{name} has shape {numbers.shape}, expected {(dim,)}: {what}")
    return numbers


def checked_plan(planned: object, dim: int) -> NDArray[np.float32]:
    """Return the planned action blocks (H, A) as float32. dim: A.

    Raises InputError unless they are finite numbers of that shape, for 1 to MAX_HORIZON steps.
    """
    blocks = _numeric(planned, "planned")
    if blocks.ndim != 2 or blocks.shape[1] != dim or not 1 <= len(blocks) <= MAX_HORIZON:
        raise InputError(
            f"planned has shape {blocks.shape}, expected (H, {dim}) with H of 1 to {MAX_HORIZON}: "
            "one flattened block per step"
        )
    if not finite_float32(blocks):
        raise InputError("planned holds NaN or infinity, expected finite numbers; drop the plan")
    return blocks.astype(np.float32)


def finite_float32(values: NDArray[np.generic]) -> bool:
    """Whether values is not empty and finite even as float32."""
    with np.errstate(over="ignore"):
        cast = np.asarray(values).astype(np.float32)
    return cast.size > 0 and bool(np.isfinite(cast).all())


def _numeric(values: object, name: str) -> NDArray[np.generic]:
    """Return values if they are an array of real numbers. Raises InputError otherwise."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return values
    kind = f"array of {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
    raise InputError(f"{name} is {kind}, expected a numeric numpy array")
