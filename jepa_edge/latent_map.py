# SPDX-License-Identifier: Apache-2.0
"""A plane through the latents of recorded runs, to look at futures on: PCA of the token mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from jepa_edge.bundle import Bundle
from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.manifest import LatentSpec
from jepa_edge.pooling import token_means

_CLOUD = 2000


def map_name(variant: str) -> str:
    """Return the path, inside the bundle, of a variant's map."""
    return f"calibration/{variant}.map.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentMap:
    """Where a latent lies on the map; D numbers are those that energies compare.

    mean: (D,) float32. components: (2, D) float32, orthonormal; the larger variance first, and the
    entry of largest size positive. explained: (2,) float32, share of the recorded variance on each.
    cloud: (M, 2) float32, recorded latents on the map.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    explained: NDArray[np.float32]
    cloud: NDArray[np.float32]

    def project(self, latents: NDArray[np.float32], spec: LatentSpec) -> NDArray[np.float32]:
        """Put latents (..., N, D) on the map: (..., 2) float32. spec: the manifest's latent."""
        centered = token_means(latents, spec.compared, np.float64) - self.mean
        return np.asarray(centered @ self.components.T.astype(np.float64), np.float32)

    @classmethod
    def fit(cls, latents: Sequence[NDArray[np.float32]], spec: LatentSpec) -> LatentMap:
        """Fit on episodes of latents, (T, N, D) each.

        Raises InputError when there are fewer than 3, or they are all the same.
        Source: Jolliffe 2002, principal component analysis by the singular value decomposition.
        """
        compared = spec.compared
        means = np.concatenate([token_means(one, compared, np.float64) for one in latents])
        center = means.mean(axis=0)
        _, sizes, rows = np.linalg.svd(means - center, full_matrices=False)
        total = float(np.sum(sizes**2))
        if len(means) < 3 or min(means.shape) < 2 or not np.isfinite(total) or total <= 0.0:
            raise InputError(
                f"a map needs 3 or more recorded latents of 2 or more numbers that are finite and "
                f"not all the same, got {means.shape}; record runs in which something moves"
            )
        axes = rows[:2]
        largest = np.argmax(np.abs(axes), axis=1)
        axes = axes * np.sign(axes[np.arange(2), largest])[:, None]
        shown = np.linspace(0, len(means) - 1, min(len(means), _CLOUD)).astype(int)
        return cls(
            mean=center.astype(np.float32),
            components=axes.astype(np.float32),
            explained=(sizes[:2] ** 2 / total).astype(np.float32),
            cloud=((means[shown] - center) @ axes.T).astype(np.float32),
        )

    def to_bytes(self) -> bytes:
        """Store as safetensors."""
        return bytes(
            save({name: np.ascontiguousarray(getattr(self, name)) for name in self.__slots__})
        )

    @classmethod
    def read(cls, bundle: Bundle, variant: str) -> LatentMap | None:
        """Read a variant's map; None in a bundle that was calibrated before there were maps.

        Raises CalibrationError when it does not fit the bundle's latents.
        """
        name = map_name(variant)
        if name not in bundle.manifest.files:
            return None
        dim = bundle.manifest.latent.compared[1]
        shapes = {"mean": (dim,), "components": (2, dim), "explained": (2,)}
        try:
            found = cls(**load_file(bundle.file(name)))
        except (SafetensorError, TypeError) as error:
            raise CalibrationError(
                f"{bundle.path / name} is no map ({error}); run `jepa-edge calibrate` again"
            ) from error
        fits = found.cloud.ndim == 2 and found.cloud.shape[1] == 2
        for part, shape in shapes.items():
            fits = fits and getattr(found, part).shape == shape
        arrays = (found.mean, found.components, found.explained, found.cloud)
        if not fits or any(a.dtype != np.float32 or not np.isfinite(a).all() for a in arrays):
            raise CalibrationError(
                f"{bundle.path / name} does not fit latents of {dim} numbers; "
                "run `jepa-edge calibrate` again"
            )
        return found
