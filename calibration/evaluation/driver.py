# SPDX-License-Identifier: Apache-2.0
"""The whole evaluation of one calibrated monitor: nominal runs and faults in, a report out."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.calibration.conformal import predictive_interval
from jepa_edge.calibration.coverage import rate
from jepa_edge.calibration.dataset import (
    EncodedEpisode,
    Windows,
    make_windows,
    split_episodes,
)
from jepa_edge.calibration.evaluation.alarms import FaultScores, count_alarms
from jepa_edge.calibration.evaluation.baselines import FaultEpisodes, baseline_traces
from jepa_edge.calibration.evaluation.bootstrap import (
    accuracy,
    balanced_accuracy,
    paired_difference,
    time_weighted_accuracy,
)
from jepa_edge.calibration.evaluation.episodes import Episodes, FaultyEpisodes
from jepa_edge.calibration.evaluation.forecasts import evaluate_forecast
from jepa_edge.calibration.evaluation.options import EvaluateOptions
from jepa_edge.calibration.evaluation.outcomes import (
    FaultTraces,
    Outcomes,
    Traces,
    operating_curve,
    operating_point,
    outcomes,
    ranking_over_faults,
    rankings,
    worst,
)
from jepa_edge.calibration.evaluation.records import (
    Baseline,
    EvaluationReport,
    FaultReport,
    FaultResult,
    FaultSource,
    Forecast,
    Provenance,
)
from jepa_edge.calibration.evaluation.sources import parse_faults
from jepa_edge.calibration.evaluation.work import score_episodes
from jepa_edge.calibration.fit import DEAF, action_use
from jepa_edge.calibration.records import ActionUse, Rate
from jepa_edge.calibration.spread import pick_windows
from jepa_edge.calibration_file import Domain
from jepa_edge.channels import LONG
from jepa_edge.encoding import frame_of, step_seeing
from jepa_edge.errors import InputError
from jepa_edge.monitor import Monitor
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Recording
from jepa_edge.version import __version__
from jepa_edge.world_model import WorldModel

SEEN_FROM = 0.5
"""A fault counts as seen when even the low end of its detection interval is above this share, and
above the high end of what nominal episodes do in the same frames."""

_WINDOWS = 400


def evaluate(
    model: WorldModel,
    monitor: Monitor,
    nominal: Recording,
    faults: Sequence[str],
    options: EvaluateOptions | None = None,
    progress: Progress = silent,
) -> EvaluationReport:
    """Measure what a calibrated monitor sees, what it misses, and how often it cries wolf.

    The report of `evaluate_detectors`, whose arguments and errors these are.
    """
    return evaluate_detectors(model, monitor, nominal, faults, options, progress).report


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The report, and what the monitor and every baseline did on each episode.

    Outcomes of several evaluations can be pooled by `bootstrap.paired_difference`.
    """

    report: EvaluationReport
    own: Outcomes
    rivals: Mapping[str, Outcomes]


def evaluate_detectors(
    model: WorldModel,
    monitor: Monitor,
    nominal: Recording,
    faults: Sequence[str],
    options: EvaluateOptions | None = None,
    progress: Progress = silent,
) -> Evaluated:
    """Evaluate a calibrated monitor, beside baselines if `options.calibration_data` is given.

    nominal: episodes that took no part in the calibration. faults: see `sources.parse_faults`.
    Raises InputError when a recording does not fit the model, a fault cannot be read or run, or
    the nominal recording is the calibration's own; CalibrationError when baselines lack episodes.
    """
    return _Evaluation(model, monitor, nominal, options or EvaluateOptions(), progress).run(faults)


class _Evaluation:
    """One evaluation on its way; what every stage needs, and the seconds that each one took."""

    def __init__(
        self,
        model: WorldModel,
        monitor: Monitor,
        nominal: Recording,
        options: EvaluateOptions,
        progress: Progress,
    ) -> None:
        self.model, self.monitor, self.nominal = model, monitor, nominal
        self.options, self.progress = options, progress
        self.source = Episodes(model, monitor.calibration, nominal, options, progress)
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def run(self, faults: Sequence[str]) -> Evaluated:
        calibration, options = self.monitor.calibration, self.options
        takes_actions = self.model.takes_actions
        requests, skipped = parse_faults(faults, self._onset(), takes_actions)
        if not requests:
            raise InputError("no fault to evaluate; pass one or more with --faults")
        self.source.check(requests)
        episodes = self.source.encode_nominal()
        faulty = self.source.encode_faulty(requests)
        self._lap("encode")

        healthy = score_episodes(
            self.monitor, episodes, options.workers, self.progress, "monitor nominal"
        )
        scores = {
            fault.request.name: score_episodes(
                self.monitor,
                fault.episodes,
                options.workers,
                self.progress,
                f"monitor {fault.request.name}",
            )
            for fault in faulty
        }
        self._lap("monitor")
        alarms = count_alarms(
            healthy,
            {
                f.request.name: FaultScores(
                    onset=self._step(f.request.onset),
                    episodes=scores[f.request.name],
                    where=f.request.origin,
                )
                for f in faulty
            },
            calibration.thresholds,
            self.rate_hz,
            str(self.nominal.path),
        )
        traces = Traces(
            name="monitor",
            threshold=calibration.thresholds.caution,
            nominal=[worst(rows) for rows in healthy],
            cluster=np.arange(len(healthy)),
            faults={
                f.request.name: FaultTraces(
                    onset=self._step(f.request.onset),
                    episodes=[worst(rows) for rows in scores[f.request.name]],
                    cluster=f.cluster,
                )
                for f in faulty
            },
        )
        own = outcomes(traces)
        self._lap("count")
        rivals = self._baselines(own, episodes, faulty)
        self._lap("baselines")
        forecast, use = self._forecasts(episodes) if takes_actions else (None, None)
        self._lap("forecasts")
        report = EvaluationReport(
            alpha=calibration.alpha,
            caution_alpha=calibration.thresholds.caution_alpha,
            reject_alpha=calibration.thresholds.reject_alpha,
            conformal_episodes=calibration.thresholds.episodes,
            plausible_alarms=self._plausible(alarms),
            seed=options.seed,
            rate_hz=self.rate_hz,
            alarms=alarms,
            accuracy=accuracy(own, options.seed),
            rankings=rankings(traces),
            ranking=ranking_over_faults(traces),
            undetected=tuple(f.fault for f in alarms.faults if not is_seen(f)),
            seen_from=SEEN_FROM,
            skipped=skipped,
            operating=operating_curve(traces),
            own_point=operating_point(traces, traces.threshold),
            forecast=forecast,
            action_use=use,
            baselines=tuple(compare(own, traces, options.seed) for traces in rivals),
            bounds_loss=calibration.risk is not None,
            warnings=self._warnings(alarms, use, episodes, faulty),
            provenance=self._provenance(faulty),
            seconds=self.seconds,
        )
        self._lap("statistics")
        return Evaluated(
            report=report, own=own, rivals={traces.name: outcomes(traces) for traces in rivals}
        )

    @property
    def rate_hz(self) -> float:
        """Model steps per second of the nominal recording."""
        clip = self.model.manifest.observation.clip
        return self.nominal.info.rate_hz / (1 if clip is None else clip.hop)

    def _onset(self) -> int:
        """Camera frame of faults that name none."""
        if self.options.onset is not None:
            return self.options.onset
        step = round(0.375 * self.monitor.calibration.domain.steps_min)
        return frame_of(step, self.model.manifest.observation.clip)

    def _step(self, onset: int) -> int:
        """First model step that can show a fault whose first camera frame is `onset`."""
        return step_seeing(onset, self.model.manifest.observation.clip)

    def _forecasts(self, episodes: Sequence[EncodedEpisode]) -> tuple[Forecast, ActionUse]:
        """How honest the sampled futures are, and whether actions matter."""
        options, windows = self.options, self._windows(episodes)
        tokens, dim = self.model.manifest.latent.compared

        def sample(
            past: NDArray[np.float32], actions: NDArray[np.float32], seed: int
        ) -> NDArray[np.float32]:
            futures = self.monitor.sample_futures(past, actions, options.samples, seed)
            return futures.latents[..., :tokens, :dim]

        forecast = evaluate_forecast(
            sample,
            pick_windows(windows, options.windows, options.seed),
            options.seed,
            self.progress,
        )
        return forecast, self._action_use(windows)

    def _baselines(
        self,
        own: Outcomes,
        episodes: Sequence[EncodedEpisode],
        faulty: Sequence[FaultyEpisodes],
    ) -> list[Traces]:
        calibration, options = self.monitor.calibration, self.options
        if options.calibration_data is None:
            return []
        encoded = self.source.encode_calibration(options.calibration_data)
        chosen = split_episodes(
            len(encoded), calibration.alpha, calibration.seed, calibration.episodes["conformal"]
        )
        return baseline_traces(
            self.monitor,
            {name: [encoded[index] for index in rows] for name, rows in chosen.items()},
            episodes,
            own.cluster,
            {
                f.request.name: FaultEpisodes(
                    onset=self._step(f.request.onset), episodes=f.episodes, cluster=f.cluster
                )
                for f in faulty
            },
            options.workers,
            self.progress,
        )

    def _windows(self, episodes: Sequence[EncodedEpisode]) -> Windows:
        """All windows of evenly chosen nominal episodes, LONG steps ahead or more."""
        history = self.model.manifest.history
        horizon = max(self.monitor.calibration.horizon, LONG)
        needed = history - 1 + horizon
        long_enough = [episode for episode in episodes if len(episode.actions) >= needed]
        if not long_enough:
            raise InputError(
                f"{self.nominal.path} has no episode of {needed} steps or more, which a window of "
                f"history {history} and horizon {horizon} needs; record longer ones"
            )
        step = max(1, len(long_enough) * self.options.windows // _WINDOWS)
        compared = self.model.manifest.latent.compared
        return make_windows(
            self.model, long_enough[::step], history, horizon, self.progress, compared
        )

    def _action_use(self, windows: Windows) -> ActionUse:
        commanded, shuffled = action_use(self.model, windows, LONG, self.options.seed)
        return ActionUse(
            commanded=commanded, shuffled=shuffled, ratio=shuffled / max(commanded, 1e-30)
        )

    def _plausible(self, alarms: FaultReport) -> int:
        """Most nominal episodes that may alarm, for a calibration on so many episodes, at 99 %."""
        thresholds, trials = self.monitor.calibration.thresholds, alarms.episodes
        quiet, _ = predictive_interval(trials, thresholds.episodes, thresholds.caution_alpha)
        return trials - quiet

    def _warnings(
        self,
        alarms: FaultReport,
        use: ActionUse | None,
        episodes: Sequence[EncodedEpisode],
        faulty: Sequence[FaultyEpisodes],
    ) -> tuple[str, ...]:
        calibration = self.monitor.calibration
        domain = calibration.domain
        told = []
        if not self.monitor.armed:
            told.append(
                f"the monitor is not armed on this machine ({self.monitor.disarmed_reason}); "
                "its flags would stay UNKNOWN here, and these figures are for its scores"
            )
        if calibration.risk is not None:
            told.append(
                "the CAUTION threshold was lowered to bound a loss of the user's own; its share of "
                "false alarms is then measured, not guaranteed"
            )
        if alarms.false_alarms.count > self._plausible(alarms):
            told.append(
                f"{alarms.false_alarms.count} of {alarms.false_alarms.trials} nominal episodes "
                f"alarm; a share of {calibration.thresholds.caution_alpha:g}, calibrated on "
                f"{calibration.thresholds.episodes} episodes, explains {self._plausible(alarms)} "
                "at most (99 %): they are not like the calibration episodes, and the guarantee "
                "does not hold for them"
            )
        outside = _outside(domain, episodes)
        if outside:
            told.append(
                f"{outside} of {len(episodes)} nominal episodes are shorter or longer than the "
                f"{domain.steps_min} to {domain.steps_max} steps that were calibrated; the "
                "guarantee does not cover longer ones"
            )
        for fault in faulty:
            outside = _outside(domain, fault.episodes)
            if outside and not fault.request.injected:
                told.append(
                    f"{outside} of {len(fault.episodes)} runs with {fault.request.name} are "
                    f"shorter or longer than the {domain.steps_min} to {domain.steps_max} steps "
                    "that were calibrated; only frames that nominal runs have too are compared"
                )
        told += [text for fault in alarms.faults for text in _left_out(fault, episodes)]
        if use is None:
            told.append(
                "the model takes no actions: no future is predicted and no fault of the actuators "
                "can show; frames are judged by what is hidden in them, by their familiarity and "
                "by how fast the latent moves"
                if self.model.has_masks
                else "the model takes no actions and has no mask predictor: nothing is predicted, "
                "frames are judged by their familiarity and by how fast the latent moves"
            )
        elif use.ratio < DEAF:
            told.append(
                f"the model hardly listens to its actions: {LONG}-step error with shuffled actions "
                f"is {use.ratio:.2f} x that with the commanded ones (1.5 or more is wanted, below "
                f"{DEAF:g} is too little); actuator faults will be missed"
            )
        return tuple(told)

    def _provenance(self, faulty: Sequence[FaultyEpisodes]) -> Provenance:
        model, calibration = self.model, self.monitor.calibration
        packages = ("numpy", "onnxruntime", "scipy")
        versions = {name: importlib.metadata.version(name) for name in packages}
        return Provenance(
            bundle=str(model.bundle.path),
            family=model.manifest.family,
            variant=model.variant,
            binding=self.source.binding,
            heads_sha256=calibration.heads_sha256,
            calibration_data_sha256=calibration.data_sha256,
            calibration_created_utc=calibration.created_utc,
            nominal=str(self.nominal.path),
            nominal_sha256=self.source.nominal_sha256,
            sources=tuple(
                FaultSource(
                    fault=f.request.name,
                    kind=f.request.kind,
                    description=f.request.description,
                    severity=None if f.request.injection is None else f.request.injection.severity,
                    onset=f.request.onset,
                    origin=f.request.origin,
                    episodes=len(f.episodes),
                    data_sha256=f.data_sha256,
                )
                for f in faulty
            ),
            command=self.options.command,
            tools={"jepa-edge": __version__, "python": platform.python_version(), **versions},
            created_utc=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )

    def _lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now


def _outside(domain: Domain, episodes: Sequence[EncodedEpisode]) -> int:
    """Number of episodes that are shorter or longer than the calibrated ones."""
    return sum(not domain.steps_min <= len(e.actions) <= domain.steps_max for e in episodes)


def _left_out(fault: FaultResult, episodes: Sequence[EncodedEpisode]) -> list[str]:
    """What a fault's figures leave out, in words."""
    told, needed = [], fault.onset + fault.frames
    short = sum(len(episode.latents) < needed for episode in episodes)
    if short or fault.left_out:
        told.append(
            f"{fault.fault} is compared in {fault.frames} frames from frame {fault.onset} on; "
            f"{short} nominal and {fault.left_out} faulty episodes are too short for that and left "
            "out there"
        )
    if fault.detected.trials == 0:
        told.append(
            f"every episode with {fault.fault} alarms before the fault begins; it is left out of "
            "the means over faults"
        )
    return told


def is_seen(result: FaultResult) -> bool:
    """Whether the monitor is shown to see a fault: most episodes, and more than by chance."""
    return result.detected.low > SEEN_FROM and result.detected.low > result.nominal_after_onset.high


def compare(own: Outcomes, traces: Traces, seed: int) -> Baseline:
    """One baseline beside the monitor, on the same episodes."""
    theirs = outcomes(traces)
    return Baseline(
        name=traces.name,
        false_alarms=_rate(theirs.alarmed),
        accuracy=accuracy(theirs, seed),
        ranking=ranking_over_faults(traces),
        gain_balanced=paired_difference(balanced_accuracy, [own], [theirs], seed),
        gain_time_weighted=paired_difference(time_weighted_accuracy, [own], [theirs], seed),
        detected={name: _rate(f.detected[f.fresh]) for name, f in theirs.faults.items()},
    )


def _rate(flags: NDArray[np.bool_]) -> Rate:
    return rate(int(flags.sum()), len(flags))
