# SPDX-License-Identifier: Apache-2.0
"""The export report as a page: sizes, latencies, what each layer costs, drift along a rollout."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from jepa_edge.export.options import ExportReport, VariantReport
from jepa_edge.report import Section, Table, write_page

_COLORS = {
    "fp32": "#5b6b7b",
    "fp16": "#d98324",
    "int8": "#0b6e99",
    "int8w": "#3f8f5b",
    "int4w": "#8c5aa8",
    "int8_fp16": "#1f9bcf",
    "fp8": "#b5651d",
    "int4": "#a0306e",
    "nvfp4": "#6b8e23",
}
_KEPT_FLOAT_COLOR = "#c0392b"


def write_export_page(report: ExportReport, path: Path) -> None:
    """Write reports/export.html."""
    names = ", ".join(variant.precision for variant in report.variants)
    write_page(
        path,
        f"Export of {Path(report.bundle).name}",
        f"{report.family}, {names}, {report.seconds:.0f} s",
        [
            _summary(report),
            *([_engine(report)] if report.engine else []),
            _speed(report),
            *([_drift(report)] if any(v.rollout_error for v in report.variants) else []),
            *(_layers(variant) for variant in report.variants if variant.quantization),
            _data(report),
        ],
    )


def _summary(report: ExportReport) -> Section:
    intro = (
        f"Every variant against the float32 torch model, on {report.data.held_out_windows} "
        f"{_judged_on(report)}. SQNR and cosine are "
        f"centered. The budget was a latent error of {report.max_latent_error:g}, an error along a "
        f"rollout of {report.max_rollout_error:.3g} and a rank correlation of planner costs of "
        f"{report.min_rank_correlation:.3g}."
    )
    graphs = Table(
        header=(
            *("graph", "SQNR dB", "cosine", "MB", "of fp32"),
            *("ms, batch 1", "of fp32", "ms, batch 64", "of fp32"),
        ),
        rows=[
            (
                f"{variant.precision} {graph.part}",
                f"{graph.sqnr_db:.1f}",
                f"{graph.centered_cosine:.5f}",
                f"{graph.size_bytes / 1e6:.2f}",
                f"{graph.size_ratio:.2f}",
                _number(graph.latency_ms, 2),
                _number(graph.latency_ratio, 2),
                _number(graph.latency_batch64_ms, 2),
                _number(graph.latency_batch64_ratio, 2),
            )
            for variant in report.variants
            for graph in variant.graphs
        ],
    )
    ranks = Table(
        header=(
            *("variant", "layers", "largest rollout error", "rank correlation", "worst start"),
            "how it ran",
        ),
        rows=[
            (
                variant.precision,
                ", ".join(f"{count} {kind}" for kind, count in variant.realized.items()),
                _number(max(variant.rollout_error, default=None), 4),
                _number(variant.cost_rank_correlation, 4),
                _number(variant.cost_rank_correlation_worst, 4),
                "simulated, see the notes" if variant.simulated else "as it is",
            )
            for variant in report.variants
        ],
        caption="Do planners still prefer the same actions? Spearman correlation of their costs.",
    )
    told = []
    if report.newest_tubelet_error is not None:
        told.append(
            "Encoding only the newest tubelet, instead of the clip again, would change its tokens "
            f"by {report.newest_tubelet_error:.1%} of their root mean square (layer-normed)."
        )
    return Section(
        title="Variants",
        paragraphs=[intro, *told, *(f"Note: {warning}." for warning in report.warnings)],
        tables=(graphs, ranks),
    )


def _judged_on(report: ExportReport) -> str:
    if not report.data.recording:
        return "windows of drawn pictures, since no recording was given"
    return "recorded windows of episodes that its quantization never saw"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _engine(report: ExportReport) -> Section:
    rows = [
        (
            parity.precision,
            f"{parity.sqnr_db:.1f}",
            f"{parity.centered_cosine:.5f}",
            " ".join(f"{error:.4f}" for error in parity.rollout_error),
            f"{parity.cost_rank_correlation:.4f}",
            f"{parity.cost_rank_correlation_worst:.4f}",
            "yes" if parity.fits else "no",
        )
        for parity in report.engine
    ]
    intro = (
        "The C++ core that plans computes the predictor itself, from predictor.safetensors. "
        "Same windows and same budget as above; latents are torch's."
    )
    return Section(
        title="Rollout engine",
        paragraphs=[intro],
        tables=(
            Table(
                header=(
                    *("precision", "SQNR dB", "cosine", "rollout error, steps 1 to 5"),
                    *("rank correlation", "worst start", "offered"),
                ),
                rows=rows,
            ),
        ),
    )


def _speed(report: ExportReport) -> Section:
    figures = []
    for title, unit, field, scale in (
        ("File size", "MB", "size_bytes", 1e-6),
        ("Latency at batch 1, one thread", "ms", "latency_ms", 1.0),
        ("Latency at batch 64, one thread", "ms", "latency_batch64_ms", 1.0),
    ):
        figure = _figure(title, unit)
        for variant in report.variants:
            if variant.simulated and field != "size_bytes":
                continue
            graphs = [graph for graph in variant.graphs if getattr(graph, field) is not None]
            values = [scale * getattr(graph, field) for graph in graphs]
            figure.add_bar(
                x=[graph.part for graph in graphs],
                y=values,
                name=variant.precision,
                marker_color=_COLORS[variant.precision],
                text=[f"{number:.3g}" for number in values],
            )
        figures.append(figure)
    return Section(
        title="Size and speed",
        paragraphs=["Medians on the exporting machine; the variants took turns."],
        figures=figures,
    )


def _drift(report: ExportReport) -> Section:
    figure = _figure("Error along a rollout", "error / spread of the latents")
    for variant in report.variants:
        errors = variant.rollout_error
        figure.add_scatter(
            x=list(range(1, len(errors) + 1)),
            y=list(errors),
            name=variant.precision,
            mode="lines+markers",
            line_color=_COLORS[variant.precision],
        )
    figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    figure.update_xaxes(title="model steps ahead", dtick=1)
    told = (
        "Each variant encodes the frames itself and feeds its predictions back, as a planner "
        "does; the error is the distance to torch's rollout."
    )
    return Section(title="Drift", paragraphs=[told], figures=[figure])


def _layers(variant: VariantReport) -> Section:
    paragraphs, figures = [], []
    for part, found in variant.quantization.items():
        told = ", ".join(f"{who} {ratio:.1f} dB" for who, ratio in found.candidates_db.items())
        kept = ", ".join(found.kept_float) or "none"
        paragraphs.append(
            f"{part}: quantized by {found.quantizer} (every layer quantized: {told}); kept in "
            f"float: {kept}; error {found.error:.3f}, {found.all_quantized_error:.3f} with every "
            "layer quantized."
        )
        title = f"{part}: SQNR with one layer at a time in {variant.precision}"
        figure = _figure(title, "dB")
        figure.add_bar(
            x=[layer.layer for layer in found.layers],
            y=[layer.sqnr_db for layer in found.layers],
            marker_color=[
                _KEPT_FLOAT_COLOR if layer.kept_float else _COLORS[variant.precision]
                for layer in found.layers
            ],
        )
        figures.append(figure)
    paragraphs.append("Low bars are the sensitive layers; red ones were kept in float.")
    return Section(title=f"Layers of {variant.precision}", paragraphs=paragraphs, figures=figures)


def _data(report: ExportReport) -> Section:
    data = report.data
    if not data.recording:
        return Section(title="Data", paragraphs=[f"{data.held_out_windows} drawn windows."])
    told = (
        f"{data.recording}: {data.calibration_windows} windows of "
        f"{len(data.calibration_episodes)} episodes set the activation ranges, "
        f"{data.tuning_windows} of {len(data.tuning_episodes)} chose quantizer and layers, "
        f"{data.held_out_windows} of {len(data.held_out_episodes)} others judged. "
        f"sha256 of the calibration windows: {data.sha256}."
    )
    return Section(title="Data", paragraphs=[told])


def _figure(title: str, unit: str) -> Any:
    go = importlib.import_module("plotly.graph_objects")
    figure = go.Figure()
    figure.update_layout(
        title=title,
        template="plotly_white",
        height=340,
        margin={"l": 60, "r": 20, "t": 50, "b": 40},
        barmode="group",
    )
    figure.update_yaxes(title=unit)
    return figure
