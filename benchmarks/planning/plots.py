# SPDX-License-Identifier: Apache-2.0
"""Results as pictures for the README: SVG, light ground, no fonts embedded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COLORS = {"float32": "#4477aa", "bfloat16": "#228833", "int8": "#ee7733"}
_RIVAL_ALPHA = 0.45
_RUNTIMES = {
    "stable-worldmodel": "#777777",
    "ONNX Runtime": "#aa3377",
    "OpenVINO": "#4477aa",
    "jepa-edge": "#ee7733",
}
_MARKERS = {"int8": "^", "bf16": "s", "bfloat16": "s"}


def draw_all(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what the result holds; returns the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "jepa-edge",
            "font.family": "sans-serif",
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    drawn = []
    if races := result.get("races"):
        drawn.append(_draw_races(races, folder / "planning_iteration.svg"))
    if sweeps := result.get("sweeps"):
        drawn.append(_draw_sweeps(sweeps, folder / "planning_sweeps.svg"))
    if single := result.get("single_step"):
        drawn.append(_draw_single_step(single, folder / "planning_single_step.svg"))
    return drawn


def _draw_races(races: list[dict[str, Any]], path: Path) -> Path:
    """Wall time of one iteration, one thread, one observed frame; ours in full color."""
    import matplotlib.pyplot as plt

    race = min(races, key=lambda r: (r["setting"]["observed_frames"], r["threads"]))
    rows = sorted(race["contestants"], key=lambda row: row["wall_ms"])
    figure, axes = plt.subplots(figsize=(8.0, 0.9 + 0.27 * len(rows)), layout="constrained")
    colors = [_COLORS[row["precision"]] for row in rows]
    bars = axes.barh([row["name"] for row in rows], [row["wall_ms"] for row in rows], color=colors)
    for bar, row in zip(bars, rows, strict=True):
        bar.set_alpha(1.0 if row["name"].startswith("jepa-edge") else _RIVAL_ALPHA)
    axes.bar_label(bars, [f"{row['wall_ms']:.0f} ms" for row in rows], padding=3)
    axes.invert_yaxis()
    axes.set_xlabel(
        f"one CEM iteration, {race['setting']['candidates']} candidates, "
        f"horizon {race['setting']['horizon']}, {race['threads']} thread (ms)"
    )
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in _COLORS.values()]
    axes.legend(handles, list(_COLORS), frameon=False, loc="upper right")
    return _save(figure, path)


def _draw_sweeps(sweeps: dict[str, Any], path: Path) -> Path:
    """Wall time over candidates and over horizon, log-log, with a line of slope one."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9.0, 3.8), layout="constrained", sharey=True)
    for axes, axis in zip(panels, ("candidates", "horizon"), strict=True):
        rows = sweeps[axis]
        for name, threads in dict.fromkeys((row["name"], row["threads"]) for row in rows):
            points = sorted(
                (row[axis], row["wall_ms"])
                for row in rows
                if (row["name"], row["threads"]) == (name, threads)
            )
            precision = name.removeprefix("jepa-edge, ")
            axes.loglog(
                *zip(*points, strict=True),
                marker="o",
                markersize=4,
                color=_COLORS.get(precision, "#777777"),
                linestyle="-" if threads == 1 else "--",
                label=f"{name}, {threads} thread{'s' * (threads > 1)}",
            )
        ticks = sorted({row[axis] for row in rows})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        _plain_numbers(axes)
        axes.set_xlabel(axis)
    panels[0].set_ylabel("one iteration, wall time (ms)")
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside right")
    return _save(figure, path)


def _draw_single_step(single: dict[str, Any], path: Path) -> Path:
    """p50 and p99 over the number of samples."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.5, 4.2), layout="constrained")
    names = list(dict.fromkeys(row["name"] for row in single["rows"]))
    for name in names:
        rows = sorted((r for r in single["rows"] if r["name"] == name), key=lambda r: r["samples"])
        counts = [row["samples"] for row in rows]
        runtime, *_, last = name.split(", ")
        color = _RUNTIMES[runtime]
        axes.loglog(
            counts,
            [r["p50_ms"] for r in rows],
            color=color,
            marker=_MARKERS.get(last, "o"),
            linestyle=":" if "step graph" in name else "-",
            label=name,
        )
        axes.fill_between(
            counts,
            [r["p50_ms"] for r in rows],
            [r["p99_ms"] for r in rows],
            color=color,
            alpha=0.15,
            linewidth=0,
        )
    ticks = sorted({row["samples"] for row in single["rows"]})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    _plain_numbers(axes)
    axes.set_xlabel("samples of the present")
    axes.set_ylabel("one step (ms): p50, shaded to p99")
    figure.legend(frameon=False, loc="outside right")
    return _save(figure, path)


def _plain_numbers(axes: Any) -> None:
    """Label the time axis 1, 2, 5, 10, ... instead of by powers."""
    from matplotlib.ticker import LogLocator, ScalarFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(ScalarFormatter())


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path
