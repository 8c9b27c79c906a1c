# SPDX-License-Identifier: Apache-2.0
"""LeWorldModel in float32 torch, behind the run-time's interface: frames and raw actions in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_edge.export.families.lewm import LeWM
from jepa_edge.manifest import ActionSpec, ObservationSpec
from jepa_edge.progress import Progress, silent

_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LeWMReference:
    """The checkpoint's module behind the run-time's interface, not the graphs rewritten from it."""

    model: LeWM
    observation: ObservationSpec
    action: ActionSpec

    @property
    def z_dim(self) -> int:
        """Size of the model's own latent variable."""
        return self.model.config.z_dim

    def encode(
        self,
        frames: NDArray[np.uint8],
        states: NDArray[np.float32] | None = None,
        visible: NDArray[np.int64] | None = None,
        progress: Progress = silent,
    ) -> NDArray[np.float32]:
        """Encode frames (B, H, W, 3) uint8 into latents (B, 1, D)."""
        mean, std = (torch.tensor(v) for v in (self.observation.mean, self.observation.std))
        parts = []
        with torch.inference_mode():
            for start in range(0, len(frames), _BATCH):
                progress("encoding frames with torch", start, len(frames))
                batch = torch.from_numpy(frames[start : start + _BATCH])
                pixels = (batch.to(torch.float32) / 255.0 - mean) / std
                parts.append(self.model.encode(pixels.permute(0, 3, 1, 2)).numpy())
        progress("encoding frames with torch", len(frames), len(frames))
        return np.concatenate(parts)[:, None]

    def predict(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Predict (B, 1, D) from history (B, T, 1, D) and actions (B, T, A) in raw units."""
        return self.rollout(history, actions)[:, 0]

    def rollout(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Roll out (B, H, 1, D) from history (B, T, 1, D) and actions (B, T - 1 + H, A)."""
        mean, std = (
            torch.tensor(v, dtype=torch.float32) for v in (self.action.mean, self.action.std)
        )
        with torch.inference_mode():
            scored = (torch.from_numpy(actions) - mean) / std
            out = self.model.rollout(torch.from_numpy(history).squeeze(2), scored)
        return out.unsqueeze(2).numpy()

    def predict_masked(
        self,
        context: NDArray[np.float32],
        visible: NDArray[np.int64],
        hidden: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """No LeWorldModel has masks. Raises NotImplementedError."""
        raise NotImplementedError("LeWorldModel has no mask predictor")
