# SPDX-License-Identifier: Apache-2.0
"""calibration/<variant>.json: thresholds, what they were fitted on, and what they are good for."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from jepa_edge.binding import Binding, model_mismatches, preprocessing_sha256
from jepa_edge.bundle import Bundle
from jepa_edge.channels import available, scoring_sha256
from jepa_edge.drift import DriftReference
from jepa_edge.errors import CalibrationError
from jepa_edge.groups import ActionGroups
from jepa_edge.manifest import Sha256, calibration_name, heads_name
from jepa_edge.risk import RiskThreshold

CALIBRATION_VERSION = 3

Probability = Annotated[float, Meta(gt=0.0, lt=1.0)]

_ROUNDING = 1e-9
"""Slack for products such as 20 * 0.05, which floating point puts beside the integer."""


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

    def __post_init__(self) -> None:
        _check_finite(self.name, (self.center, self.high, self.low or 0.0))


class Thresholds(_Strict, frozen=True, kw_only=True):
    """Conformal thresholds on an episode's largest score.

    Before it is run, a fresh nominal episode exceeds `caution` with probability at most
    `caution_alpha`, and `reject` with at most `reject_alpha`, if it is exchangeable with the
    `episodes` that the thresholds came from. caution_alpha is the user's alpha, or more where a
    limit on the user's own loss asked for a lower threshold; it is then what these episodes show,
    and no guarantee, because the choice looked at their scores. reject_alpha = max(alpha / 5,
    1 / (episodes + 1)): the tightest level that this many episodes support, but not below a fifth
    of alpha. nominal: the largest score of every one of them, ascending.
    """

    caution: float
    reject: float
    caution_alpha: Probability
    reject_alpha: Probability
    nominal: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise ValueError when these are not conformal thresholds of their own scores."""
        if not self.nominal or list(self.nominal) != sorted(self.nominal):
            raise ValueError(
                f"nominal holds {len(self.nominal)} scores, expected one or more, ascending"
            )
        _check_finite("thresholds", (self.caution, self.reject, *self.nominal))
        if self.reject < self.caution:
            raise ValueError(
                f"reject is {self.reject:g}, expected caution {self.caution:g} or more"
            )
        for name, threshold, alpha in (
            ("caution", self.caution, self.caution_alpha),
            ("reject", self.reject, self.reject_alpha),
        ):
            above = len(self.nominal) - bisect.bisect_right(self.nominal, threshold)
            allowed = alpha * (len(self.nominal) + 1) - 1 + _ROUNDING
            if threshold not in self.nominal or above > allowed:
                raise ValueError(
                    f"{name} is {threshold:g}, expected one of the nominal scores that at most "
                    f"{max(math.floor(allowed), 0)} of {len(self.nominal)} exceed"
                )

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

    def __post_init__(self) -> None:
        if not self.energies or min(self.energies) < 0.0:
            raise ValueError("energies must hold one or more radii, none negative")
        _check_finite("energies", self.energies)


class Domain(_Strict, frozen=True, kw_only=True):
    """What the calibration episodes looked like; outside of it no guarantee holds.

    rate_hz: model steps per second. steps_min, steps_max: model steps per episode. action_low,
    action_high: raw units, length A; empty in a model that takes no actions. state_low, state_high:
    of the robot's own state, raw units, length S; empty in a model that takes none.
    state_still_steps: the most steps of an episode over which the command changed and the state did
    not, bit for bit (`domain_check.StillState`).
    """

    rate_hz: float
    steps_min: int
    steps_max: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    state_low: tuple[float, ...] = ()
    state_high: tuple[float, ...] = ()
    state_still_steps: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        bounds = (*self.action_low, *self.action_high, *self.state_low, *self.state_high)
        _check_finite("domain", (self.rate_hz, *bounds))
        if self.rate_hz <= 0.0 or not 1 <= self.steps_min <= self.steps_max:
            raise ValueError(
                f"domain has {self.rate_hz:g} Hz and {self.steps_min} to {self.steps_max} steps, "
                "expected a positive rate and 1 or more steps, ascending"
            )
        for name, low, high in (
            ("action", self.action_low, self.action_high),
            ("state", self.state_low, self.state_high),
        ):
            if len(low) != len(high):
                raise ValueError(
                    f"{name}_low has {len(low)} numbers and {name}_high {len(high)}, expected as "
                    "many"
                )


class Calibration(_Strict, frozen=True, kw_only=True):
    """All of calibration/<variant>.json.

    binding: the graphs, preprocessing, scoring, runtime and machine that it was fitted on.
    heads_sha256: of calibration/<variant>.safetensors. episodes: how many per split (fit,
    standardize, conformal, test). data_sha256: over the sha256 of every episode file.
    episode_sha256: first 16 hex digits of each, risk data included, so that a test on one of them
    is noticed; empty where that was not recorded. tools: versions of what made it. channels: those
    that the model has. radii: empty in a model that takes no actions, and predicts no step ahead.
    groups: radii per size of action, null there and where there are too few episodes. drift:
    reference of the alarm for slow drift. risk: evidence for a threshold that the user's own loss
    asked for; `thresholds.caution` is not above it.
    """

    schema_version: int = CALIBRATION_VERSION
    variant: str
    binding: Binding
    heads_sha256: Sha256
    alpha: Probability
    seed: int
    episodes: dict[str, int]
    data_sha256: Sha256
    episode_sha256: tuple[Annotated[str, Meta(pattern="^[0-9a-f]{16}$")], ...] = ()
    channels: tuple[ChannelScale, ...]
    thresholds: Thresholds
    radii: tuple[Radius, ...]
    groups: ActionGroups | None
    drift: DriftReference
    risk: RiskThreshold | None
    domain: Domain
    created_utc: str
    tools: dict[str, str]

    def __post_init__(self) -> None:
        if self.schema_version != CALIBRATION_VERSION:
            raise ValueError(
                f"schema_version is {self.schema_version}, this jepa-edge reads "
                f"{CALIBRATION_VERSION}"
            )
        if len({len(radius.energies) for radius in self.radii}) > 1 or (
            not self.radii and self.domain.action_low
        ):
            raise ValueError(
                f"radii has {[len(radius.energies) for radius in self.radii]} steps per alpha, "
                "expected one alpha or more, all with as many steps"
            )
        if self.risk is not None and self.thresholds.caution > self.risk.threshold:
            raise ValueError(
                f"caution is {self.thresholds.caution:g}, above the threshold "
                f"{self.risk.threshold:g} that bounds the user's loss"
            )

    @property
    def horizon(self) -> int:
        """Steps that have a radius; 0 in a model that takes no actions."""
        return len(self.radii[0].energies) if self.radii else 0

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

    Raises CalibrationError when there is none, it is damaged, or it belongs to other graphs,
    another preprocessing or other channel code. Whether it is good for this machine is
    `Monitor.load`'s to say.
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
    here = msgspec.structs.replace(
        calibration.binding,
        engine_sha256=bundle.manifest.variant_sha256(variant),
        preprocessing_sha256=preprocessing_sha256(bundle.manifest),
        scoring_sha256=scoring_sha256(),
    )
    differing = model_mismatches(calibration.binding, here)
    if differing or calibration.variant != variant:
        raise CalibrationError(
            f"{bundle.path / name} was made for variant {calibration.variant!r}, expected "
            f"{variant!r} as it is in this bundle: {'; '.join(differing) or 'another name'}; "
            "run `jepa-edge calibrate` on this very variant"
        )
    heads = bundle.manifest.files[heads_name(variant)]
    if calibration.heads_sha256 != heads:
        raise CalibrationError(
            f"{bundle.path / name} belongs to heads {calibration.heads_sha256[:12]}, "
            f"the bundle has {heads[:12]}; run `jepa-edge calibrate` again"
        )
    state = bundle.manifest.state
    wanted, have = 0 if state is None else state.dim, len(calibration.domain.state_low)
    if have != wanted:
        raise CalibrationError(
            f"{bundle.path / name} knows the range of {have} numbers of the robot's state, the "
            f"model takes {wanted}; run `jepa-edge calibrate` again"
        )
    names = tuple(channel.name for channel in calibration.channels)
    expected = tuple(channel.name for channel in available(bundle.manifest))
    if names != expected:
        raise CalibrationError(
            f"{bundle.path / name} has channels {', '.join(names)}, this jepa-edge watches "
            f"{', '.join(expected)}; run `jepa-edge calibrate` again"
        )
    return calibration


def _check_finite(name: str, numbers: Iterable[float]) -> None:
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{name} holds NaN or infinity, expected finite numbers")
