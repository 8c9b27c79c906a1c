# SPDX-License-Identifier: Apache-2.0
"""Masked-region energy: hide part of what is seen, predict it from the rest, and compare.

Source: Assran et al. 2023 (I-JEPA, https://arxiv.org/abs/2301.08243) and Bardes et al. 2024
(V-JEPA, https://arxiv.org/abs/2404.08471), whose training loss it is; Garrido et al. 2025
(https://arxiv.org/abs/2502.11831) read it as surprise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jepa_edge.backends import Graph
from jepa_edge.errors import BundleError
from jepa_edge.manifest import LatentSpec, MaskSpec

_NORM_EPS = 1e-5  # torch's layer norm, as the targets were trained


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedEnergy:
    """K patterns of a mask predictor. visible: (K, V), hidden: (K, M), int64 token indices.

    channels: of a token, the first so many are compared.
    """

    spec: MaskSpec
    channels: int
    visible: NDArray[np.int64]
    hidden: NDArray[np.int64]
    graph: Graph

    @classmethod
    def load(cls, path: Path, spec: MaskSpec, latent: LatentSpec, graph: Graph) -> MaskedEnergy:
        """Read the patterns. Raises BundleError when they do not fit the latent."""
        visible, hidden = read_patterns(path, latent.tokens)
        return cls(
            spec=spec, channels=latent.compared[1], visible=visible, hidden=hidden, graph=graph
        )

    def __call__(
        self,
        latents: NDArray[np.float32],
        encode_visible: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Energy of each token of latents (B, N, D): (B, N) float32, NaN where none hides it.

        encode_visible: the encoding (B, V, D) of some tokens alone. A token that several patterns
        hide has its mean energy.
        """
        energy = np.zeros(latents.shape[:2])
        times = np.zeros(latents.shape[1])
        for visible, hidden in zip(self.visible, self.hidden, strict=True):
            predicted = self.predict(encode_visible(visible), visible, hidden)
            energy[:, hidden] += self._distance(predicted, latents[:, hidden])
            times[hidden] += 1
        with np.errstate(invalid="ignore"):
            return (energy / times).astype(np.float32)

    def predict(
        self,
        context: NDArray[np.float32],
        visible: NDArray[np.int64],
        hidden: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Predict hidden tokens (B, M, D) from the visible ones (B, V, D)."""
        return self.graph({"context": context, "visible": visible, "hidden": hidden})

    def predict_first(self, context: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict what the first pattern hides."""
        return self.predict(context, self.visible[0], self.hidden[0])

    def _distance(
        self, predicted: NDArray[np.float32], target: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        wanted = target[..., : self.channels].astype(np.float64)
        if self.spec.target_norm:
            wanted -= wanted.mean(axis=-1, keepdims=True)
            wanted /= np.sqrt(np.mean(wanted**2, axis=-1, keepdims=True) + _NORM_EPS)
        apart = np.abs(predicted[..., : self.channels] - wanted)
        if self.spec.distance == "l2":
            apart = apart**2
        elif self.spec.distance == "smooth_l1":
            apart = np.where(apart < 1.0, 0.5 * apart**2, apart - 0.5)
        return np.asarray(apart.mean(axis=-1), np.float64)


def read_patterns(path: Path, tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what K patterns leave visible (K, V) and hide (K, M), indices below `tokens`.

    Raises BundleError when the file holds anything else.
    """
    try:
        arrays = load_file(path)
        visible, hidden = arrays["visible"], arrays["hidden"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{path} holds no mask patterns ({error}); export again") from error
    for name, rows in (("visible", visible), ("hidden", hidden)):
        inside = rows.ndim == 2 and rows.size and rows.dtype == np.int64
        if not inside or rows.min() < 0 or rows.max() >= tokens:
            raise BundleError(
                f"{path}: {name} is {rows.dtype} {rows.shape}, expected int64 rows of token "
                f"indices below {tokens}; export again"
            )
    if len(visible) != len(hidden):
        raise BundleError(
            f"{path}: {len(visible)} visible and {len(hidden)} hidden patterns, expected as "
            "many; export again"
        )
    return visible, hidden
