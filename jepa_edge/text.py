# SPDX-License-Identifier: Apache-2.0
"""Open-vocabulary labels: a latent's place in a space of text embeddings, against a fixed bank.

Source: VL-JEPA, https://arxiv.org/abs/2512.10942.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jepa_edge.backends import Graph
from jepa_edge.errors import BundleError, InputError
from jepa_edge.world_model import WorldModel

INPUT, OUTPUT = "latents", "embedding"
BANK = "embeddings"

_UNIT = 1e-3
"""How far from 1 the length of a text embedding in a bundle may be."""


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """One text and how well it fits. similarity: cosine. probability: among all of the bank."""

    text: str
    probability: float
    similarity: float


class TextLabeler:
    """Labels latents with the texts of a bundle. Not thread-safe."""

    def __init__(
        self,
        graph: Graph,
        bank: NDArray[np.float32],
        texts: Sequence[str],
        temperature: float,
        shape: tuple[int, int],
    ) -> None:
        """graph: latents (B, N, D) -> embedding (B, E). bank: (L, E) of unit length, one per text.

        shape: (N, D) of a latent. Raises BundleError when the bank does not fit the texts, is empty
        or not finite.
        """
        fits = bank.ndim == 2 and len(bank) == len(texts) > 0
        if not fits or not (np.abs(_length(bank) - 1.0) <= _UNIT).all():  # NaN: within no bound
            raise BundleError(
                f"the text bank is {bank.shape} for {len(texts)} labels, expected one embedding of "
                "unit length for each, and one or more; attach it again with `jepa-edge labels`"
            )
        self._graph, self._bank, self._temperature = graph, bank, temperature
        self.texts = tuple(texts)
        self._shape = shape

    @classmethod
    def load(cls, model: WorldModel) -> TextLabeler:
        """Load a bundle's text head. Raises BundleError when it has none, or it does not fit."""
        spec, path = model.manifest.text, model.bundle.path
        if spec is None:
            raise BundleError(
                f"{path} has no text head; attach one with `jepa-edge labels {path} --head "
                "HEAD.onnx --bank BANK.safetensors --out NAME.jepa`"
            )
        try:
            bank = load_file(model.bundle.file(spec.bank))[BANK]
        except (SafetensorError, KeyError) as error:
            raise BundleError(
                f"{path / spec.bank} is no text bank ({error}); attach it again"
            ) from error
        latent = model.manifest.latent
        if bank.dtype != np.float32 or bank.shape[1:] != (spec.dim,):
            raise BundleError(
                f"{path / spec.bank} is {bank.dtype} {bank.shape}, expected float32 "
                f"({len(spec.labels)}, {spec.dim}); attach it again"
            )
        return cls(
            model.load_graph(spec.file, {INPUT}),
            bank,
            spec.labels,
            spec.temperature,
            (latent.tokens, latent.dim),
        )

    def embed(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a latent's text embedding, (E,) of unit length.

        NaN where the head gives zeros, or numbers that are not finite: they point nowhere. latent:
        (N, D). Raises InputError on any other shape.
        """
        if latent.shape != self._shape:
            raise InputError(f"the latent has shape {latent.shape}, expected {self._shape}")
        embedding = self._graph({INPUT: np.ascontiguousarray(latent[None], np.float32)})[0]
        length = float(_length(embedding))
        if not 0.0 < length < np.inf:
            return np.full_like(embedding, np.nan)
        return np.asarray(embedding / length, np.float32)

    def labels(self, latent: NDArray[np.float32], top: int = 3) -> list[Label]:
        """Return the texts that fit a latent (N, D) best, the best first.

        Empty where the head gives zeros, or numbers that are not finite.
        """
        return self.nearest(self.embed(latent), top)

    def nearest(self, embedding: NDArray[np.float32], top: int = 3) -> list[Label]:
        """Return the texts next to an embedding (E,) of unit length, the best first.

        Empty for zeros and NaN: without a direction every text would be as likely as any.
        """
        if not np.isfinite(embedding).all() or not embedding.any():
            return []
        similarity = self._bank @ embedding
        logits = (similarity - similarity.max()).astype(np.float64) / self._temperature
        weights = np.exp(logits)
        probability = weights / weights.sum()
        return [
            Label(
                text=self.texts[index],
                probability=float(probability[index]),
                similarity=float(similarity[index]),
            )
            for index in np.argsort(-similarity, kind="stable")[:top]
        ]


def _length(embedding: NDArray[np.float32]) -> NDArray[np.float64]:
    """Norms over the last axis, in float64: the squares of float32 numbers may overflow."""
    return np.asarray(np.linalg.norm(embedding.astype(np.float64), axis=-1))
