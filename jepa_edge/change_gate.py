# SPDX-License-Identifier: Apache-2.0
"""Selective decoding: whether a latent has moved since the last one that was published.

Distance of two latents: every token is brought to mean 0 and variance 1 over its channels; then
the root of the mean over tokens of 1 - correlation. 0 is no change, 1 is what two unrelated latents
have, whatever the family's scale; a change of a few of many tokens counts as the root of their
share. A token of one or two compared channels, or whose channels are all equal, has no correlation:
instead of 1 - correlation it counts |a - b|^2 / (|a|^2 + |b|^2), which for small changes is half
the square of the relative change.

VL-JEPA (https://arxiv.org/abs/2512.10942) cuts a recorded embedding stream into segments of little
variance and decodes the average of each. That needs the end of a segment; a robot does not have it.
This gate looks at the past only, publishes at the first frame of a change, and decodes that frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError

KEEPALIVE_S = 5.0
LARGEST = math.sqrt(2.0)
"""The distance of opposite latents: no threshold above it ever opens."""

_CORRELATED = 3
"""Fewest channels whose correlation is more than a sign."""
_EQUAL = 1e-6
"""Channels that vary by less than this share of their size do so by float32's rounding."""
_BLOCK = 1 << 20
"""Numbers that are turned to float64 at once: squares of float32 may overflow."""
_HALVINGS = 24


class ChangeGate:
    """Says of each latent of a stream whether it is worth publishing. Not thread-safe.

    It withholds embeddings, predictions and labels, never flags.
    """

    def __init__(
        self,
        threshold: float,
        *,
        keepalive_s: float = KEEPALIVE_S,
        compared: tuple[int, int] | None = None,
    ) -> None:
        """threshold: smallest distance from the last published latent that is a change.

        keepalive_s: seconds after which a latent is published, changed or not; inf for never.
        compared: how many tokens and channels count, the first ones (`LatentSpec.compared`); None
        for all. Raises InputError when a number does not fit.
        """
        if not 0.0 < threshold <= LARGEST:
            raise InputError(
                f"the change threshold is {threshold}, expected more than 0 and at most "
                f"{LARGEST:.3f}; 0.1 is a small change, 1 another scene"
            )
        if not keepalive_s > 0.0:
            raise InputError(f"keepalive is {keepalive_s} s, expected more than 0; inf for never")
        self.threshold = threshold
        self.keepalive_s = keepalive_s
        self._compared = compared
        self._published: NDArray[np.float32] | None = None
        self._stamp_s = -math.inf
        self._seen = 0
        self._passed = 0

    def opens(self, stamp_s: float, latent: NDArray[np.float32]) -> bool:
        """Whether to publish a latent (N, D) of this time, seconds; it is the last published then.

        The first one is published, and so is one whose time lies before the last published.
        """
        values = standardized(latent, self._compared)
        self._seen += 1
        elapsed_s = stamp_s - self._stamp_s
        if (
            self._published is not None
            and 0.0 <= elapsed_s < self.keepalive_s
            and distance(values, self._published) < self.threshold
        ):
            return False
        self._passed += 1
        self._published, self._stamp_s = values, stamp_s
        return True

    def reset(self) -> None:
        """Forget the last published latent: the next one is published. The counts stay."""
        self._published = None

    @property
    def seen(self) -> int:
        """Latents that were asked about."""
        return self._seen

    @property
    def passed(self) -> int:
        """Latents that were published."""
        return self._passed

    @property
    def saved_share(self) -> float:
        """Share of latents that were not published; 0 before the first."""
        return 1.0 - self._passed / self._seen if self._seen else 0.0


def standardized(
    latent: NDArray[np.float32], compared: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Bring each token of (..., N, D) to mean 0 and variance 1, as `distance` takes them.

    A token of one or two channels stays as it is; one of equal channels has their mean in each.
    """
    if compared is not None:
        latent = latent[..., : compared[0], : compared[1]]
    values = np.array(latent, np.float32)
    if values.shape[-1] < _CORRELATED:
        return values
    tokens = values.reshape(-1, values.shape[-1])
    for part in _parts(tokens):
        exact = tokens[part].astype(np.float64)
        mean = exact.mean(axis=-1, keepdims=True)
        size = np.sqrt(np.square(exact).mean(axis=-1, keepdims=True))
        exact -= mean
        scale = np.sqrt(np.square(exact).mean(axis=-1, keepdims=True))
        equal = scale <= _EQUAL * size
        tokens[part] = np.where(equal, mean, exact / np.where(equal, 1.0, scale))
    return values


def distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the distance of two standardized latents, 0 to the root of 2."""
    dim = first.shape[-1]
    ours, theirs = first.reshape(-1, dim), second.reshape(-1, dim)
    total = 0.0
    for part in _parts(ours):
        a, b = ours[part].astype(np.float64), theirs[part].astype(np.float64)
        # Standardized tokens have the square norm D: of those this is 1 - correlation.
        sizes = np.square(a).sum(axis=-1) + np.square(b).sum(axis=-1)
        apart = np.square(a - b).sum(axis=-1)
        total += float((apart / np.where(sizes > 0.0, sizes, 1.0)).sum())
    return math.sqrt(total / len(ours))


def _parts(tokens: NDArray[np.float32]) -> Iterator[slice]:
    rows = max(1, _BLOCK // tokens.shape[-1])
    return (slice(start, start + rows) for start in range(0, len(tokens), rows))


def choose_threshold(
    runs: Sequence[NDArray[np.float32]],
    saved_share: float,
    *,
    compared: tuple[int, int] | None = None,
) -> float:
    """Return about the smallest threshold that saves this share of recorded latents.

    runs: latents (T, N, D) of each recorded episode. saved_share: between 0 and 1.
    Keepalive comes on top. Found by bisection over replays: what is published next depends on the
    threshold itself.
    Raises InputError when there are too few latents, since the first of each run is published.
    """
    total = sum(len(run) for run in runs)
    most = 1.0 - len(runs) / total if total else 0.0
    if not 0.0 < saved_share <= most:
        raise InputError(
            f"cannot save {saved_share} of {total} latents in {len(runs)} runs, expected a share "
            f"above 0 and at most {most:.3f}; the first latent of each run is always published"
        )
    streams = [standardized(run, compared) for run in runs]
    low, high = 0.0, 2.0 * LARGEST
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        published = sum(_published(stream, middle) for stream in streams)
        if 1.0 - published / total >= saved_share:
            high = middle
        else:
            low = middle
    return min(high, LARGEST)


def _published(stream: NDArray[np.float32], threshold: float) -> int:
    """How many of the standardized latents (T, N, D) a gate lets through."""
    count, last = 0, None
    for values in stream:
        if last is None or distance(values, last) >= threshold:
            count, last = count + 1, values
    return count
