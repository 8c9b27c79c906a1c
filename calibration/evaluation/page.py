# SPDX-License-Identifier: Apache-2.0
"""The evaluation as a page that a safety engineer can read, print and file."""

from __future__ import annotations

from pathlib import Path

from jepa_edge.calibration.evaluation.records import EvaluationReport
from jepa_edge.calibration.evaluation.sections import (
    baselines,
    detection,
    false_alarms,
    forecasts,
    matrix,
    operating,
)
from jepa_edge.calibration.evaluation.wording import allowed, estimate, percent, verdict
from jepa_edge.report import Section, Table, write_page


def write_evaluation(path: Path, report: EvaluationReport) -> None:
    """Write the report's HTML page."""
    provenance = report.provenance
    write_page(
        path,
        f"Evaluation of {Path(provenance.bundle).name}, variant {provenance.variant}",
        f"{report.alarms.episodes} nominal episodes, {len(report.alarms.faults)} faults, alpha "
        f"{report.alpha:g}; graphs {provenance.binding.engine_sha256[:12]}; "
        f"{provenance.created_utc}",
        [
            _claim(report),
            _undetected(report),
            _method(report),
            _guarantee(report),
            false_alarms(report),
            detection(report),
            matrix(report),
            operating(report),
            *forecasts(report),
            *([baselines(report)] if report.baselines else []),
            _provenance(report),
        ],
    )


def _claim(report: EvaluationReport) -> Section:
    alarms, faults = report.alarms, report.alarms.faults
    seen = [f.fault for f in faults if f.fault not in report.undetected]
    missed = ", ".join(report.undetected) or "none"
    return Section(
        title="What this report claims",
        paragraphs=[
            (
                "The monitor watches a learned world model while a robot runs. "
                + _how(report)
                + "It raises CAUTION or REJECT. In "
                "the words of ASTM F3269 it is the safety monitor of a complex function; what the "
                "robot does about an alarm, the recovery function, is not part of it."
            ),
            *(f"Warning: {warning}." for warning in report.warnings),
        ],
        points=[
            (
                f"False alarms: {percent(alarms.false_alarms)} of nominal episodes pass the "
                f"CAUTION threshold. {allowed(report)}"
            ),
            f"Seen, of {len(faults)} faults: {len(seen)} ({', '.join(seen) or 'none'}).",
            f"Not shown to be seen, or seen in part only: {missed}.",
            (
                f"Balanced accuracy {estimate(report.accuracy.balanced)}, time-weighted "
                f"{estimate(report.accuracy.time_weighted)} (1 is perfect, 0.5 is chance for the "
                "first)."
            ),
            (
                "The claim is about these faults at these severities, on runs like the ones "
                "recorded. It is evidence for a safety case, not a certificate."
            ),
        ],
    )


def _how(report: EvaluationReport) -> str:
    """What the monitor goes by."""
    channels = report.alarms.nominal_by_channel
    if report.forecast is not None:
        return "It compares what the camera shows with what the model predicted. "
    if "innovation" in channels:
        return (
            "The model takes no actions: parts of each frame are hidden, predicted from the rest, "
            "and compared. "
        )
    return "The model predicts nothing: frames are compared with those that were recorded. "


def _undetected(report: EvaluationReport) -> Section:
    rows = [
        [f.fault, verdict(report, f), percent(f.detected), percent(f.nominal_after_onset)]
        for f in report.alarms.faults
        if f.fault in report.undetected
    ]
    skipped = [[name, why] for name, why in report.skipped.items()]
    told = (
        "Do not rely on the monitor for the faults in this table."
        if rows
        else "Every fault that was run is shown to be seen. Others were not run."
    )
    return Section(
        title="What is not detected",
        paragraphs=[
            told,
            (
                "A fault counts as seen when the low end of its 95 % interval is above "
                f"{100 * report.seen_from:g} % of the episodes, and above what nominal episodes do "
                "in the same frames. Seen in part: only the second. A fault that leaves images and "
                "motion as predicted cannot be seen by any threshold. Faults that nobody thought "
                "of are not in this table."
            ),
        ],
        tables=[
            Table(header=header, rows=lines, prose=True)
            for header, lines in (
                (["fault", "verdict", "detected", "nominal episodes that alarm there"], rows),
                (["not run", "why"], skipped),
            )
            if lines
        ],
    )


def _method(report: EvaluationReport) -> Section:
    forecast = report.forecast
    rows = [
        [
            source.fault,
            source.kind,
            source.description,
            "-" if source.severity is None else f"{source.severity:g}",
            str(source.onset),
            str(source.episodes),
            source.origin,
        ]
        for source in report.provenance.sources
    ]
    return Section(
        title="Data and method",
        paragraphs=[
            (
                f"{report.alarms.episodes} nominal episodes at {report.rate_hz:g} Hz, from "
                f"{report.provenance.nominal}. They took no part in the calibration, which used "
                "another recording (hashes below)."
            ),
            (
                "An episode alarms when any channel is above the CAUTION threshold in any frame. "
                "Detection is counted from the first frame that can show the fault, over as many "
                "frames in faulty as in nominal episodes; what comes later, and episodes that are "
                "too short for it, are left out there. An episode "
                "that alarms before that frame is a false alarm: it is left out and counted as "
                "early. Delays are over detected episodes only."
            ),
            (
                "Intervals are 95 %. Proportions: exact (Clopper-Pearson). Rates: exact "
                "(Poisson, Garwood). Accuracies: bootstrap over recorded runs; a nominal run and "
                "the faults injected into it are drawn together. All of them are for this one "
                "calibration: how much another one, on other episodes, would differ is not in "
                "them. Intervals are per row; across many rows some will miss by chance."
            ),
            (
                f"No forecasts: the model takes no actions. Seed {report.seed}."
                if forecast is None
                else f"Forecasts: {forecast.windows} windows of {forecast.episodes} nominal "
                f"episodes, {forecast.samples} sampled futures each. Seed {report.seed}."
            ),
        ],
        tables=[
            Table(
                header=["fault", "kind", "what breaks", "severity", "frame", "runs", "origin"],
                rows=rows,
                caption="Faults that were run (SOTIF: triggering conditions). Frame: the first "
                "that can show the fault.",
                prose=True,
            )
        ],
    )


def _promise(report: EvaluationReport) -> str:
    """What a fresh nominal episode does, and how sure that is."""
    reject = f"the REJECT threshold with probability at most {report.reject_alpha:g}"
    method = (
        "This is split conformal prediction on the largest score of each of "
        f"{report.conformal_episodes} calibration episodes. It holds for any distribution and for "
        "this many episodes, not only in the limit."
    )
    if report.bounds_loss:
        return (
            "The CAUTION threshold was lowered to bound a loss that the user recorded, on the very "
            "scores that it is one of: its share of false alarms is measured, not guaranteed. A "
            f"fresh nominal episode passes {reject}. {method}"
        )
    return (
        "A fresh nominal episode passes the CAUTION threshold with probability at most "
        f"{report.caution_alpha:g}, and {reject}. {method}"
    )


def _guarantee(report: EvaluationReport) -> Section:
    return Section(
        title="What is guaranteed, and under which assumptions",
        paragraphs=[
            _promise(report),
            (
                "That is about the scores. A running session has more reasons for a flag, which "
                "come on top: the drift alarm adds its own alpha, once per start of the process; "
                "leaving the calibrated domain, an input that is missing, late or odd, and an "
                "overload raise flags of their own, with no share of alpha. They are not counted "
                "on this page."
            ),
        ],
        points=[
            (
                "Assumption 1: the episode is exchangeable with the calibration episodes. Same "
                "robot, camera, rate, task and surroundings, and the same mix of lengths as the "
                "calibration episodes."
            ),
            (
                "Assumption 2: engine, preprocessing, runtime and device are those that were "
                "calibrated. The software checks their hashes and refuses others."
            ),
            (
                "The probability is over the calibration episodes too. For one given calibration "
                "the true share of false alarms scatters around the stated one."
            ),
            (
                "No guarantee covers detection. Detection rates are measurements on the faults "
                "listed, at the severities listed."
            ),
            (
                "No guarantee covers plans that were chosen because the model liked them, nor "
                "drift of the robot over months."
            ),
        ],
    )


def _provenance(report: EvaluationReport) -> Section:
    provenance, binding = report.provenance, report.provenance.binding
    rows = [
        ["bundle", provenance.bundle],
        ["model family, variant", f"{provenance.family}, {provenance.variant}"],
        ["engine sha256", binding.engine_sha256],
        ["preprocessing sha256", binding.preprocessing_sha256],
        ["runtime, device class", f"{binding.runtime}, {binding.device_class}"],
        ["calibration heads sha256", provenance.heads_sha256],
        ["calibration data sha256", provenance.calibration_data_sha256],
        ["calibrated", provenance.calibration_created_utc],
        [
            "alpha, conformal episodes",
            f"{report.alpha:g}, {report.conformal_episodes} (REJECT {report.reject_alpha:g})",
        ],
        ["nominal data sha256", provenance.nominal_sha256],
        *(
            [f"data sha256, {source.fault}", source.data_sha256]
            for source in provenance.sources
            if source.data_sha256 != provenance.nominal_sha256
        ),
        ["tools", ", ".join(f"{name} {value}" for name, value in provenance.tools.items())],
        ["command", provenance.command or "called from Python"],
        ["seed", str(report.seed)],
        ["made", provenance.created_utc],
        ["time", ", ".join(f"{name} {value:.1f} s" for name, value in report.seconds.items())],
    ]
    return Section(
        title="Provenance",
        paragraphs=[
            (
                "Every number on this page is in the JSON file beside it. Faults that were "
                "injected share the nominal data's hash."
            )
        ],
        tables=[Table(header=["what", "value"], rows=rows, prose=True)],
    )
