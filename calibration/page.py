# SPDX-License-Identifier: Apache-2.0
"""The calibration report as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepa_edge.calibration.records import Rate, SpreadReport, VariantReport
from jepa_edge.report import Section, Table, write_page

_COLORS = ("#0b6e99", "#d1762b", "#3f8f5b", "#8a5aa8", "#b0413e", "#5b6b7b")


def write_report(path: Path, report: VariantReport, bundle_name: str) -> None:
    """Write the report's HTML page."""
    calibration = report.calibration
    write_page(
        path,
        f"Calibration of {bundle_name}, variant {calibration.variant}",
        f"alpha {calibration.alpha:g}; {sum(calibration.episodes.values())} recorded episodes; "
        f"seed {calibration.seed}; graphs {calibration.binding.engine_sha256[:12]}; "
        f"{calibration.created_utc}",
        [
            _summary(report),
            *([_coverage(report)] if report.coverage else []),
            *_groups(report),
            *([reliability_section(report)] if report.reliability else []),
            *([spread_section([report.spread])] if report.spread is not None else []),
            _channels(report),
        ],
    )


def percent(rate: Rate) -> str:
    """A rate with its interval, in percent."""
    return (
        f"{100 * rate.value:.1f} % ({rate.count}/{rate.trials}), "
        f"95 % interval {100 * rate.low:.1f} to {100 * rate.high:.1f} %"
    )


def _summary(report: VariantReport) -> Section:
    calibration, thresholds = report.calibration, report.calibration.thresholds
    splits = ", ".join(f"{name} {count}" for name, count in calibration.episodes.items())
    bounds_loss = calibration.risk is not None
    domain = calibration.domain
    rows = [
        ["episodes per split", splits],
        ["held-out episodes that pass the CAUTION threshold", percent(report.false_alarms)],
        ["held-out episodes that pass the REJECT threshold", percent(report.rejections)],
        ["held-out steps above the CAUTION threshold", f"{100 * report.steps_alarmed:.2f} %"],
        [
            "CAUTION threshold",
            f"{thresholds.caution:.3f}, "
            + (
                f"passed by {100 * thresholds.caution_alpha:.3g} % of the conformal episodes; "
                "bounds your own loss, no share of nominal episodes is guaranteed"
                if bounds_loss
                else f"at most {100 * thresholds.caution_alpha:.3g} % of episodes"
            ),
        ],
        [
            "REJECT threshold",
            f"{thresholds.reject:.3f}, at most {100 * thresholds.reject_alpha:.3g} % of episodes",
        ],
        *(
            []
            if report.action_use is None
            else [["4-step error, shuffled / commanded actions", f"{report.action_use.ratio:.2f}"]]
        ),
        [
            "calibrated for",
            f"{domain.rate_hz:g} Hz, episodes of {domain.steps_min} to {domain.steps_max} steps",
        ],
    ]
    drift = calibration.drift
    rows.append(
        [
            "slow drift",
            (
                f"blocks of {drift.block_steps} steps against {len(drift.nominal)} nominal ones; "
                "ever raised on a robot that stays nominal with probability at most "
                f"{drift.alpha:g} per start of the process, beside the thresholds"
            ),
        ]
    )
    if calibration.risk is not None:
        risk = calibration.risk
        rows.append(
            [
                "your own loss",
                (
                    f"at most {risk.max_risk:g} per episode with confidence "
                    f"{1.0 - risk.delta:g} if CAUTION stops the robot (Learn then Test, "
                    f"{risk.episodes} episodes, mean loss {risk.risk:.4f}, "
                    f"p = {risk.p_value:.2g})"
                ),
            ]
        )
    return Section(
        title="What the thresholds promise",
        paragraphs=[
            (
                "A nominal episode that is exchangeable with the calibration episodes passes "
                + ("the REJECT" if bounds_loss else "a")
                + " threshold at any step and in any channel with at most the stated probability. "
                "The probability is taken over the calibration episodes too; it holds for episodes "
                "of the same mix of lengths, and says nothing about which faults are seen."
            ),
            *(
                [
                    (
                        "The CAUTION threshold was lowered to bound your own loss, on the very "
                        "scores that it is one of: its share of nominal episodes is measured, not "
                        "guaranteed."
                    )
                ]
                if bounds_loss
                else []
            ),
            (
                "The promise is about scores and thresholds. The drift alarm adds its own alpha; "
                "flags for leaving the calibrated domain, for the input and for overload come on "
                "top, with no share of alpha."
            ),
            *(f"Warning: {warning}." for warning in report.warnings),
        ],
        tables=[Table(header=["quantity", "value"], rows=rows)],
    )


def _coverage(report: VariantReport) -> Section:
    episodes = report.calibration.episodes["conformal"]
    rows = [
        [
            f"{row.alpha:g}",
            str(row.horizon),
            f"{row.radius:.3f}",
            f"{row.measured.count}/{row.measured.trials}",
            f"{100 * row.measured.value:.1f}",
            f"{100 * row.measured.low:.1f} to {100 * row.measured.high:.1f}",
            f"{100 * row.accept_low:.1f} to {100 * row.accept_high:.1f}",
            "inside" if row.accepted else "OUTSIDE",
            f"{100 * row.plausible_low:.1f} to {100 * row.plausible_high:.1f}"
            + ("" if row.plausible else ", OUTSIDE"),
            f"{100 * row.all_windows:.1f}",
        ]
        for row in report.coverage
    ]
    return Section(
        title="Coverage per horizon on held-out episodes",
        paragraphs=[
            (
                "The radius is in innovation energy. It comes from all windows of the conformal "
                "episodes, each episode weighing the same; a window drawn from a fresh episode "
                "lies inside with probability at least 1 - alpha. For the count, one window is "
                "drawn from each held-out episode, so that it is binomial, given the coverage of "
                "the radii."
            ),
            (
                f"The verdict takes that coverage to be 1 - alpha. But the radii come from "
                f"{episodes} conformal episodes and all share this one draw: the rows depend on "
                "each other, and rows outside may occur somewhat more often than 1 %. The last "
                "interval (beta-binomial, 99 %) allows for the radii's own scatter; only a row "
                "outside of it speaks against exchangeable episodes."
            ),
        ],
        tables=[
            Table(
                header=[
                    "alpha",
                    "horizon",
                    "radius",
                    "inside",
                    "coverage %",
                    "95 % interval",
                    "accepted at 99 %",
                    "verdict",
                    "with the radii's scatter",
                    "all windows %",
                ],
                rows=rows,
            )
        ],
    )


def _groups(report: VariantReport) -> list[Section]:
    """Coverage per size of the actions, with radii of their own; nothing where there are none."""
    groups = report.calibration.groups
    if groups is None:
        return []
    rows = []
    for row in report.group_coverage:
        one, edges = row.coverage, groups.edges[row.coverage.horizon - 1]
        low = f"{edges[row.group - 1]:.2f}" if row.group else "0"
        high = f"to {edges[row.group]:.2f}" if row.group < len(edges) else "and more"
        rows.append(
            [
                f"{one.alpha:g}",
                f"{low} {high}",
                str(one.horizon),
                f"{one.radius:.3f}",
                f"{one.measured.count}/{one.measured.trials}",
                f"{100 * one.measured.value:.1f}",
                f"{100 * one.accept_low:.1f} to {100 * one.accept_high:.1f}",
                "inside" if one.accepted else "OUTSIDE",
                f"{100 * one.plausible_low:.1f} to {100 * one.plausible_high:.1f}"
                + ("" if one.plausible else ", OUTSIDE"),
            ]
        )
    return [
        Section(
            title="Coverage per size of the actions",
            paragraphs=[
                (
                    "One radius for all actions covers small motions too often and large ones too "
                    "seldom. These radii are set among windows of like action size (root mean "
                    "square of the standardized actions up to the horizon), so that each group is "
                    "covered by itself. The edges come from the fit split."
                )
            ],
            tables=[
                Table(
                    header=[
                        "alpha",
                        "action size",
                        "horizon",
                        "radius",
                        "inside",
                        "coverage %",
                        "accepted at 99 %",
                        "verdict",
                        "with the radii's scatter",
                    ],
                    rows=rows,
                )
            ],
        )
    ]


def reliability_section(report: VariantReport) -> Section:
    """Nominal against measured coverage, before and after conformal calibration."""
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="ideal", line={"color": "#b8c4cd", "dash": "dot"}
    )
    for index, row in enumerate(report.reliability):
        color = _COLORS[index % len(_COLORS)]
        label = f"{row.horizon} step{'s' if row.horizon > 1 else ''}"
        figure.add_scatter(
            x=row.nominal,
            y=row.conformal,
            name=label,
            mode="lines+markers",
            line={"color": color},
            marker={"size": 5},
        )
        figure.add_scatter(
            x=row.nominal,
            y=row.gaussian,
            name=f"{label}, before",
            mode="lines",
            line={"color": color, "dash": "dash", "width": 1},
            visible="legendonly",
        )
    _layout(figure, "nominal coverage", "measured on held-out episodes", height=460)
    figure.update_yaxes(range=[0, 1.01])
    return Section(
        title="Reliability",
        paragraphs=[
            (
                "All windows of the held-out episodes, each episode weighing the same. The dashed "
                "lines (click them in the legend) are the covariance head taken at its word, "
                "before conformal calibration."
            )
        ],
        figures=[figure],
    )


def spread_section(reports: Sequence[SpreadReport]) -> Section:
    """Spread against realized error for one or more samplers on the same windows."""
    import plotly.graph_objects as go

    first = reports[0]
    horizons = list(range(1, len(first.spread) + 1))
    growth, curve = go.Figure(), go.Figure()
    growth.add_scatter(x=horizons, y=first.error, name="realized error", line={"color": "#1b2733"})
    for index, report in enumerate(reports):
        color = _COLORS[index % len(_COLORS)]
        growth.add_scatter(
            x=horizons, y=report.spread, name=f"spread, {report.name}", line={"color": color}
        )
        curve.add_scatter(x=report.coverage, y=report.risk, name=report.name, line={"color": color})
    curve.add_scatter(
        x=first.coverage,
        y=first.oracle_risk,
        name="oracle",
        line={"color": "#1b2733", "dash": "dot"},
    )
    curve.add_scatter(
        x=[0, 1],
        y=[first.aurc_random] * 2,
        name="random",
        mode="lines",
        line={"color": "#b8c4cd", "dash": "dot"},
    )
    _layout(growth, "steps ahead", "root mean square, latent units", height=360)
    growth.update_xaxes(dtick=1)
    _layout(curve, "share of windows kept, least spread first", "mean error of those", height=360)
    labels = ["all horizons together", *(f"{h} step{'s' if h > 1 else ''} ahead" for h in horizons)]
    columns = [(report.overall, *report.per_horizon) for report in reports]
    rows = [
        [label, *(f"{c.value:.2f} [{c.low:.2f}, {c.high:.2f}]" for c in cells)]
        for label, *cells in zip(labels, *columns, strict=True)
    ]
    rows.append(
        [
            f"AURC (random {first.aurc_random:.3f}, oracle {first.aurc_oracle:.3f})",
            *(f"{report.aurc:.3f}" for report in reports),
        ]
    )
    header = [
        "Spearman of spread and error",
        *(f"{report.name}, {report.samples} samples" for report in reports),
    ]
    return Section(
        title="Spread of sampled futures against realized error",
        paragraphs=[
            (
                f"{first.windows} held-out nominal windows. Spread is the root mean square "
                "deviation of the sampled futures; the error is that of the model's own "
                "prediction. Brackets are 95 % bootstrap intervals over episodes. Published for "
                "MC-dropout on a released LeWM: 0.40. The overall figure also rewards a spread "
                "that grows with the horizon."
            )
        ],
        tables=[Table(header=header, rows=rows)],
        figures=[growth, curve],
    )


def _channels(report: VariantReport) -> Section:
    rows = [
        [
            channel.name,
            f"{channel.center:.3f}",
            f"+{channel.high:.3f}",
            "not watched" if channel.low is None else f"-{channel.low:.3f}",
        ]
        for channel in report.calibration.channels
    ]
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in report.seconds.items())
    return Section(
        title="Channels",
        paragraphs=[
            (
                "Natural logarithms of energies. Score 0 is the center, score 1 the offset shown, "
                "which one nominal episode in ten reaches at its worst step."
            ),
            f"Time: {seconds}.",
        ],
        tables=[Table(header=["channel", "center", "score 1 above", "score 1 below"], rows=rows)],
    )


def _layout(figure: Any, x: str, y: str, height: int) -> None:
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis_title=x,
        yaxis_title=y,
        font={"family": "system-ui, sans-serif"},
    )
