# SPDX-License-Identifier: Apache-2.0
"""selftest/<variant>.json: what to replay on a device, and what must come out."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from jepa_edge.bundle import Bundle
from jepa_edge.calibration_file import Calibration, read_calibration
from jepa_edge.errors import BundleError, CalibrationError, InputError
from jepa_edge.faults import FaultKind, parse_fault
from jepa_edge.manifest import Sha256, calibration_name
from jepa_edge.recording import INFO_NAME, Recording

FOLDER = "selftest"

Count = Annotated[int, Meta(ge=0)]
Probability = Annotated[float, Meta(gt=0.0, lt=1.0)]
FolderName = Annotated[str, Meta(pattern=r"^selftest/episodes-[0-9a-f]{12}\Z")]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all self-test records: immutable, by keyword, unknown keys refused."""


class Plan(_Strict, frozen=True, kw_only=True):
    """What is done with the stored episodes.

    starts: per episode, the first latent of the one window whose coverage is counted, 0 in a model
    that takes no actions. alpha: of the radii. faults: texts for `jepa_edge.faults.parse_fault`,
    each put into every episode, with the episode's number as its seed.
    """

    starts: tuple[Count, ...]
    alpha: Probability
    faults: tuple[str, ...]


class Check(_Strict, frozen=True, kw_only=True):
    """One count over the episodes, and where it must lie: low and high are inside.

    name: "false alarms", "coverage, horizon 3", or "detects occlusion:0.45@13". bench: the count on
    the bench, with the very engine that was calibrated.
    """

    name: str
    trials: Count
    bench: Count
    low: Count
    high: Count

    def __post_init__(self) -> None:
        if not self.low <= self.high <= self.trials or self.bench > self.trials:
            raise ValueError(
                f"{self.name}: interval {self.low} to {self.high} and bench {self.bench} of "
                f"{self.trials}, expected low <= high <= trials"
            )


class SelfTest(_Strict, frozen=True, kw_only=True):
    """All of selftest/<variant>.json.

    calibration_sha256: of the file calibration/<variant>.json whose thresholds are tested.
    recording: folder of the episodes, shared by variants that were calibrated on the same.
    false_refusals: an engine that behaves as on the bench is refused with this probability at most.
    """

    schema_version: Literal[1] = 1
    variant: str
    calibration_sha256: Sha256
    recording: FolderName
    plan: Plan
    checks: tuple[Check, ...]
    false_refusals: Probability

    def __post_init__(self) -> None:
        if not self.plan.starts or not self.checks:
            raise ValueError("expected one episode and one check or more")


def selftest_name(variant: str) -> str:
    """Return the path, inside the bundle, of a variant's self-test."""
    return f"{FOLDER}/{variant}.json"


def read_selftest(bundle: Bundle, variant: str) -> tuple[SelfTest, Recording]:
    """Read a variant's self-test and open its episodes.

    Raises CalibrationError when there is none, or it belongs to another calibration, BundleError
    when it is damaged or does not fit its own episodes.
    """
    name, files = selftest_name(variant), bundle.manifest.files
    if name not in files:
        raise CalibrationError(
            f"{bundle.path} has no self-test for variant {variant!r}; run `jepa-edge calibrate` "
            "with --selftest-episodes 24, or calibrate on this machine"
        )
    try:
        selftest = msgspec.json.decode(bundle.file(name).read_bytes(), type=SelfTest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{bundle.path / name} does not fit the format ({error}); calibrate again"
        ) from error
    calibration = files.get(calibration_name(variant), "")
    if (selftest.variant, selftest.calibration_sha256) != (variant, calibration):
        raise CalibrationError(
            f"{bundle.path / name} belongs to another calibration than the bundle's; "
            "run `jepa-edge calibrate` again"
        )
    folder = f"{selftest.recording}/"
    if f"{folder}{INFO_NAME}" not in files:
        raise BundleError(f"{bundle.path} lacks the episodes of {name}; calibrate again")
    recording = Recording(bundle.path / selftest.recording)
    listed = {file for file in files if file.startswith(folder) and file.endswith(".npz")}
    present = {f"{folder}{file.name}" for file in recording.files}
    if listed != present or len(present) != len(selftest.plan.starts):
        raise BundleError(
            f"{bundle.path / folder} holds {len(present)} episodes, the manifest lists "
            f"{len(listed)} and the self-test {len(selftest.plan.starts)}; remove what is not the "
            "bundle's, or copy it again"
        )
    _check_plan(selftest, recording, read_calibration(bundle, variant), bundle)
    return selftest, recording


def _check_plan(
    selftest: SelfTest, recording: Recording, calibration: Calibration, bundle: Bundle
) -> None:
    """Raise BundleError unless every check of the plan can be counted on the episodes.

    CalibrationError when the calibration has no radii for the plan's alpha.
    """
    where, plan = f"{bundle.path / selftest_name(selftest.variant)}", selftest.plan
    horizon = calibration.horizon
    if horizon:
        calibration.radius(plan.alpha)
    expected = 1 + horizon + len(plan.faults)
    if len(selftest.checks) != expected:
        raise BundleError(
            f"{where} has {len(selftest.checks)} checks, expected {expected}: false alarms, "
            f"coverage at {horizon} horizons, {len(plan.faults)} faults; calibrate again"
        )
    passive = bundle.manifest.action is None
    try:
        for text in plan.faults:
            if parse_fault(text).fault.kind is not FaultKind.CAMERA and passive:
                raise InputError(f"fault {text} changes commands, and the model takes none")
    except InputError as error:
        raise BundleError(f"{where}: {error}; calibrate again") from error
    if passive:
        return
    needed = bundle.manifest.history + horizon
    for start, episode in zip(plan.starts, recording, strict=True):
        if start + needed > len(episode.frames):
            raise BundleError(
                f"{where}: a window of {needed} frames starts at {start} of episode "
                f"{episode.name}, which has {len(episode.frames)}; calibrate again"
            )
