# SPDX-License-Identifier: Apache-2.0
"""Drawings of the report, as SVG files: no script, and told apart without color."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jepa_edge.calibration.evaluation.records import Forecast, OperatingPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _GRAY, _LIGHT = "#000000", "#666666", "#bbbbbb"


def delay_against_run_length(
    points: Sequence[OperatingPoint], own: OperatingPoint, rate_hz: float
) -> bytes:
    """Mean delay over mean time to a false alarm, both in seconds, with its intervals."""
    figure, (axes,) = _figure(1, 3.0)
    every = sorted([*points, own], key=lambda point: point.threshold)
    shown = [point for point in every if point.run_length.mean is not None]
    times = [_seconds(p.run_length.mean, rate_hz) for p in shown]
    axes.fill_betweenx(
        [p.delay / rate_hz for p in shown],
        [_seconds(p.run_length.low, rate_hz) for p in shown],
        [_seconds(p.run_length.high, rate_hz) for p in shown],
        color=_LIGHT,
        alpha=0.6,
        linewidth=0,
        label="95 % interval",
    )
    axes.plot(times, [p.delay / rate_hz for p in shown], color=_INK, label="threshold varied")
    if own.run_length.mean is not None:
        axes.plot(
            [own.run_length.mean / rate_hz],
            [own.delay / rate_hz],
            marker="o",
            markersize=7,
            markerfacecolor="white",
            markeredgecolor=_INK,
            linestyle="",
            label="calibrated CAUTION threshold",
        )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("mean time to a false alarm (ARL0), seconds")
    axes.set_ylabel("mean delay, missed = to the end, s")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def pit_histograms(forecast: Forecast) -> bytes:
    """Histogram of the probability integral transform per horizon."""
    rows = forecast.horizons
    figure, panels = _figure(len(rows), 1.9, share=True)
    for axes, row in zip(panels, rows, strict=True):
        bins = len(row.pit)
        axes.bar(
            [(index + 0.5) / bins for index in range(bins)],
            [bins * share for share in row.pit],
            width=1.0 / bins,
            color=_LIGHT,
            edgecolor=_INK,
            linewidth=0.6,
        )
        axes.axhline(1.0, color=_INK, linestyle="--", linewidth=1.0)
        axes.set_title(f"{row.horizon} step{'s' if row.horizon > 1 else ''} ahead", fontsize=8)
        axes.set_xticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])
    panels[0].set_ylabel("density")
    return _svg(figure)


def risk_curves(forecast: Forecast) -> bytes:
    """Mean error of the windows kept, by rising spread, beside an oracle and chance."""
    figure, (axes,) = _figure(1, 2.8)
    axes.plot(forecast.coverage, forecast.risk, color=_INK, label="by predicted spread")
    axes.plot(forecast.coverage, forecast.oracle_risk, color=_INK, linestyle="--", label="oracle")
    axes.axhline(forecast.aurc_random, color=_GRAY, linestyle=":", label="random order")
    axes.set_xlabel("share of windows kept, least spread first")
    axes.set_ylabel("mean error, latent units")
    axes.set_ylim(bottom=0.0)
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def detection_bars(rows: Sequence[tuple[str, float, float, float]], chance: float) -> bytes:
    """Detection per fault with its interval. rows: name, value, low, high. chance: no fault."""
    figure, (axes,) = _figure(1, 0.7 + 0.22 * len(rows))
    places = list(range(len(rows)))[::-1]
    values = [row[1] for row in rows]
    axes.barh(places, values, color=_LIGHT, edgecolor=_INK, linewidth=0.6, height=0.7)
    below = [row[1] - row[2] for row in rows]
    above = [row[3] - row[1] for row in rows]
    axes.errorbar(
        values, places, xerr=[below, above], fmt="none", ecolor=_INK, elinewidth=1.0, capsize=2.5
    )
    axes.axvline(chance, color=_INK, linestyle="--", linewidth=1.0)
    axes.set_yticks(places, [row[0] for row in rows], fontsize=8)
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel("share of episodes detected; dashed: nominal episodes that alarm")
    return _svg(figure)


def _figure(panels: int, height: float, share: bool = False) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.8, height), layout="constrained")
    grid = figure.subplots(1, panels, sharey=share, squeeze=False)
    axes = list(grid[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
        one.xaxis.label.set_size(8.5)
        one.yaxis.label.set_size(8.5)
    return figure, axes


def _svg(figure: Figure) -> bytes:
    """The figure as a file; the same figure gives the same bytes."""
    import matplotlib as mpl

    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "jepa-edge", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _seconds(frames: float | None, rate_hz: float) -> float:
    return float("nan") if frames is None else frames / rate_hz
