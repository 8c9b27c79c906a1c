# SPDX-License-Identifier: Apache-2.0
"""Which layers pay for fewer bits, and the fewest to keep in float so that a budget is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import ExportError
from jepa_edge.export.gates import min_cosine
from jepa_edge.export.onnx_graph import (
    GraphIndex,
    keep_float,
    layer_names,
    rows_of,
    run_model,
    weighted_nodes,
)
from jepa_edge.metrics import centered_cosine, sqnr_db
from jepa_edge.progress import Progress, silent

Feeds = Mapping[str, NDArray[np.generic]]
Run = Callable[[Any, Feeds, int], NDArray[np.float32]]
"""Runs a graph on inputs with so many threads, as `run_model` does."""

_MARGIN = 0.85
"""The search aims at this part of the budget, so that frames it has not seen meet all of it."""

_SENSITIVITY_SAMPLES = 16


class LayerSensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """The error when this layer alone is quantized: relative to the latents' spread, and in dB.

    weights: how many numbers the layer's weight holds.
    """

    layer: str
    weights: int
    error: float
    sqnr_db: float
    kept_float: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """A graph within the budget, on the tuning data. layers: in the order in which they run.

    error: of that graph. all_quantized_error: with no layer in float that could be quantized.
    """

    model: Any
    layers: tuple[LayerSensitivity, ...]
    error: float
    all_quantized_error: float


def latent_error(reference: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    """Relative RMS error, centered: sqrt(mean squared error / variance of the reference over B).

    0.1 is an SQNR of 20 dB. The mean over B is no signal: a model that ignored its input would
    otherwise look accurate.
    """
    return float(10.0 ** (-sqnr_db(reference, actual) / 20.0))


def within(reference: NDArray[np.float32], actual: NDArray[np.float32], max_error: float) -> bool:
    """Whether latents meet a budget, in error and in centered cosine."""
    return latent_error(reference, actual) <= max_error and centered_cosine(
        reference, actual
    ) >= min_cosine(max_error)


def measure_layers(
    quantized: Any,
    reference: Any,
    feeds: Feeds,
    expected: NDArray[np.float32],
    *,
    threads: int = 1,
    stage: str = "layer sensitivity",
    run: Run = run_model,
    progress: Progress = silent,
) -> tuple[LayerSensitivity, ...]:
    """Quantize one layer at a time, leave all others in float, and measure the output's error.

    quantized, reference: the same graph fully quantized and in float. expected: the float32
    output for feeds. Noise of independent layers adds up in power, so these errors rank the layers
    by what each contributes. Layers that are in float in both are left out.
    """
    count = min(len(expected), _SENSITIVITY_SAMPLES)
    feeds = rows_of(feeds, slice(count))
    layers = quantized_layers(quantized, reference)
    sizes = _weight_counts(reference)
    measured = []
    for done, layer in enumerate(layers):
        progress(stage, done, len(layers))
        single = keep_float(quantized, reference, [name for name in layers if name != layer])
        actual = run(single, feeds, threads)
        measured.append(
            LayerSensitivity(
                layer=layer,
                weights=sizes[layer],
                error=latent_error(expected[:count], actual),
                sqnr_db=min(sqnr_db(expected[:count], actual), 200.0),
            )
        )
    progress(stage, len(layers), len(layers))
    return tuple(measured)


def quantized_layers(quantized: Any, reference: Any) -> tuple[str, ...]:
    """Return the weighted nodes of reference whose operands another graph has quantized."""
    index = GraphIndex(quantized)
    changed = {
        node.name
        for node in quantized.graph.node
        if index.restoring(node.input[1] if len(node.input) > 1 else "") is not None
    }
    return tuple(name for name in layer_names(reference) if name in changed)


def _weight_counts(model: Any) -> dict[str, int]:
    index = GraphIndex(model)
    counts = {}
    for node in weighted_nodes(model):
        weight = index.constant(node.input[1])
        assert weight is not None
        counts[node.name] = int(weight.size)
    return counts


def keep_sensitive_layers(
    quantized: Any,
    reference: Any,
    feeds: Feeds,
    expected: NDArray[np.float32],
    max_error: float,
    *,
    threads: int = 1,
    stage: str = "layer",
    precision: str = "int8",
    run: Run = run_model,
    progress: Progress = silent,
) -> SearchResult:
    """Keep layers in float, those that mend most noise per weight first, until in budget.

    max_error: of `latent_error` on frames that this search does not see; it aims lower itself.
    The number of float layers is bisected: every step runs the whole graph on feeds.
    precision: of the quantized layers, for messages. run: runs a graph.
    Raises ExportError when the budget is not met with a single layer quantized.
    """
    layers = measure_layers(
        quantized,
        reference,
        feeds,
        expected,
        threads=threads,
        stage=f"{stage} sensitivity",
        run=run,
        progress=progress,
    )
    ranked = sorted(layers, key=lambda layer: -(layer.error**2) / layer.weights)
    target = _MARGIN * max_error
    errors: dict[int, float] = {}

    def attempt(kept: int) -> tuple[Any, bool]:
        names = {layer.layer for layer in ranked[:kept]}
        model = keep_float(quantized, reference, names)
        actual = run(model, feeds, threads)
        errors[kept] = latent_error(expected, actual)
        return model, within(expected, actual, target)

    best, fits = attempt(0)
    kept, low, high = 0, 0, len(ranked) - 1
    if not fits:
        kept = high
        best, fits = attempt(high)
        if not fits:
            raise ExportError(
                f"the latent error budget {max_error:g} cannot be met in {precision}: with every "
                f"layer quantized the error is {errors[0]:.3g}, with {ranked[-1].layer} alone "
                f"quantized still {errors[high]:.3g} (the search aims at {target:.3g}, to leave a "
                "margin for new frames); raise --max-latent-error or leave "
                f"{precision} out of --precision"
            )
        while high - low > 1:
            middle = (low + high) // 2
            progress(f"{stage} search", len(errors), len(ranked).bit_length() + 2)
            model, fits = attempt(middle)
            if fits:
                best, kept, high = model, middle, middle
            else:
                low = middle
        progress(f"{stage} search", 1, 1)
    floats = {layer.layer for layer in ranked[:kept]}
    return SearchResult(
        model=best,
        layers=tuple(
            msgspec.structs.replace(layer, kept_float=layer.layer in floats) for layer in layers
        ),
        error=errors[kept],
        all_quantized_error=errors[0],
    )
