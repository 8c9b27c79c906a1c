# SPDX-License-Identifier: Apache-2.0
"""The export report as a page: sizes, latencies, what each layer costs, drift along a rollout."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from jepa_edge.export.options import ExportReport, VariantReport
from jepa_edge.report import Section, Table, write_page

_COLORS = {"fp32": "#5b6b7b", "fp16": "#d98324", "int8": "#0b6e99"}
_PARTS = ("encoder", "predictor")


def write_export_page(report: ExportReport, path: Path) -> None:
    """Write reports/export.html."""
    sections = [
        _summary(report),
        _speed(report),
        _drift(report),
        *(_layers(name, v) for name, v in report.variants.items() if v.quantization),
        _data(report),
    ]
    write_page(
        path,
        f"Export of {Path(report.bundle).name}",
        f"{report.family}, {', '.join(report.variants)}, {report.seconds:.0f} s",
        sections,
    )


def _summary(report: ExportReport) -> Section:
    rows = []
    for name, variant in report.variants.items():
        for part in _PARTS:
            graph = getattr(variant.parity, part)
            rows.append(
                (
                    f"{name} {part}",
                    f"{graph.sqnr_db:.1f}",
                    f"{graph.centered_cosine:.5f}",
                    f"{graph.size_bytes / 1e6:.2f}",
                    f"{graph.size_ratio:.2f}",
                    *(
                        text
                        for batch, ms in graph.latency_ms.items()
                        for text in (f"{ms:.2f}", f"{graph.latency_ratio[batch]:.2f}")
                    ),
                )
            )
    batches = next(iter(report.variants.values())).parity.encoder.latency_ms
    intro = (
        f"Every variant against the float32 torch model, on {report.data.held_out_windows} "
        "recorded windows of episodes that its quantization never saw. SQNR and cosine are "
        f"centered. The budget was a latent error of {report.max_latent_error:g}."
    )
    paragraphs = [intro, *(f"Note: {warning}." for warning in report.warnings)]
    header = ("graph", "SQNR dB", "cosine", "MB", "of fp32")
    for batch in batches:
        header += (f"ms, batch {batch}", "of fp32")  # type: ignore[assignment]
    ranks = Table(
        header=("variant", "layers", "rank correlation", "worst start"),
        rows=[
            (
                name,
                ", ".join(f"{count} {kind}" for kind, count in v.realized.items()),
                f"{v.parity.cost_rank_correlation:.4f}",
                f"{v.parity.cost_rank_correlation_worst:.4f}",
            )
            for name, v in report.variants.items()
        ],
        caption="Do planners still prefer the same actions? Spearman correlation of costs.",
    )
    return Section(
        title="Variants", paragraphs=paragraphs, tables=(Table(header=header, rows=rows), ranks)
    )


def _speed(report: ExportReport) -> Section:
    figures = []
    for title, unit, value in (
        ("File size", "MB", lambda graph: graph.size_bytes / 1e6),
        ("Latency at batch 1, one thread", "ms", lambda graph: graph.latency_ms[1]),
        ("Latency at batch 64, one thread", "ms", lambda graph: graph.latency_ms[64]),
    ):
        figure = _figure(title, unit)
        for name, variant in report.variants.items():
            values = [value(getattr(variant.parity, part)) for part in _PARTS]
            figure.add_bar(
                x=list(_PARTS),
                y=values,
                name=name,
                marker_color=_COLORS[name],
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
    for name, variant in report.variants.items():
        errors = variant.parity.rollout_error
        figure.add_scatter(
            x=list(range(1, len(errors) + 1)),
            y=list(errors),
            name=name,
            mode="lines+markers",
            line_color=_COLORS[name],
        )
    figure.update_yaxes(type="log")
    figure.update_xaxes(title="model steps ahead", dtick=1)
    told = (
        "Each variant encodes the frames itself and feeds its predictions back, as a planner "
        "does; the error is the distance to torch's rollout."
    )
    return Section(title="Drift", paragraphs=[told], figures=[figure])


def _layers(name: str, variant: VariantReport) -> Section:
    paragraphs, figures = [], []
    for part, found in variant.quantization.items():
        told = ", ".join(f"{who} {ratio:.1f} dB" for who, ratio in found.candidates_db.items())
        kept = ", ".join(found.kept_float) or "none"
        paragraphs.append(
            f"{part}: quantized by {found.quantizer} (every layer in int8: {told}); kept in float: "
            f"{kept}; error {found.error:.3f}, {found.all_int8_error:.3f} with every layer in int8."
        )
        figure = _figure(f"{part}: SQNR with one layer at a time in {name}", "dB")
        figure.add_bar(
            x=[layer.layer for layer in found.layers],
            y=[layer.sqnr_db for layer in found.layers],
            marker_color=["#c0392b" if layer.kept_float else "#0b6e99" for layer in found.layers],
        )
        figures.append(figure)
    paragraphs.append("Low bars are the sensitive layers; red ones were kept in float.")
    return Section(title=f"Layers of {name}", paragraphs=paragraphs, figures=figures)


def _data(report: ExportReport) -> Section:
    data = report.data
    told = (
        f"{data.recording}: {data.calibration_windows} windows set the activation ranges, "
        f"{data.tuning_windows} chose the layers ({len(data.calibration_episodes)} episodes), "
        f"{data.held_out_windows} of {len(data.held_out_episodes)} other episodes judged. "
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
