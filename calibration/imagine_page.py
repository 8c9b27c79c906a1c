# SPDX-License-Identifier: Apache-2.0
"""Imagined futures and energy landscapes as a page, with drawings that need no script."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import printable
from jepa_edge.imagine_report import EllipseReport, ImagineReport, LandscapeReport, SequenceReport
from jepa_edge.report import Section, Table, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = ("#0b6e99", "#d1762b", "#3f8f5b", "#8a5aa8", "#b0413e", "#5b6b7b", "#b08d00", "#2f2f2f")
_MARKERS = "osD^vP*X"
_INK, _CLOUD = "#1b2733", "#b3bfc8"
_WIDTH = 7.6  # inches
_LEAST_PIXELS = 192
_LABELLED = 5
"""Steps of a path that carry a number, so that long ones stay readable."""

Pictures = list[tuple[str, NDArray[np.uint8]]]


def write_imagine_page(
    path: Path, report: ImagineReport, cloud: NDArray[np.float32], pictures: Pictures
) -> None:
    """Write the page of several futures.

    cloud: (M, 2), recorded latents on the map. pictures: caption and frame (H, W, 3) uint8 RGB.
    """
    share = 100.0 * sum(report.explained)
    about = [
        (
            "Each path starts at the present frame and has one marker per step. The map is the "
            f"plane through the recorded latents that holds most of their variance, {share:.0f} %; "
            "gray dots are recorded latents. What differs off the plane is not seen here."
        ),
    ]
    if report.samples:
        about.append(
            f"An ellipse is the 2-sigma ellipse of {report.samples} sampled futures at that step: "
            f"it holds {100 * report.inside:.0f} % of them if they scatter normally."
        )
    drawings = [("Imagined futures on the map of latents.", _map(report, cloud))]
    if any(sequence.energies for sequence in report.sequences):
        drawings.append(
            ("Energy to the goal after each step; lower is nearer.", _curves(report, "energies"))
        )
    if any(sequence.spread for sequence in report.sequences):
        drawings.append(
            ("Error to expect after each step, per latent number.", _curves(report, "spread"))
        )
    write_page(
        path,
        f"Imagined with {Path(report.bundle).name}",
        f"variant {report.variant}; from {report.source}"
        + (f"; goal {report.goal_source}" if report.goal_source else ""),
        [
            Section(
                title="Futures",
                paragraphs=[*about, *(f"Note: {note}." for note in report.notes)],
                drawings=drawings,
                tables=[_table(report)],
            ),
            Section(title="Frames", pictures=_png(pictures)),
        ],
    )


def write_landscape_page(path: Path, report: LandscapeReport, pictures: Pictures) -> None:
    """Write the page of an energy landscape."""
    best = ", ".join(
        f"{name} {value:+.3g}" for name, value in zip(report.axes, report.best, strict=True)
    )
    unit = f" ({report.units})" if report.units else ""
    write_page(
        path,
        f"Energy landscape of {Path(report.bundle).name}",
        f"variant {report.variant}; from {report.source}; goal {report.goal_source}",
        [
            Section(
                title="Energy after one step, over a grid of actions",
                paragraphs=[
                    (
                        "Three numbers of the action are varied, the others are 0. The energy is "
                        "the distance between the latent predicted after this action and the "
                        f"goal's, as the planner counts it. Lowest: {report.best_energy:.4g} at "
                        f"{best}{unit}, marked with a cross."
                    )
                ],
                drawings=[
                    (f"Energy, one panel per value of {report.axes[2]}.", _slices(report)),
                    (
                        "Mean energy over the axis that is not drawn, as in V-JEPA 2's paper.",
                        _means(report),
                    ),
                ],
                tables=[_lowest(report)],
            ),
            Section(title="Frames", pictures=_png(pictures)),
        ],
    )


def _map(report: ImagineReport, cloud: NDArray[np.float32]) -> bytes:
    from matplotlib.patches import Ellipse

    figure, (axes,) = _figure(1, 5.6)
    axes.scatter(cloud[:, 0], cloud[:, 1], s=5, color=_CLOUD, linewidths=0, label="recorded")
    for index, sequence in enumerate(report.sequences):
        style = _style(index)
        points = np.array(sequence.points)
        for step, one in enumerate(sequence.ellipses, start=1):
            if not _finite(one):
                continue
            last = step == len(sequence.ellipses)
            axes.add_patch(
                Ellipse(
                    one.center,
                    2 * one.half_axes[0],
                    2 * one.half_axes[1],
                    angle=np.degrees(one.angle),
                    facecolor=(style["color"], 0.07 if last else 0.0),
                    edgecolor=(style["color"], 0.9 if last else 0.3),
                    linewidth=1.0 if last else 0.6,
                    linestyle=style["linestyle"],
                )
            )
        label = _text(_label(report, sequence))
        axes.plot(points[:, 0], points[:, 1], label=label, zorder=3, **style)
        for step in _numbered(len(points) - 1):
            if not np.isfinite(points[step]).all():
                continue
            axes.annotate(
                str(step),
                points[step],
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=6.5,
                color=style["color"],
                zorder=4,
            )
    axes.plot(*report.start, marker="o", markersize=11, color=_INK, ls="", label="now", zorder=5)
    if report.goal:
        axes.plot(
            *report.goal,
            marker="*",
            markersize=17,
            markerfacecolor="#f5c518",
            markeredgecolor=_INK,
            ls="",
            label="goal",
            zorder=6,
        )
    first, second = (100.0 * share for share in report.explained)
    axes.set_xlabel(f"first axis, {first:.0f} % of the recorded variance")
    axes.set_ylabel(f"second axis, {second:.0f} %")
    _look_at(axes, report)
    figure.legend(frameon=False, fontsize=7.5, loc="outside right upper")
    return _svg(figure)


def _look_at(axes: Axes, report: ImagineReport) -> None:
    """Show the paths and the goal large: the cloud may reach far beyond them."""
    points = np.array([p for s in report.sequences for p in s.points])
    points = points[np.isfinite(points).all(axis=1)]  # a path may diverge after the present
    low, high = points.min(axis=0), points.max(axis=0)
    for one in (e for s in report.sequences for e in s.ellipses if _finite(e)):
        center, reach = np.array(one.center), one.half_axes[0]
        low, high = np.minimum(low, center - reach), np.maximum(high, center + reach)
    if report.goal:
        low, high = np.minimum(low, report.goal), np.maximum(high, report.goal)
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2 * 1.12, 1e-6)
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_aspect("equal")


def _curves(report: ImagineReport, field: str) -> bytes:
    figure, (axes,) = _figure(1, 2.6)
    for index, sequence in enumerate(report.sequences):
        values = getattr(sequence, field)
        steps = range(1, len(values) + 1)
        axes.plot(steps, values, label=_text(sequence.name), **_style(index))
    longest = max(len(getattr(sequence, field)) for sequence in report.sequences)
    axes.set_xticks(range(1, longest + 1, max(1, longest // 10)))
    axes.set_xlabel("steps ahead")
    axes.set_ylabel("energy to the goal" if field == "energies" else "spread")
    figure.legend(frameon=False, fontsize=7.5, loc="outside right upper")
    return _svg(figure)


def _table(report: ImagineReport) -> Table:
    header = ["sequence", "steps", "moved on the map"]
    goal = bool(report.goal)
    if goal:
        header.append("energy at the end")
    if report.samples:
        header.append("spread at the end")
    rows = []
    order = list(report.sequences)
    if goal:
        order.sort(key=lambda s: s.energies[-1] if math.isfinite(s.energies[-1]) else math.inf)
    for sequence in order:
        moved = np.linalg.norm(np.subtract(sequence.points[-1], sequence.points[0]))
        row = [sequence.name, str(len(sequence.actions)), f"{moved:.3g}"]
        if goal:
            row.append(f"{sequence.energies[-1]:.4g}")
        if report.samples:
            row.append(f"{sequence.spread[-1]:.3g}")
        rows.append(row)
    caption = "Nearest to the goal first." if goal else ""
    return Table(header=header, rows=rows, caption=caption)


def _slices(report: LandscapeReport) -> bytes:
    energies, values = _energies(report), np.array(report.values)
    per_row = min(3, len(values))
    lines = -(-len(values) // per_row)
    figure, panels = _figure(per_row, 2.3 * lines + 0.2, lines=lines)
    low, high = float(energies.min()), float(energies.max())
    lowest = np.unravel_index(int(np.argmin(energies)), energies.shape)
    image = None
    for index, axes in enumerate(panels):
        if index >= len(values):
            axes.set_visible(False)
            continue
        image = _heat(axes, energies[:, :, index], values, low, high)
        if index == lowest[2]:
            _cross(axes, values[lowest[0]], values[lowest[1]])
        axes.set_title(f"{_text(report.axes[2])} {values[index]:+.3g}", fontsize=8.5)
        axes.set_xlabel(_axis(report, 0))
        if index % per_row == 0:
            axes.set_ylabel(_axis(report, 1))
    _bar(figure, image, panels)
    return _svg(figure)


def _means(report: LandscapeReport) -> bytes:
    energies, values = _energies(report), np.array(report.values)
    figure, panels = _figure(3, 2.5)
    pairs = ((0, 1), (0, 2), (1, 2))
    means = [energies.mean(axis=3 - first - second) for first, second in pairs]
    low, high = min(float(m.min()) for m in means), max(float(m.max()) for m in means)
    image = None
    for axes, mean, (first, second) in zip(panels, means, pairs, strict=True):
        image = _heat(axes, mean, values, low, high)
        i, j = np.unravel_index(int(np.argmin(mean)), mean.shape)
        _cross(axes, values[i], values[j])
        axes.set_xlabel(_axis(report, first))
        axes.set_ylabel(_axis(report, second))
    _bar(figure, image, panels)
    return _svg(figure)


def _energies(report: LandscapeReport) -> np.ma.MaskedArray[Any, np.dtype[np.float64]]:
    """Energies (s, s, s); those of predictions that diverged are masked, and stay blank."""
    return np.ma.masked_invalid(np.array(report.energies, np.float64))


def _heat(
    axes: Axes, plane: NDArray[np.float64], values: NDArray[np.float64], low: float, high: float
) -> Any:
    """plane[i, j]: i along x, j along y."""
    half = (values[1] - values[0]) / 2
    reach = (values[0] - half, values[-1] + half)
    image = axes.imshow(
        plane.T, origin="lower", extent=(*reach, *reach), cmap="viridis", vmin=low, vmax=high
    )
    axes.spines[["top", "right"]].set_visible(True)
    axes.set_xticks([values[0], 0.0, values[-1]])
    axes.set_yticks([values[0], 0.0, values[-1]])
    axes.tick_params(labelsize=7)
    return image


def _cross(axes: Axes, x: float, y: float) -> None:
    for color, width in (("#ffffff", 3.4), ("#c0182b", 1.8)):
        axes.plot(
            [x],
            [y],
            marker="X",
            markersize=9,
            color="#c0182b",
            markeredgecolor=color,
            markeredgewidth=width / 3.4,
            ls="",
        )


def _bar(figure: Figure, image: Any, panels: list[Axes]) -> None:
    if image is not None:
        bar = figure.colorbar(image, ax=panels, fraction=0.04, pad=0.02)
        bar.ax.tick_params(labelsize=7)
        bar.ax.ticklabel_format(useOffset=False)


def _axis(report: LandscapeReport, index: int) -> str:
    # A list of units is for all numbers of the action, too long for a label.
    single = report.units and "," not in report.units
    return _text(report.axes[index] + (f", {report.units}" if single else ""))


def _lowest(report: LandscapeReport) -> Table:
    energies, values = np.array(report.energies), np.array(report.values)
    rows = []
    for flat in np.argsort(energies, axis=None)[:5]:
        at = np.unravel_index(int(flat), energies.shape)
        rows.append([*(f"{values[i]:+.4g}" for i in at), f"{energies[at]:.5g}"])
    return Table(header=[*report.axes, "energy"], rows=rows, caption="The five lowest.")


def _style(index: int) -> dict[str, Any]:
    return {
        "color": _COLORS[index % len(_COLORS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": ("-", "--", ":", "-.")[index // len(_COLORS) % 4],
        "linewidth": 1.4,
        "markersize": 4.5,
    }


def _label(report: ImagineReport, sequence: SequenceReport) -> str:
    if not sequence.energies:
        return sequence.name
    mark = ", nearest" if sequence.name == report.best else ""
    return f"{sequence.name} (energy {sequence.energies[-1]:.3g}{mark})"


def _text(foreign: str) -> str:
    """A name from a bundle or a file as it stands: matplotlib reads formulas between dollars."""
    return printable(foreign).replace("$", r"\$")


def _finite(one: EllipseReport) -> bool:
    return all(map(math.isfinite, (*one.center, *one.half_axes, one.angle)))


def _numbered(steps: int) -> list[int]:
    return sorted({int(step) for step in np.linspace(1, steps, min(steps, _LABELLED)).round()})


def _figure(panels: int, height: float, lines: int = 1) -> tuple[Figure, list[Axes]]:
    """As wide as the page, so that letters keep their size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = list(figure.subplots(lines, panels, squeeze=False).ravel())
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
        figure.savefig(out, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _png(pictures: Pictures) -> list[tuple[str, bytes]]:
    from matplotlib.image import imsave

    stored = []
    for caption, frame in pictures:
        out = io.BytesIO()
        scale = max(1, -(-_LEAST_PIXELS // frame.shape[0]))
        imsave(out, frame.repeat(scale, axis=0).repeat(scale, axis=1), format="png")
        stored.append((caption, out.getvalue()))
    return stored
