# SPDX-License-Identifier: Apache-2.0
"""From a bundle and recorded runs to a calibrated bundle."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from jepa_edge.binding import current_binding
from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.calibration.bound_risk import bound_risk
from jepa_edge.calibration.cache import LatentCache
from jepa_edge.calibration.coverage import (
    measure_coverage,
    measure_group_coverage,
    measure_reliability,
    rate,
)
from jepa_edge.calibration.dataset import (
    EncodedEpisode,
    Windows,
    check_lengths,
    data_sha256,
    episode_digests,
    gather_windows,
    roll_episodes,
    split_episodes,
)
from jepa_edge.calibration.fit import (
    DEAF,
    action_use,
    conformalize_variable,
    fit_latent_variable,
    fit_observer,
)
from jepa_edge.calibration.fit_spread import lengthen
from jepa_edge.calibration.mondrian import fit_edges, fit_group_radii, window_sizes
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.calibration.page import write_report
from jepa_edge.calibration.records import (
    ActionUse,
    CalibrationReport,
    Coverage,
    GroupCoverage,
    VariantReport,
)
from jepa_edge.calibration.selftest import (
    StoredTest,
    drop_unused_episodes,
    prepare_selftest,
    write_selftest,
)
from jepa_edge.calibration.sequential import fit_drift
from jepa_edge.calibration.spread import evaluate_spread, pick_windows
from jepa_edge.calibration.thresholds import (
    alphas_with,
    channel_scores,
    check_varied,
    fit_radii,
    fit_standardization,
    fit_thresholds,
    window_energies,
)
from jepa_edge.calibration_file import Calibration, Domain
from jepa_edge.channels import LONG, Observer, episode_steps
from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.futures import make_sampler
from jepa_edge.json_text import json_bytes
from jepa_edge.manifest import Manifest, calibration_name, heads_name
from jepa_edge.monitor import Monitor
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Recording, check_fits
from jepa_edge.version import __version__
from jepa_edge.world_model import WorldModel

ALL = "all"
_SPREAD_WINDOWS = 4
"""Windows per held-out episode in the spread report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """One variant's calibration before it is written: the heads as bytes, report, self-test."""

    heads: bytes
    report: VariantReport
    selftest: StoredTest | None


def calibrate_bundle(
    path: Path | str,
    data: Path | str,
    options: CalibrateOptions | None = None,
    progress: Progress = silent,
    *,
    risk_data: Path | str | None = None,
) -> CalibrationReport:
    """Calibrate one variant of a bundle, or all of them, on recorded nominal runs.

    path: the bundle, which is replaced as a whole when everything is done; other variants keep
    their calibrations. data: a recording made at the model's rate. risk_data: other runs, good and
    bad ones, with a recorded loss; needed with `options.max_risk` and only then.
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
    recording = Recording(data)
    losses = None if risk_data is None else Recording(risk_data)
    names = list(bundle.manifest.variants) if options.variant == ALL else [options.variant]
    _splits(recording, options)  # refuse before the long part
    if losses is not None:
        _refuse_shared(recording, losses)
    fitted = {}
    for name in names:
        model = WorldModel.load(bundle, name, threads=options.threads)
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
            check_fits(given, spec.observation, spec.action)
    splits = _splits(recording, options)
    check_lengths(recording, spec.history, options.fitted_horizon)
    encoded = LatentCache(directory=options.cache).encoded(model, recording, progress)
    clock.lap("encode")
    rolled = roll_episodes(model, encoded, spec.history, options.fitted_horizon, progress)
    data = {name: _Split.of(encoded, rolled, rows, spec.history) for name, rows in splits.items()}
    clock.lap("roll out")
    variable = fit_latent_variable(
        model, data["fit"].windows, data["standardize"].windows, options, progress
    )
    variable = conformalize_variable(model, variable, data["conformal"].windows, options, progress)
    observer = fit_observer(variable, data["fit"].episodes, options, progress)
    clock.lap("fit")
    heads = save(observer.to_arrays())
    warnings: list[str] = []
    calibration = Calibration(
        variant=model.variant,
        binding=current_binding(model),
        heads_sha256=hashlib.sha256(heads).hexdigest(),
        alpha=options.alpha,
        seed=options.seed,
        episodes={name: len(chosen) for name, chosen in splits.items()},
        data_sha256=data_sha256(recording),
        episode_sha256=_digests(recording, losses),
        **_conformalize(observer, data, spec, options, warnings),
        risk=None,
        domain=_domain(encoded, recording),
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
    report = _report(model, observer, calibration, data, options, progress)
    clock.lap("test")
    report = msgspec.structs.replace(
        report, seconds=clock.seconds, warnings=(*warnings, *report.warnings)
    )
    return Fitted(heads=heads, report=report, selftest=selftest)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """The episodes of one split, the model's rollouts from all their histories, the windows."""

    episodes: list[EncodedEpisode]
    rolled: list[NDArray[np.float32]]
    windows: Windows
    history: int

    @classmethod
    def of(
        cls,
        encoded: Sequence[EncodedEpisode],
        rolled: Sequence[NDArray[np.float32]],
        rows: Sequence[int],
        history: int,
    ) -> _Split:
        episodes, own = [encoded[row] for row in rows], [rolled[row] for row in rows]
        windows = gather_windows(episodes, own, history)
        return cls(episodes=episodes, rolled=own, windows=windows, history=history)

    def measure(self, observer: Observer) -> list[NDArray[np.float64]]:
        """Base channels of every episode at every step that can be judged."""
        return [
            observer.measure(episode_steps(rolled, e.latents, e.actions, self.history))
            for e, rolled in zip(self.episodes, self.rolled, strict=True)
        ]


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


def _conformalize(
    observer: Observer,
    data: Mapping[str, _Split],
    spec: Manifest,
    options: CalibrateOptions,
    warnings: list[str],
) -> dict[str, Any]:
    """Set everything that the conformal split decides; the fields of `Calibration`, by name."""
    windows = data["conformal"].windows
    scales = fit_standardization(data["standardize"].measure(observer))
    scores = [channel_scores(m, scales).max(axis=1) for m in data["conformal"].measure(observer)]
    worst = np.array([episode.max() for episode in scores])
    check_varied(scales, worst)
    energies = window_energies(observer.latent_variable, windows)[:, : options.horizon]
    radii = fit_radii(energies, windows.episode, alphas_with(options.alpha))
    groups = None
    try:
        if options.groups:
            edges = fit_edges(
                window_sizes(data["fit"].windows, spec.action)[:, : options.horizon],
                options.groups,
            )
            groups = fit_group_radii(
                energies,
                windows.episode,
                window_sizes(windows, spec.action)[:, : options.horizon],
                edges,
                [radius.alpha for radius in radii],
                required=options.alpha,
            )
    except CalibrationError as error:
        warnings.append(f"no radii per action group: {error}")
    return {
        "channels": scales,
        "thresholds": fit_thresholds(worst, options.alpha),
        "radii": radii,
        "groups": groups,
        "drift": fit_drift(scores, options.alpha, options.seed),
    }


def _report(
    model: WorldModel,
    observer: Observer,
    calibration: Calibration,
    data: Mapping[str, _Split],
    options: CalibrateOptions,
    progress: Progress,
) -> VariantReport:
    """Test the calibration on the test split."""
    variable, thresholds = observer.latent_variable, calibration.thresholds
    windows = data["test"].windows
    energies = {
        name: window_energies(variable, data[name].windows)[:, : options.horizon]
        for name in ("conformal", "test")
    }
    scores = [channel_scores(m, calibration.channels) for m in data["test"].measure(observer)]
    worst = np.array([episode.max() for episode in scores])
    steps = np.concatenate([episode.max(axis=1) for episode in scores])
    spread = evaluate_spread(
        make_sampler(model, variable),
        pick_windows(lengthen(windows), _SPREAD_WINDOWS, options.seed),
        samples=options.samples,
        seed=options.seed,
        progress=progress,
    )
    commanded, shuffled = action_use(model, windows, LONG, options.seed)
    use = ActionUse(commanded=commanded, shuffled=shuffled, ratio=shuffled / max(commanded, 1e-30))
    coverage = measure_coverage(
        energies["test"],
        windows.episode,
        calibration.radii,
        conformal_episodes=len(data["conformal"].episodes),
        seed=options.seed,
    )
    group_coverage: tuple[GroupCoverage, ...] = ()
    if calibration.groups is not None:
        group_coverage = measure_group_coverage(
            energies["test"],
            windows.episode,
            window_sizes(windows, model.manifest.action)[:, : options.horizon],
            calibration.groups,
            options.seed,
        )
    return VariantReport(
        calibration=calibration,
        coverage=coverage,
        group_coverage=group_coverage,
        reliability=measure_reliability(
            energies["conformal"],
            data["conformal"].windows.episode,
            energies["test"],
            windows.episode,
            model.manifest.latent.size,
        ),
        false_alarms=rate(int(np.sum(worst > thresholds.caution)), len(worst)),
        rejections=rate(int(np.sum(worst > thresholds.reject)), len(worst)),
        steps_alarmed=float(np.mean(steps > thresholds.caution)),
        spread=spread,
        action_use=use,
        gain=tuple(variable.gain.tolist()),
        warnings=_warnings(use, coverage, calibration.domain),
        seconds={},
    )


def _write(staging: Path, variant: str, result: Fitted, bundle_name: str) -> None:
    """Put one variant's calibration and reports into a staged bundle."""
    for folder in ("calibration", "reports"):
        (staging / folder).mkdir(exist_ok=True)
    (staging / calibration_name(variant)).write_bytes(json_bytes(result.report.calibration))
    (staging / heads_name(variant)).write_bytes(result.heads)
    (staging / f"reports/calibration_{variant}.json").write_bytes(json_bytes(result.report))
    write_report(staging / f"reports/calibration_{variant}.html", result.report, bundle_name)
    write_selftest(staging, variant, result.selftest, staging / calibration_name(variant))


def _domain(episodes: Sequence[EncodedEpisode], recording: Recording) -> Domain:
    actions = np.concatenate([episode.actions for episode in episodes])
    lengths = [len(episode.actions) for episode in episodes]
    return Domain(
        rate_hz=recording.info.rate_hz,
        steps_min=min(lengths),
        steps_max=max(lengths),
        action_low=tuple(actions.min(axis=0).tolist()),
        action_high=tuple(actions.max(axis=0).tolist()),
    )


def _warnings(use: ActionUse, coverage: Sequence[Coverage], domain: Domain) -> tuple[str, ...]:
    warnings = []
    if domain.steps_min != domain.steps_max:
        warnings.append(
            f"the episodes have {domain.steps_min} to {domain.steps_max} steps: the guarantees "
            "hold for episodes of the same mix of lengths; if long ones become more frequent, "
            "more of them alarm"
        )
    if use.ratio < DEAF:
        warnings.append(
            f"the model hardly listens to its actions: {LONG}-step error with shuffled actions is "
            f"{use.ratio:.2f} x that with the commanded ones (1.5 or more is wanted); actuator "
            "faults will be missed"
        )
    missed = [row for row in coverage if not row.plausible]
    if missed:
        rows = ", ".join(f"alpha {row.alpha:g} horizon {row.horizon}" for row in missed)
        warnings.append(
            f"held-out coverage lies outside its 99 % interval at {rows}, even with the scatter "
            f"of radii that come from {missed[0].conformal_episodes} conformal episodes (all rows "
            "share that one draw); the episodes may not be exchangeable (were they recorded in "
            "different conditions?)"
        )
    return tuple(warnings)


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
