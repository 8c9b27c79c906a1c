# SPDX-License-Identifier: Apache-2.0
"""calibration/<variant>.json: thresholds, what they were fitted on, and what they are good for."""

from __future__ import annotations

import bisect
from typing import Annotated

import msgspec
from msgspec import Meta

from jepa_edge.bundle import Bundle
from jepa_edge.channels import CHANNELS
from jepa_edge.errors import CalibrationError
from jepa_edge.manifest import Sha256, calibration_name, heads_name

CALIBRATION_VERSION = 1

Probability = Annotated[float, Meta(gt=0.0, lt=1.0)]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all calibration records: immutable, by keyword, unknown keys refused."""


class ChannelScale(_Strict, frozen=True, kw_only=True):
    """Standardization of one channel: score = (value - center) / high, or (center - value) / low.

    low is null where the low tail is not watched.
    """

    name: str
    center: float
    high: Annotated[float, Meta(gt=0.0)]
    low: Annotated[float, Meta(gt=0.0)] | None


class Thresholds(_Strict, frozen=True, kw_only=True):
    """Conformal thresholds on an episode's largest score.

    Before it is run, a fresh nominal episode exceeds `caution` with probability at most
    `caution_alpha`, and `reject` with at most `reject_alpha`, if it is exchangeable with the
    `episodes` that the thresholds came from. reject_alpha = max(alpha / 5, 1 / (episodes + 1)):
    the tightest level that this many episodes support, but not below a fifth of alpha.
    nominal: the largest score of every one of them, ascending.
    """

    caution: float
    reject: float
    caution_alpha: Probability
    reject_alpha: Probability
    nominal: tuple[float, ...]

    @property
    def episodes(self) -> int:
        """Number of conformal episodes."""
        return len(self.nominal)

    def p_value(self, score: float) -> float:
        """Return the conformal p-value of a score: (1 + how many nominal ones reach it) / (n + 1).

        A whole nominal episode stays above p with probability at least 1 - p.
        Source: Vovk et al. 2005.
        """
        reached = len(self.nominal) - bisect.bisect_left(self.nominal, score)
        return (1 + reached) / (len(self.nominal) + 1)


class Radius(_Strict, frozen=True, kw_only=True):
    """Radii in innovation energy: step h's observed latent lies within energies[h - 1].

    It holds with probability at least 1 - alpha for a window drawn from a fresh nominal episode.
    """

    alpha: Probability
    energies: tuple[float, ...]


class Domain(_Strict, frozen=True, kw_only=True):
    """What the calibration episodes looked like; outside of it no guarantee holds.

    steps_min, steps_max: actions per episode. action_low, action_high: raw units, length A.
    """

    rate_hz: float
    steps_min: int
    steps_max: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]


class Calibration(_Strict, frozen=True, kw_only=True):
    """All of calibration/<variant>.json.

    variant_sha256: `Manifest.variant_sha256` of the graphs that it was fitted on; no other may use
    it. heads_sha256: of calibration/<variant>.safetensors. episodes: how many per split (fit,
    standardize, conformal, test). data_sha256: over the sha256 of every episode file. tools:
    versions of what made it.
    """

    schema_version: int = CALIBRATION_VERSION
    variant: str
    variant_sha256: Sha256
    heads_sha256: Sha256
    alpha: Probability
    seed: int
    episodes: dict[str, int]
    data_sha256: Sha256
    channels: tuple[ChannelScale, ...]
    thresholds: Thresholds
    radii: tuple[Radius, ...]
    domain: Domain
    created_utc: str
    tools: dict[str, str]

    def radius(self, alpha: float) -> Radius:
        """Return the radii for one alpha. Raises CalibrationError when it was not calibrated."""
        for radius in self.radii:
            if abs(radius.alpha - alpha) < 1e-12:
                return radius
        known = ", ".join(f"{radius.alpha:g}" for radius in self.radii)
        raise CalibrationError(
            f"no radius for alpha={alpha:g}, this calibration has {known}; "
            f"run `jepa-edge calibrate` with --alpha {alpha:g}"
        )


def read_calibration(bundle: Bundle, variant: str) -> Calibration:
    """Read and check the calibration of a variant.

    Raises CalibrationError when there is none, it is damaged, or it belongs to other graphs.
    """
    name = calibration_name(variant)
    if name not in bundle.manifest.files or heads_name(variant) not in bundle.manifest.files:
        raise CalibrationError(
            f"{bundle.path} has no calibration for variant {variant!r}; "
            f"run `jepa-edge calibrate {bundle.path} --data DIR --variant {variant}`"
        )
    try:
        calibration = msgspec.json.decode(bundle.file(name).read_bytes(), type=Calibration)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CalibrationError(
            f"{bundle.path / name} does not fit the format ({error}); "
            "run `jepa-edge calibrate` again"
        ) from error
    expected = bundle.manifest.variant_sha256(variant)
    if calibration.variant_sha256 != expected or calibration.variant != variant:
        raise CalibrationError(
            f"{bundle.path / name} was made for variant {calibration.variant!r} "
            f"{calibration.variant_sha256[:12]}, expected {variant!r} {expected[:12]}; "
            "quantization moves the scores: run `jepa-edge calibrate` on this very variant"
        )
    heads = bundle.manifest.files[heads_name(variant)]
    if calibration.heads_sha256 != heads:
        raise CalibrationError(
            f"{bundle.path / name} belongs to heads {calibration.heads_sha256[:12]}, "
            f"the bundle has {heads[:12]}; run `jepa-edge calibrate` again"
        )
    names = tuple(channel.name for channel in calibration.channels)
    if names != tuple(channel.name for channel in CHANNELS):
        raise CalibrationError(
            f"{bundle.path / name} has channels {', '.join(names)}, this jepa-edge watches "
            f"{', '.join(c.name for c in CHANNELS)}; run `jepa-edge calibrate` again"
        )
    return calibration
