# SPDX-License-Identifier: Apache-2.0
"""Numbers of an evaluation as text."""

from __future__ import annotations

from jepa_edge.calibration.evaluation.records import (
    Estimate,
    EvaluationReport,
    FaultResult,
    PerHour,
    RunLength,
)
from jepa_edge.calibration.records import Rate


def percent(rate: Rate) -> str:
    """A proportion with its count and interval, e.g. 12.5 % (5/40) [4.2, 26.8]."""
    return f"{100 * rate.value:.1f} % ({rate.count}/{rate.trials}) {span(rate)}"


def allowed(report: EvaluationReport) -> str:
    """What the calibration promises about false alarms, in a sentence."""
    if report.bounds_loss:
        return "The threshold bounds the user's own loss; this share is measured, not guaranteed."
    return f"The calibration allows {100 * report.caution_alpha:g} %."


def span(rate: Rate) -> str:
    """The interval of a proportion, in percent."""
    return f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def estimate(value: Estimate) -> str:
    """A number with its interval."""
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def verdict(report: EvaluationReport, fault: FaultResult) -> str:
    """One word or two on how a fault is seen."""
    if fault.fault not in report.undetected:
        return "seen"
    if fault.detected.low > fault.nominal_after_onset.high:
        return "seen in part"
    return "NOT SHOWN"


def per_hour_text(rate: PerHour) -> str:
    """Events per hour with count, time and interval."""
    return (
        f"{rate.value:.2f} ({rate.count} in {rate.hours:.2f} h) [{rate.low:.2f}, {rate.high:.2f}]"
    )


def run_length_text(length: RunLength, rate_hz: float) -> str:
    """Mean time in seconds with its interval."""
    low = f"{length.low / rate_hz:.3g}"
    high = "no limit" if length.high is None else f"{length.high / rate_hz:.3g}"
    mean = "none seen" if length.mean is None else f"{length.mean / rate_hz:.3g} s"
    return f"{mean} ({length.alarms} in {length.frames / rate_hz:.0f} s) [{low}, {high}]"


def frames(delay: float | None, rate_hz: float) -> str:
    """A delay in frames and seconds."""
    return "-" if delay is None else f"{delay:.0f} ({delay / rate_hz:.1f} s)"
