# SPDX-License-Identifier: Apache-2.0
"""Trains a small torch network with early stopping on held-out episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_edge.errors import CalibrationError
from jepa_edge.mlp import MLP
from jepa_edge.progress import Progress

_STEPS_PER_EPOCH = 40
_PATIENCE = 5
_TOLERANCE = 1e-4
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8
_MAX_NORM = 5.0


def train(
    net: nn.Module,
    loss: Callable[[Tensor], Tensor],
    episode: NDArray[np.int64],
    *,
    learning_rate: float,
    epochs: int,
    seed: int,
    stage: str,
    progress: Progress,
) -> float:
    """Fit a network in place and return its loss on the held-out fifth of the episodes.

    loss: maps row numbers to the mean loss of those rows. episode: (M,), owner of each row. The
    weights with the lowest held-out loss are kept; training ends when it stops falling.
    Raises CalibrationError when the loss is never finite.
    """
    held_out = held_out_rows(episode, seed)
    rows = torch.from_numpy(np.flatnonzero(~held_out))
    held = torch.from_numpy(np.flatnonzero(held_out))
    generator = torch.Generator().manual_seed(seed)
    adam = _Adam(list(net.parameters()), learning_rate)
    size = max(32, len(rows) // _STEPS_PER_EPOCH)
    best, best_state, waited = float("inf"), net.state_dict(), 0
    with _one_thread():
        for epoch in range(epochs):
            order = rows[torch.randperm(len(rows), generator=generator)]
            for batch in torch.split(order, size):
                net.zero_grad()
                loss(batch).backward()  # type: ignore[no-untyped-call]
                adam.step()
            with torch.no_grad():
                reached = loss(held).item()
            waited = 0 if reached < best - _TOLERANCE else waited + 1
            if reached < best:
                best = reached
                best_state = {name: value.clone() for name, value in net.state_dict().items()}
            progress(stage, epoch + 1, epochs)
            if waited >= _PATIENCE:
                break
    if not np.isfinite(best):
        raise CalibrationError(
            f"{stage}: the loss is not finite; the latents may be constant or far too large, "
            "check the exported encoder on these recordings"
        )
    net.load_state_dict(best_state)
    progress(stage, epochs, epochs)
    return best


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers with ReLU, freshly drawn."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


def to_mlp(net: nn.Sequential, center: NDArray[np.floating], scale: NDArray[np.floating]) -> MLP:
    """Copy a network of linear layers out of torch, behind its standardization of the inputs."""
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    return MLP(
        center=center.astype(np.float32),
        scale=scale.astype(np.float32),
        weights=tuple(to_array(layer.weight.T) for layer in layers),
        biases=tuple(to_array(layer.bias) for layer in layers),
    )


def to_array(tensor: Tensor) -> NDArray[np.float32]:
    """Copy a parameter out of torch."""
    return np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)


def held_out_rows(episode: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Mark the rows of a fifth of the episodes, at least one."""
    names = np.unique(episode)
    chosen = np.random.default_rng(seed).permutation(names)[: max(1, len(names) // 5)]
    return np.isin(episode, chosen)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: on layers this small, threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Adam:
    """Adam with clipped gradients. torch.optim would import a compiler first, for 5 seconds.

    Source: Kingma & Ba 2015.
    """

    def __init__(self, parameters: list[nn.Parameter], learning_rate: float) -> None:
        self._parameters = parameters
        self._rate = learning_rate
        self._first = [torch.zeros_like(p) for p in parameters]
        self._second = [torch.zeros_like(p) for p in parameters]
        self._steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter by one step along its gradient."""
        self._steps += 1
        nn.utils.clip_grad_norm_(self._parameters, _MAX_NORM)
        unbias = [1.0 - beta**self._steps for beta in _BETAS]
        for p, first, second in zip(self._parameters, self._first, self._second, strict=True):
            assert p.grad is not None
            first.lerp_(p.grad, 1.0 - _BETAS[0])
            second.lerp_(p.grad.square(), 1.0 - _BETAS[1])
            scaled = (first / unbias[0]) / ((second / unbias[1]).sqrt() + _EPSILON)
            p.sub_(self._rate * scaled)
