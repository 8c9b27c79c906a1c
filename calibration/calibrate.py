# SPDX-License-Identifier: Apache-2.0
"""From a bundle and recorded runs to a calibrated bundle."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from jepa_edge.bags.recording import open_recording
from jepa_edge.binding import current_binding
from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.calibration.assess import assess
from jepa_edge.calibration.bound_risk import bound_risk
from jepa_edge.calibration.cache import LatentCache
from jepa_edge.calibration.conformalize import conformalize
from jepa_edge.calibration.dataset import (
    EncodedEpisode,
    check_lengths,
    data_sha256,
    episode_digests,
    roll_episodes,
    split_episodes,
)
from jepa_edge.calibration.fit import conformalize_variable, fit_latent_variable, fit_observer
from jepa_edge.calibration.latent_map import calibrated_map
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.calibration.page import write_report
from jepa_edge.calibration.passive import assess_passive, conformalize_passive, fit_passive
from jepa_edge.calibration.records import CalibrationReport, VariantReport
from jepa_edge.calibration.selftest import (
    StoredTest,
    drop_unused_episodes,
    prepare_selftest,
    write_selftest,
)
from jepa_edge.calibration.split import Split
from jepa_edge.calibration_file import Calibration, Domain
from jepa_edge.channels import Observer
from jepa_edge.domain_check import StillState
from jepa_edge.encoding import frame_of, steps_of
from jepa_edge.errors import InputError
from jepa_edge.json_text import json_bytes
from jepa_edge.latent_map import map_name
from jepa_edge.manifest import ClipSpec, Manifest, calibration_name, heads_name
from jepa_edge.monitor import Monitor
from jepa_edge.passive import PassiveObserver
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Recording, check_fits
from jepa_edge.version import __version__
from jepa_edge.world_model import WorldModel

ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """One variant's calibration before it is written: heads and map as bytes, report, self-test."""

    heads: bytes
    report: VariantReport
    selftest: StoredTest | None
    latent_map: bytes | None = None


def calibrate_bundle(
    path: Path | str,
    data: Path | str | Recording,
    options: CalibrateOptions | None = None,
    progress: Progress = silent,
    *,
    risk_data: Path | str | None = None,
) -> CalibrationReport:
    """Calibrate one variant of a bundle, or all of them, on recorded nominal runs.

    path: the bundle, which is replaced as a whole when everything is done; other variants keep
    their calibrations. data: a recording made at the model's rate, or bags. risk_data: other runs,
    good and bad ones, with a recorded loss; needed with `options.max_risk` and only then.
    Raises CalibrationError when there are too few or too short episodes, before any of them is
    encoded, or when they hardly move or differ, InputError when the recording does not fit the
    model, BundleError when the bundle is damaged.
    """
    options = options or CalibrateOptions()
    if (options.max_risk is None) is not (risk_data is None):
        raise InputError(
            f"got a limit on the loss of {options.max_risk} and risk data {risk_data}, expected "
            "both or none: --max-risk needs --risk-data, runs with a recorded loss"
        )
    bundle = Bundle.open(path)
    recording = (
        data
        if isinstance(data, Recording)
        else open_recording(data, bundle.manifest, horizon=options.fitted_horizon)
    )
    losses = None if risk_data is None else Recording(risk_data)
    names = list(bundle.manifest.variants) if options.variant == ALL else [options.variant]
    _splits(recording, options)  # refuse before the long part
    if losses is not None:
        _refuse_shared(recording, losses)
    fitted = {}
    for name in names:
        model = WorldModel.load(
            bundle,
            name,
            threads=options.threads,
            provider=options.provider,
            engines=options.engines,
        )
        fitted[model.variant] = calibrate_model(model, recording, options, progress, losses)
    with staged_bundle(bundle.path, base=bundle) as staging:
        for variant, result in fitted.items():
            _write(staging, variant, result, bundle.path.name)
        drop_unused_episodes(staging)
        seal(staging, bundle.manifest)
    return CalibrationReport(variants={name: result.report for name, result in fitted.items()})


def calibrate_model(
    model: WorldModel,
    recording: Recording,
    options: CalibrateOptions,
    progress: Progress,
    losses: Recording | None = None,
) -> Fitted:
    """Fit, conformalize and test one loaded variant. Raises as `calibrate_bundle` does."""
    clock = _Clock()
    spec = model.manifest
    for given in (recording, losses):
        if given is not None:
            check_fits(given, spec.observation, spec.action, spec.state)
    splits = _splits(recording, options)
    check_lengths(recording, spec, options.fitted_horizon)
    encoded = LatentCache(directory=options.cache).encoded(model, recording, progress)
    clock.lap("encode")
    warnings: list[str] = []
    fitting = _passive if spec.action is None else _active
    observer, decided, assessed = fitting(
        model, encoded, splits, options, clock, warnings, progress
    )
    heads = save(observer.to_arrays())
    calibration = Calibration(
        variant=model.variant,
        binding=current_binding(model),
        heads_sha256=hashlib.sha256(heads).hexdigest(),
        alpha=options.alpha,
        seed=options.seed,
        episodes={name: len(chosen) for name, chosen in splits.items()},
        data_sha256=data_sha256(recording),
        episode_sha256=_digests(recording, losses),
        **decided,
        risk=None,
        domain=_domain(encoded, recording, spec),
        created_utc=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        tools=_tools(),
    )
    if losses is not None and options.max_risk is not None:
        monitor = Monitor(model, observer, calibration)
        calibration = bound_risk(monitor, losses, options.max_risk, options.risk_delta, progress)
    clock.lap("thresholds")
    monitor = Monitor(model, observer, calibration)
    selftest = prepare_selftest(
        monitor, recording, splits["test"], options.selftest_episodes, options.seed, progress
    )
    if selftest is not None:
        warnings.extend(selftest.warnings)
    clock.lap("self-test")
    report = assessed(calibration)
    clock.lap("test")
    report = msgspec.structs.replace(
        report, seconds=clock.seconds, warnings=(*warnings, *report.warnings)
    )
    # Without actions there is nothing to imagine, and so no use for a map.
    latent_map = None if spec.action is None else calibrated_map(encoded, spec.latent)
    return Fitted(heads=heads, report=report, selftest=selftest, latent_map=latent_map)


Assess = Callable[[Calibration], VariantReport]


def _active(
    model: WorldModel,
    encoded: Sequence[EncodedEpisode],
    splits: Mapping[str, list[int]],
    options: CalibrateOptions,
    clock: _Clock,
    warnings: list[str],
    progress: Progress,
) -> tuple[Observer, dict[str, Any], Assess]:
    """Fit a model that takes actions; also what the conformal split decides, and the report."""
    spec = model.manifest
    rolled = roll_episodes(
        model, encoded, spec.history, options.fitted_horizon, progress, spec.latent.compared
    )
    data = {name: Split.of(encoded, rolled, rows, spec.history) for name, rows in splits.items()}
    clock.lap("roll out")
    variable = fit_latent_variable(
        model, data["fit"].windows, data["standardize"].windows, options, progress
    )
    variable = conformalize_variable(model, variable, data["conformal"].windows, options, progress)
    observer = fit_observer(variable, data["fit"].episodes, options, progress)
    clock.lap("fit")
    decided = conformalize(observer, data, spec, options, warnings)
    return observer, decided, lambda given: assess(model, observer, given, data, options, progress)


def _passive(
    model: WorldModel,
    encoded: Sequence[EncodedEpisode],
    splits: Mapping[str, list[int]],
    options: CalibrateOptions,
    clock: _Clock,
    warnings: list[str],
    progress: Progress,
) -> tuple[PassiveObserver, dict[str, Any], Assess]:
    """The same for a model that takes none; there is nothing to warn of."""
    spec = model.manifest
    data = {name: [encoded[row] for row in rows] for name, rows in splits.items()}
    observer = fit_passive(data["fit"], options, progress)
    clock.lap("fit")
    decided = conformalize_passive(observer, data, spec, options)
    return observer, decided, lambda given: assess_passive(observer, given, data, spec)


def _digests(*recordings: Recording | None) -> tuple[str, ...]:
    """Digests of all episodes that take part, sorted, each once."""
    there = [recording for recording in recordings if recording is not None]
    return tuple(sorted({digest for one in there for digest in episode_digests(one)}))


def _refuse_shared(recording: Recording, losses: Recording) -> None:
    """Raise InputError when the thresholds' candidates would come from the risk data itself."""
    known = set(episode_digests(recording))
    shared = sum(digest in known for digest in episode_digests(losses))
    if shared:
        raise InputError(
            f"{shared} of {len(losses)} episodes in {losses.path} are in {recording.path} too, "
            "which sets the candidate thresholds; the bound on the loss would not hold: pass other "
            "runs with --risk-data"
        )


def _splits(recording: Recording, options: CalibrateOptions) -> dict[str, list[int]]:
    return split_episodes(len(recording), options.alpha, options.seed, options.conformal)


def _write(staging: Path, variant: str, result: Fitted, bundle_name: str) -> None:
    """Put one variant's calibration and reports into a staged bundle."""
    for folder in ("calibration", "reports"):
        (staging / folder).mkdir(exist_ok=True)
    (staging / calibration_name(variant)).write_bytes(json_bytes(result.report.calibration))
    (staging / heads_name(variant)).write_bytes(result.heads)
    (staging / map_name(variant)).unlink(missing_ok=True)
    if result.latent_map is not None:
        (staging / map_name(variant)).write_bytes(result.latent_map)
    (staging / f"reports/calibration_{variant}.json").write_bytes(json_bytes(result.report))
    write_report(staging / f"reports/calibration_{variant}.html", result.report, bundle_name)
    write_selftest(staging, variant, result.selftest, staging / calibration_name(variant))


def _domain(episodes: Sequence[EncodedEpisode], recording: Recording, spec: Manifest) -> Domain:
    actions = np.concatenate([episode.actions for episode in episodes])
    lengths = [len(episode.actions) for episode in episodes]
    clip = spec.observation.clip
    low, high = actions.min(axis=0), actions.max(axis=0)
    seen: dict[str, Any] = {}
    if spec.state is not None:
        states = [_states_seen(recording, index, clip) for index in range(len(recording))]
        both = zip(states, episodes, strict=True)
        seen = {
            "state_low": tuple(np.min([rows.min(axis=0) for rows in states], axis=0).tolist()),
            "state_high": tuple(np.max([rows.max(axis=0) for rows in states], axis=0).tolist()),
            "state_still_steps": max(_still(rows, one.actions, low, high) for rows, one in both),
        }
    return Domain(
        rate_hz=recording.info.rate_hz / (1 if clip is None else clip.hop),
        steps_min=min(lengths),
        steps_max=max(lengths),
        action_low=tuple(low.tolist()),
        action_high=tuple(high.tolist()),
        **seen,
    )


def _states_seen(recording: Recording, index: int, clip: ClipSpec | None) -> NDArray[np.float32]:
    """The robot's states at the model's steps, (T + 1, S); nothing else of the episode is read."""
    states = recording.robot_state(index)
    if states is None:
        raise InputError(
            f"{recording.files[index]} holds no robot_state, the model takes it; record it again"
        )
    steps = steps_of(len(states), clip)
    return states[[frame_of(step, clip) for step in range(steps)]]


def _still(
    states: NDArray[np.float32],
    actions: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
) -> int:
    """The most steps of an episode over which the command changed and the state did not."""
    still = StillState(low.tolist(), high.tolist())
    return max(still.count(row, actions[k - 1] if k else None) for k, row in enumerate(states))


def _tools() -> dict[str, str]:
    packages = ("numpy", "onnxruntime", "scikit-learn", "scipy", "torch")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"jepa-edge": __version__, "python": platform.python_version(), **versions}


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now
