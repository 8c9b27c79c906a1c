# SPDX-License-Identifier: Apache-2.0
"""The measured part of the report: one section per question."""

from __future__ import annotations

from jepa_edge.calibration.evaluation.figures import (
    delay_against_run_length,
    detection_bars,
    pit_histograms,
    risk_curves,
)
from jepa_edge.calibration.evaluation.records import EvaluationReport, Forecast
from jepa_edge.calibration.evaluation.wording import (
    estimate,
    frames,
    per_hour_text,
    percent,
    run_length_text,
    verdict,
)
from jepa_edge.calibration.records import ActionUse
from jepa_edge.report import Section, Table


def false_alarms(report: EvaluationReport) -> Section:
    """How often it cries wolf."""
    alarms, own = report.alarms, report.own_point.run_length
    inside = alarms.false_alarms.count <= report.plausible_alarms
    share = "share in calibration" if report.bounds_loss else "calibrated share"
    note = "; measured, not guaranteed" if report.bounds_loss else ""
    rows = [
        ["nominal episodes that pass the CAUTION threshold", percent(alarms.false_alarms)],
        [
            share,
            f"{100 * report.caution_alpha:.3g} %{note}; on {report.conformal_episodes} calibration "
            f"episodes up to {report.plausible_alarms} alarms are plausible (99 %): "
            + ("fits" if inside else "DOES NOT FIT"),
        ],
        ["nominal episodes that pass the REJECT threshold", percent(alarms.rejections)],
        ["alarms per hour of nominal operation", per_hour_text(alarms.alarms_per_hour)],
        ["mean time to a false alarm (ARL0)", run_length_text(own, report.rate_hz)],
    ]
    return Section(
        title="False alarms",
        paragraphs=[
            (
                "Alarms per hour count a run of alarmed frames once, and only time in which the "
                "monitor was past its warm-up. The mean time to a false alarm assumes that false "
                "alarms come at a constant rate; where it is longer than an episode it is an "
                "extrapolation."
            )
        ],
        tables=[Table(header=["quantity", "value [95 % interval]"], rows=rows, prose=True)],
    )


def detection(report: EvaluationReport) -> Section:
    """How often and how fast it sees each fault."""
    rows, bars = [], []
    for fault in report.alarms.faults:
        ranks = report.rankings[fault.fault]
        rows.append(
            [
                fault.fault,
                verdict(report, fault),
                percent(fault.detected),
                percent(fault.rejected),
                str(fault.frames),
                frames(fault.delay_median, report.rate_hz),
                frames(fault.delay_p90, report.rate_hz),
                f"{fault.early.count}",
                f"{ranks.auroc:.3f}",
                f"{ranks.aupr:.3f}",
                f"{ranks.fpr95:.3f}",
            ]
        )
        bars.append((fault.fault, fault.detected.value, fault.detected.low, fault.detected.high))
    mean = report.ranking
    rows.append(
        [
            "mean over faults",
            "",
            f"{100 * report.accuracy.true_positives:.1f} %",
            *[""] * 5,
            f"{mean.auroc:.3f}",
            f"{mean.aupr:.3f}",
            f"{mean.fpr95:.3f}",
        ]
    )
    chance = max(fault.nominal_after_onset.value for fault in report.alarms.faults)
    return Section(
        title="Detection and delay",
        paragraphs=[
            (
                "Delays count from the first frame that can show the fault, over detected "
                "episodes. AUROC, AUPR and FPR95 (false alarms when 95 % of the faults are seen) "
                "compare the largest score from there on with nominal episodes, whatever the "
                f"threshold. A detector that guesses has AUROC 0.5 and AUPR {mean.prevalence:.2f}."
            )
        ],
        tables=[
            Table(
                header=[
                    "fault",
                    "verdict",
                    "CAUTION or more",
                    "REJECT",
                    "frames compared",
                    "median delay, frames",
                    "90 % within",
                    "early",
                    "AUROC",
                    "AUPR",
                    "FPR95",
                ],
                rows=rows,
                prose=True,
            )
        ],
        drawings=[("Detection per fault with its 95 % interval.", detection_bars(bars, chance))],
    )


def matrix(report: EvaluationReport) -> Section:
    """The fault-by-channel matrix as a heat map."""
    names = list(report.alarms.nominal_by_channel)
    lines = [("nominal", report.alarms.nominal_by_channel)]
    lines += [(fault.fault, fault.by_channel) for fault in report.alarms.faults]
    return Section(
        title="Observability: which channel sees which fault",
        paragraphs=[
            (
                "Percent of the episodes in which that channel alone passes the CAUTION threshold. "
                "Darker is more. A row without a dark cell is a fault that nothing sees. Exact "
                "intervals are in the JSON file."
            )
        ],
        tables=[
            Table(
                header=["", *names],
                rows=[
                    [name, *(f"{100 * shares[channel].value:.0f}" for channel in names)]
                    for name, shares in lines
                ],
                shades=[
                    [None, *(0.85 * shares[channel].value for channel in names)]
                    for _, shares in lines
                ],
                upright=True,
            )
        ],
    )


def operating(report: EvaluationReport) -> Section:
    """What another threshold would give."""
    rate_hz = report.rate_hz
    points = [*report.operating[:: max(1, len(report.operating) // 8)]]
    rows = [
        [
            f"{point.threshold:.2f}{' (CAUTION)' if point is report.own_point else ''}",
            f"{100 * point.false_alarms:.1f} %",
            run_length_text(point.run_length, rate_hz),
            f"{100 * point.detected:.1f} %",
            f"{point.delay / rate_hz:.2f} s",
        ]
        for point in sorted([*points, report.own_point], key=lambda p: p.threshold)
    ]
    return Section(
        title="Delay against time to a false alarm",
        paragraphs=[
            (
                "A lower threshold sees more and sooner, and cries wolf more often. Here a missed "
                "episode counts with all frames that it has after the onset, so that missing does "
                "not make the delay look short. "
                + (
                    "No row carries a guarantee: CAUTION bounds the user's own loss."
                    if report.bounds_loss
                    else "Only the CAUTION row carries a guarantee."
                )
            )
        ],
        tables=[
            Table(
                header=[
                    "threshold",
                    "nominal episodes that alarm",
                    "ARL0 [95 % interval], s",
                    "detected, mean over faults",
                    "mean delay",
                ],
                rows=rows,
                prose=True,
            )
        ],
        drawings=[
            (
                "Mean delay against mean time to a false alarm, as the threshold varies.",
                delay_against_run_length(report.operating, report.own_point, rate_hz),
            )
        ],
    )


def forecasts(report: EvaluationReport) -> list[Section]:
    """Quality of the latent variable; nothing where the model takes no actions."""
    if report.forecast is None or report.action_use is None:
        return []
    return [_forecast(report.forecast, report.action_use)]


def _forecast(forecast: Forecast, use: ActionUse) -> Section:
    rows = [
        [
            str(row.horizon),
            f"{row.pit_distance:.3f}",
            f"{row.crps:.4g}",
            f"{row.error:.4g}",
            f"{row.skill:.3f}",
            f"{row.energy_score:.4g}",
            f"{row.spread:.4g}",
            f"{row.correlation.value:.2f} [{row.correlation.low:.2f}, {row.correlation.high:.2f}]",
        ]
        for row in forecast.horizons
    ]
    return Section(
        title="Are the sampled futures honest?",
        paragraphs=[
            (
                "If sampled futures scatter as the world does, the histograms are flat (dashed "
                f"line). They look along {forecast.directions} random directions of the latent. A "
                "hump means too much spread, a bowl too little, a slope a bias. Their distance "
                "from flat is the largest gap between distributions; windows of one episode depend "
                "on each other, so no p-value is given."
            ),
            (
                "CRPS and energy score: lower is better. The noise of the samples is shifted and "
                "scaled to mean 0 and variance 1 over them, so that few samples flatter both; "
                f"{forecast.samples} were drawn, 32 or more are advised. Skill "
                "compares the CRPS with that of the bare prediction: above 0 the futures add "
                f"something. AURC {forecast.aurc:.4g} (random order {forecast.aurc_random:.4g}, "
                f"oracle {forecast.aurc_oracle:.4g}): mean error of the windows kept when those "
                "with most spread are refused first."
            ),
            (
                "Action sensitivity: the error after four steps is "
                f"{use.ratio:.2f} times larger with shuffled than with commanded actions. Below "
                "1.3 the model hardly listens, and actuator faults cannot show."
            ),
        ],
        tables=[
            Table(
                header=[
                    "steps ahead",
                    "distance from flat",
                    "CRPS",
                    "bare error",
                    "skill",
                    "energy score",
                    "spread",
                    "Spearman, spread and error",
                ],
                rows=rows,
                prose=True,
            )
        ],
        drawings=[
            ("PIT of the latent, per horizon; flat is honest.", pit_histograms(forecast)),
            ("Mean error of the windows kept.", risk_curves(forecast)),
        ],
    )


def baselines(report: EvaluationReport) -> Section:
    """Other detectors on the same episodes."""
    own = [
        "this monitor",
        percent(report.alarms.false_alarms),
        f"{report.accuracy.true_positives:.3f}",
        estimate(report.accuracy.balanced),
        estimate(report.accuracy.time_weighted),
        f"{report.ranking.auroc:.3f}",
        "",
        "",
    ]
    rows = [
        [
            row.name,
            percent(row.false_alarms),
            f"{row.accuracy.true_positives:.3f}",
            estimate(row.accuracy.balanced),
            estimate(row.accuracy.time_weighted),
            f"{row.ranking.auroc:.3f}",
            estimate(row.gain_balanced),
            estimate(row.gain_time_weighted),
        ]
        for row in report.baselines
    ]
    names = [row.name for row in report.baselines]
    per_fault = [
        [
            fault.fault,
            f"{100 * fault.detected.value:.0f}",
            *(f"{100 * row.detected[fault.fault].value:.0f}" for row in report.baselines),
        ]
        for fault in report.alarms.faults
    ]
    return Section(
        title="Beside other detectors",
        paragraphs=[
            (
                "Our own implementations of published detectors, on the same latents, the same "
                "calibration episodes and "
                + (
                    f"alpha {report.alpha:g} per episode; the monitor's own CAUTION threshold "
                    "bounds the user's loss instead, so that false alarms differ by design. "
                    if report.bounds_loss
                    else "the same alpha per episode. "
                )
                + "Flow density with a "
                "time-varying conformal band follows FAIL-Detect (Xu et al. 2025). The gain is the "
                "monitor minus the other, paired by episode; above 0 the monitor is better."
            ),
            (
                "Time-weighted accuracy is our definition, in the spirit of FIPER (arXiv "
                "2510.09459): a detection counts 1 - delay / (frames after the onset)."
            ),
        ],
        tables=[
            Table(
                header=[
                    "detector",
                    "false alarms",
                    "detected",
                    "balanced accuracy",
                    "time-weighted",
                    "AUROC",
                    "gain, balanced",
                    "gain, time-weighted",
                ],
                rows=[own, *rows],
                prose=True,
            ),
            Table(
                header=["fault", "this monitor", *names],
                rows=per_fault,
                caption="Percent of the episodes detected.",
                prose=True,
            ),
        ],
    )
