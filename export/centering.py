# SPDX-License-Identifier: Apache-2.0
"""Take the constant part out of what the encoder's linear layers read, without changing it.

Tokens share a large mean that symmetric INT8 spends its range on. Subtracting any constant c from
a layer's input and adding W c to its bias leaves the output as it was, and costs nothing where the
producer has a bias of its own to absorb c: layer norms, and the values of attention, whose weights
sum to one. With c the mean over calibration frames, a PushT encoder's INT8 noise falls by 6 dB.
Source: Wei et al. 2023, "Outlier Suppression+" (https://arxiv.org/abs/2304.09145), channel shift.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_edge.export.graphs import EncoderBlock, EncoderGraph

_BATCH = 16


def center_encoder(graph: EncoderGraph, frames: NDArray[np.uint8]) -> None:
    """Center the inputs of all linear layers behind a norm or an attention, in place.

    frames: (B, H, W, 3) uint8, the calibration frames; they only set the constants.
    """
    blocks = [block for block in graph.blocks if isinstance(block, EncoderBlock)]
    readers: dict[nn.Module, list[nn.Linear]] = {graph.norm: [graph.head.fc1]}
    for block in blocks:
        readers[block.norm1] = [p for p in (block.qkv, block.q, block.kv) if p is not None]
        readers[block.norm2] = [block.fc1]
    outputs = {block.out: block for block in blocks}
    means = _channel_means(graph, frames, readers, outputs)
    for norm, linears in readers.items():
        assert isinstance(norm, nn.LayerNorm)
        norm.bias = _shifted(norm.bias, -means[norm])
        for linear in linears:
            linear.bias = _shifted(linear.bias, linear.weight.detach() @ means[norm])
    for out, block in outputs.items():
        values = block.qkv if block.qkv is not None else block.kv
        assert values is not None
        shift = torch.zeros_like(values.bias)
        shift[-len(means[out]) :] = -means[out]  # values come last
        values.bias = _shifted(values.bias, shift)
        out.bias = _shifted(out.bias, out.weight.detach() @ means[out])


def _channel_means(
    graph: EncoderGraph,
    frames: NDArray[np.uint8],
    norms: Iterable[nn.Module],
    linears: Iterable[nn.Module],
) -> dict[nn.Module, Tensor]:
    """Mean over frames and tokens of the outputs of norms and of the inputs of linears."""
    sums: dict[nn.Module, Tensor] = {}
    counts: dict[nn.Module, int] = {}

    def add(module: nn.Module, values: Tensor) -> None:
        rows = values.detach().flatten(0, -2).double()
        sums[module] = sums.get(module, torch.zeros(rows.shape[1]).double()) + rows.sum(dim=0)
        counts[module] = counts.get(module, 0) + len(rows)

    def add_output(module: nn.Module, inputs: Any, output: Tensor) -> None:
        add(module, output)

    def add_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        add(module, inputs[0])

    with ExitStack() as stack, torch.no_grad():
        for norm in norms:
            stack.enter_context(norm.register_forward_hook(add_output))
        for linear in linears:
            stack.enter_context(linear.register_forward_pre_hook(add_input))
        for start in range(0, len(frames), _BATCH):
            graph(torch.from_numpy(frames[start : start + _BATCH]))
    return {module: (total / counts[module]).float() for module, total in sums.items()}


def _shifted(bias: Tensor, shift: Tensor) -> nn.Parameter:
    return nn.Parameter(bias.detach() + shift, requires_grad=False)
