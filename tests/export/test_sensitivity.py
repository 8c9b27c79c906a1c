# SPDX-License-Identifier: Apache-2.0
"""The search for layers to keep in float, on a graph whose sensitive layers are known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_edge.errors import ExportError
from jepa_edge.export.onnx_export import export_module
from jepa_edge.export.onnx_graph import keep_float, layer_names, run_model
from jepa_edge.export.quantize import Quantizer, quantize
from jepa_edge.export.sensitivity import keep_sensitive_layers, latent_error

OUTLIER = "layers.2"
WIDTH = 32


class OutlierNet(nn.Module):
    """Five residual layers; one of them reads a channel a thousand times the others' size.

    The channel's weight is small by as much, so that float does not mind and int8 does: the
    others' values fall between two steps.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(5))
        for layer in self.layers:
            layer.weight.data.normal_(0.0, 0.5 * WIDTH**-0.5, generator=generator)
            layer.bias.data.normal_(0.0, 0.1, generator=generator)
        self.gain = nn.Parameter(torch.ones(WIDTH))
        self.gain.data[7] = 1000.0
        self.layers[2].weight.data[:, 7] /= 1000.0

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = x + torch.tanh(layer(x * self.gain if index == 2 else x))
        return x


@pytest.fixture(scope="module")
def outlier_net() -> tuple[Any, Any, dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """The graph in float32 and in int8, inputs, and what float32 makes of them."""
    rng = np.random.default_rng(2)
    feeds = {"x": rng.normal(size=(64, WIDTH)).astype(np.float32)}
    reference = export_module(OutlierNet(), {"x": torch.zeros(2, WIDTH)}, "y")
    # Without SmoothQuant, which exists to mend exactly this.
    quantized = quantize(reference, feeds, Quantizer.ONNXRUNTIME)
    return reference, quantized, feeds, run_model(reference, feeds)


def test_the_outlier_layer_alone_is_kept_in_float(outlier_net: Any) -> None:
    reference, quantized, feeds, expected = outlier_net
    found = keep_sensitive_layers(quantized, reference, feeds, expected, 0.1)
    assert [layer.layer for layer in found.layers if layer.kept_float] == [OUTLIER]
    assert found.all_quantized_error > 0.1
    assert found.error < 0.1
    assert found.error == latent_error(expected, run_model(found.model, feeds))
    worst = max(found.layers, key=lambda layer: layer.error)
    assert worst.layer == OUTLIER
    assert worst.sqnr_db == pytest.approx(-20.0 * np.log10(worst.error))


def test_no_smaller_set_of_layers_would_do(outlier_net: Any) -> None:
    reference, quantized, feeds, expected = outlier_net
    layers = layer_names(reference)
    for budget in (0.03, 0.02, 0.015):
        found = keep_sensitive_layers(quantized, reference, feeds, expected, budget)
        kept = [layer.layer for layer in found.layers if layer.kept_float]
        assert found.error <= budget
        assert OUTLIER in kept
        for smaller in itertools.combinations(layers, len(kept) - 1):
            model = keep_float(quantized, reference, smaller)
            # The search aims at 85 % of the budget.
            assert latent_error(expected, run_model(model, feeds)) > 0.85 * budget, smaller


def test_a_loose_budget_keeps_every_layer_in_int8(outlier_net: Any) -> None:
    reference, quantized, feeds, expected = outlier_net
    error = latent_error(expected, run_model(quantized, feeds))
    found = keep_sensitive_layers(quantized, reference, feeds, expected, min(0.95, error / 0.8))
    assert not any(layer.kept_float for layer in found.layers)


def test_an_impossible_budget_is_refused_with_numbers(outlier_net: Any) -> None:
    reference, quantized, feeds, expected = outlier_net
    with pytest.raises(ExportError, match=r"1e-06 cannot be met in int8: .* error is \d.*--max"):
        keep_sensitive_layers(quantized, reference, feeds, expected, 1e-6)


def test_the_error_is_centered() -> None:
    reference = np.array([[9.0], [11.0]], np.float32)
    assert latent_error(reference, reference + 0.5) == pytest.approx(0.5)
    assert latent_error(reference, np.array([[10.0], [10.0]], np.float32)) == pytest.approx(1.0)
