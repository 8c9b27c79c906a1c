# SPDX-License-Identifier: Apache-2.0
"""From a bundle and recorded runs to a calibrated bundle."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.calibration.coverage import measure_coverage, measure_reliability, rate
from jepa_edge.calibration.dataset import (
    EncodedEpisode,
    check_lengths,
    data_sha256,
    encode_recording,
    gather_windows,
    roll_episodes,
    split_episodes,
)
from jepa_edge.calibration.fit import action_use, fit_latent_variable, fit_observer
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.calibration.page import write_report
from jepa_edge.calibration.records import ActionUse, CalibrationReport, Coverage, VariantReport
from jepa_edge.calibration.spread import evaluate_spread, pick_windows
from jepa_edge.calibration.thresholds import (
    alphas_with,
    channel_scores,
    check_varied,
    fit_radii,
    fit_standardization,
    fit_thresholds,
    window_energies,
    worst_scores,
)
from jepa_edge.calibration_file import Calibration, Domain
from jepa_edge.channels import LONG, episode_steps
from jepa_edge.futures import FutureSampler
from jepa_edge.json_text import json_bytes
from jepa_edge.manifest import calibration_name, heads_name
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Recording, check_fits
from jepa_edge.version import __version__
from jepa_edge.world_model import WorldModel

ALL = "all"
_SPREAD_WINDOWS = 4
"""Windows per held-out episode in the spread report."""
_DEAF = 1.2
"""Below this error ratio of shuffled to commanded actions, actuator faults will hardly show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """One variant's calibration before it is written: the heads as bytes, and the report."""

    heads: bytes
    report: VariantReport


def calibrate_bundle(
    path: Path | str,
    data: Path | str,
    options: CalibrateOptions | None = None,
    progress: Progress = silent,
) -> CalibrationReport:
    """Calibrate one variant of a bundle, or all of them, on recorded nominal runs.

    path: the bundle, which is replaced as a whole when everything is done; other variants keep
    their calibrations. data: a recording made at the model's rate.
    Raises CalibrationError when there are too few or too short episodes, before any of them is
    encoded, or when they hardly move or differ, InputError when the recording does not fit the
    model, BundleError when the bundle is damaged.
    """
    options = options or CalibrateOptions()
    bundle = Bundle.open(path)
    recording = Recording(data)
    names = list(bundle.manifest.variants) if options.variant == ALL else [options.variant]
    split_episodes(len(recording), options.alpha, options.seed)  # refuse before the long part
    fitted = {}
    for name in names:
        model = WorldModel.load(bundle, name, threads=options.threads)
        fitted[model.variant] = calibrate_model(model, recording, options, progress)
    with staged_bundle(bundle.path, base=bundle) as staging:
        for variant, result in fitted.items():
            _write(staging, variant, result, bundle.path.name)
        seal(staging, bundle.manifest)
    return CalibrationReport(variants={name: result.report for name, result in fitted.items()})


def calibrate_model(
    model: WorldModel, recording: Recording, options: CalibrateOptions, progress: Progress
) -> Fitted:
    """Fit, conformalize and test one loaded variant. Raises as `calibrate_bundle` does."""
    clock = _Clock()
    history = model.manifest.history
    check_fits(recording, model.manifest.observation, model.manifest.action)
    splits = split_episodes(len(recording), options.alpha, options.seed)
    check_lengths(recording, history, options.fitted_horizon)
    encoded = encode_recording(model, recording, progress, f"encode ({model.variant})")
    clock.lap("encode")
    parts = {name: [encoded[i] for i in chosen] for name, chosen in splits.items()}
    rolled_all = roll_episodes(model, encoded, history, options.fitted_horizon, progress)
    rolled = {name: [rolled_all[i] for i in chosen] for name, chosen in splits.items()}
    windows = {name: gather_windows(parts[name], rolled[name], history) for name in parts}
    clock.lap("roll out")
    variable = fit_latent_variable(model, windows["fit"], windows["standardize"], options, progress)
    observer = fit_observer(variable, parts["fit"], options, progress)
    clock.lap("fit")

    measured = {
        name: [
            observer.measure(episode_steps(rollouts, e.latents, e.actions, history))
            for e, rollouts in zip(parts[name], rolled[name], strict=True)
        ]
        for name in ("standardize", "conformal", "test")
    }
    scales = fit_standardization(measured["standardize"])
    nominal_scores = worst_scores(measured["conformal"], scales)
    check_varied(scales, nominal_scores)
    thresholds = fit_thresholds(nominal_scores, options.alpha)
    energies = {
        name: window_energies(variable, windows[name])[:, : options.horizon]
        for name in ("conformal", "test")
    }
    radii = fit_radii(
        energies["conformal"], windows["conformal"].episode, alphas_with(options.alpha)
    )
    heads = save(observer.to_arrays())
    calibration = Calibration(
        variant=model.variant,
        variant_sha256=model.manifest.variant_sha256(model.variant),
        heads_sha256=hashlib.sha256(heads).hexdigest(),
        alpha=options.alpha,
        seed=options.seed,
        episodes={name: len(chosen) for name, chosen in splits.items()},
        data_sha256=data_sha256(recording),
        channels=scales,
        thresholds=thresholds,
        radii=radii,
        domain=_domain(encoded, recording),
        created_utc=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        tools=_tools(),
    )
    clock.lap("thresholds")

    worst = worst_scores(measured["test"], scales)
    steps = np.concatenate([channel_scores(m, scales).max(axis=1) for m in measured["test"]])
    picked = pick_windows(windows["test"], _SPREAD_WINDOWS, options.seed)
    sample = FutureSampler(model, variable)
    spread = evaluate_spread(
        lambda past, actions: sample(past, actions, options.samples, options.seed).latents,
        picked,
        progress=progress,
    )
    commanded, shuffled = action_use(model, windows["test"], LONG, options.seed)
    use = ActionUse(commanded=commanded, shuffled=shuffled, ratio=shuffled / max(commanded, 1e-30))
    size = int(np.prod(windows["test"].observed.shape[2:]))
    coverage = measure_coverage(
        energies["test"],
        windows["test"].episode,
        radii,
        conformal_episodes=len(parts["conformal"]),
        seed=options.seed,
    )
    clock.lap("test")
    report = VariantReport(
        calibration=calibration,
        coverage=coverage,
        reliability=measure_reliability(
            energies["conformal"],
            windows["conformal"].episode,
            energies["test"],
            windows["test"].episode,
            size,
        ),
        false_alarms=rate(int(np.sum(worst > thresholds.caution)), len(worst)),
        rejections=rate(int(np.sum(worst > thresholds.reject)), len(worst)),
        steps_alarmed=float(np.mean(steps > thresholds.caution)),
        spread=spread,
        action_use=use,
        gain=tuple(variable.gain.tolist()),
        warnings=_warnings(use, coverage),
        seconds=clock.seconds,
    )
    return Fitted(heads=heads, report=report)


def _write(staging: Path, variant: str, result: Fitted, bundle_name: str) -> None:
    """Put one variant's calibration and reports into a staged bundle."""
    for folder in ("calibration", "reports"):
        (staging / folder).mkdir(exist_ok=True)
    (staging / calibration_name(variant)).write_bytes(json_bytes(result.report.calibration))
    (staging / heads_name(variant)).write_bytes(result.heads)
    (staging / f"reports/calibration_{variant}.json").write_bytes(json_bytes(result.report))
    write_report(staging / f"reports/calibration_{variant}.html", result.report, bundle_name)


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


def _warnings(use: ActionUse, coverage: Sequence[Coverage]) -> tuple[str, ...]:
    warnings = []
    if use.ratio < _DEAF:
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
