# SPDX-License-Identifier: Apache-2.0
"""The demo's own figures, in plotly."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from jepa_edge.flags import Level
from showcase import FAULTS, Showcase

LEVEL_COLORS = {
    Level.UNKNOWN: "#9aa5b1",
    Level.NOMINAL: "#3f9c5f",
    Level.CAUTION: "#e0a526",
    Level.REJECT: "#c8403a",
}
_FRAME_STEP = 15
_WORKSPACE = 512.0


def png(picture: NDArray[np.uint8], scale: int = 1) -> bytes:
    """Encode an RGB picture (H, W, 3) as PNG, pixels repeated `scale` times."""
    big = np.repeat(np.repeat(picture, scale, axis=0), scale, axis=1)
    return bytes(cv2.imencode(".png", big[..., ::-1])[1])


def data_uri(picture: NDArray[np.uint8], scale: int = 1) -> str:
    """A picture as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png(picture, scale)).decode()


def timeline(showcase: Showcase) -> go.Figure:
    """Frames, published level and score against thresholds on one time line."""
    flags = [update.flag for update in showcase.updates]
    time_s = np.array([flag.stamp_s for flag in flags])
    period_s = 1.0 / showcase.rate_hz
    figure = make_subplots(
        rows=3,
        cols=1,
        shared_xaxes=True,
        row_heights=[0.24, 0.08, 0.68],
        vertical_spacing=0.035,
    )
    width_s = 0.92 * _FRAME_STEP * period_s
    for index in range(0, len(flags), _FRAME_STEP):
        figure.add_layout_image(
            source=data_uri(showcase.frames[index]),
            x=time_s[index],
            y=0.5,
            sizex=width_s,
            sizey=1.0,
            xanchor="left",
            yanchor="middle",
            xref="x",
            yref="y",
        )
    for level in Level:
        chosen = [flag.level is level for flag in flags]
        figure.add_trace(
            go.Bar(
                x=time_s[chosen],
                y=np.ones(sum(chosen)),
                width=period_s,
                marker={"color": LEVEL_COLORS[level], "line": {"width": 0}},
                name=level.name,
                hovertemplate="%{x:.1f} s<extra>" + level.name + "</extra>",
            ),
            row=2,
            col=1,
        )
    score = np.array([flag.score for flag in flags])
    reasons = [", ".join(flag.reasons) or "none" for flag in flags]
    figure.add_trace(
        go.Scatter(
            x=time_s,
            y=score,
            mode="lines",
            line={"color": "#10222f", "width": 1.6},
            name="score",
            text=reasons,
            hovertemplate="%{x:.1f} s: score %{y:.2f}<br>reasons: %{text}<extra></extra>",
        ),
        row=3,
        col=1,
    )
    for value, level, place in (
        (flags[0].caution_threshold, Level.CAUTION, "bottom left"),
        (flags[0].reject_threshold, Level.REJECT, "top left"),
    ):
        figure.add_hline(
            y=value,
            line={"color": LEVEL_COLORS[level], "dash": "dash", "width": 1.5},
            annotation_text=f"{level.name} {value:.2f}",
            annotation_position=place,
            row=3,
            col=1,
        )
    for fault, start, stop in FAULTS:
        figure.add_vrect(
            x0=start * period_s,
            x1=stop * period_s,
            fillcolor="#0b6e99",
            opacity=0.10,
            line_width=0,
            row=3,
            col=1,
        )
        figure.add_annotation(
            x=0.5 * (start + stop) * period_s,
            y=1.0,
            xref="x3",
            yref="y3 domain",
            text=f"<b>{fault}</b>",
            showarrow=False,
            yanchor="top",
        )
    low = float(np.nanmin(np.where(np.isfinite(score), score, np.nan)))
    high = float(np.nanmax(np.where(np.isfinite(score), score, np.nan)))
    if low > 0.0 and high > 8.0 * flags[0].caution_threshold:
        figure.update_yaxes(type="log", row=3, col=1)
    figure.update_yaxes(visible=False, range=[0, 1], row=1, col=1, fixedrange=True)
    figure.update_yaxes(visible=False, range=[0, 1], row=2, col=1, fixedrange=True)
    figure.update_yaxes(title="standardized score", row=3, col=1)
    figure.update_xaxes(title="time, s", row=3, col=1, range=[-0.2, time_s[-1] + width_s])
    figure.update_layout(
        template="plotly_white",
        barmode="overlay",
        bargap=0,
        height=560,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        legend={"orientation": "h", "y": -0.14},
    )
    return figure


def futures_map(
    frame: NDArray[np.uint8],
    futures: NDArray[np.float32],
    truth: NDArray[np.float32],
    title: str,
) -> go.Figure:
    """Sampled futures of agent and block, read out of the latents, over the frame they start from.

    futures: (S, H + 1, 4), truth: (H + 1, 4): agent x, y, block x, y in simulator pixels.
    """
    figure = go.Figure()
    _background(figure, frame)
    for offset, name, color in ((0, "agent", "#0b6e99"), (2, "block", "#8a5aa8")):
        x, y = (
            np.concatenate([futures[..., offset + axis], np.full((len(futures), 1), np.nan)], 1)
            for axis in (0, 1)
        )
        figure.add_trace(
            go.Scatter(
                x=x.ravel(),
                y=y.ravel(),
                mode="lines",
                line={"color": color, "width": 1},
                opacity=0.35,
                name=f"{name}, {len(futures)} futures",
                connectgaps=False,
            )
        )
        figure.add_trace(
            go.Scatter(
                x=truth[:, offset],
                y=truth[:, offset + 1],
                mode="lines+markers",
                line={"color": color, "width": 3},
                marker={"size": 6},
                name=f"{name}, what happened",
            )
        )
    return _square(figure, title)


def landscape(
    frame: NDArray[np.uint8],
    axis: NDArray[np.float32],
    energy: NDArray[np.float32],
    marks: Sequence[tuple[str, float, float, str]],
    title: str,
) -> go.Figure:
    """Goal energy of holding one target position, over the workspace.

    axis: (K,) target coordinates, pixels. energy: (K, K), rows are y. marks: name, x, y, color.
    """
    figure = go.Figure()
    figure.add_trace(
        go.Contour(
            x=axis,
            y=axis,
            z=energy,
            colorscale="Viridis",
            contours={"coloring": "heatmap"},
            line={"width": 0.5, "color": "rgba(255,255,255,0.5)"},
            colorbar={"title": "goal energy"},
            ncontours=24,
        )
    )
    for name, x, y, color in marks:
        figure.add_trace(
            go.Scatter(
                x=[x],
                y=[y],
                mode="markers+text",
                marker={"size": 13, "color": color, "line": {"color": "white", "width": 2}},
                text=[name],
                textposition="top center",
                textfont={"color": "white"},
                showlegend=False,
            )
        )
    return _square(figure, title)


def bars(
    names: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], y: str, log: bool = False
) -> go.Figure:
    """Grouped bars, one group per name."""
    figure = go.Figure(
        [go.Bar(name=label, x=list(names), y=list(values)) for label, values in series]
    )
    figure.update_layout(
        template="plotly_white",
        height=330,
        margin={"l": 60, "r": 20, "t": 20, "b": 40},
        yaxis={"title": y, "type": "log" if log else "linear"},
        legend={"orientation": "h", "y": -0.15},
    )
    return figure


def strip(pictures: Sequence[NDArray[np.uint8]], scale: int = 2) -> NDArray[np.uint8]:
    """Put pictures of one height side by side with white gaps."""
    big = [np.repeat(np.repeat(p, scale, axis=0), scale, axis=1) for p in pictures]
    gap = np.full((big[0].shape[0], 8, 3), 255, np.uint8)
    parts: list[NDArray[np.uint8]] = []
    for picture in big:
        parts += [picture, gap]
    return np.concatenate(parts[:-1], axis=1)


def _background(figure: go.Figure, frame: NDArray[np.uint8]) -> None:
    figure.add_layout_image(
        source=data_uri(frame, 4),
        x=0,
        y=0,
        sizex=_WORKSPACE,
        sizey=_WORKSPACE,
        xref="x",
        yref="y",
        xanchor="left",
        yanchor="top",
        sizing="stretch",
        opacity=0.55,
        layer="below",
    )


def _square(figure: go.Figure, title: str) -> Any:
    figure.update_xaxes(range=[0, _WORKSPACE], constrain="domain", title="x, px", showgrid=False)
    # The simulator's y axis points down, as in the frames.
    figure.update_yaxes(
        range=[_WORKSPACE, 0], scaleanchor="x", constrain="domain", title="y, px", showgrid=False
    )
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "font": {"size": 14}},
        width=720,
        height=600,
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
    )
    return figure
