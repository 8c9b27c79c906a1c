# SPDX-License-Identifier: Apache-2.0
"""The modules that are exported, run by torch: what everything else is compared with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_edge.export.families.base import GraphModule, LoadedModel
from jepa_edge.progress import Progress, silent
from jepa_edge.rollout import roll

_BATCH = 16
_BIG_LATENT = 1 << 14
"""Numbers in a latent from which frames are encoded one by one, to hold little memory."""


class TorchReference:
    """The very modules that are exported, run by torch. Not for models with a z of their own."""

    z_dim = 0

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def encode(
        self,
        frames: NDArray[np.uint8],
        states: NDArray[np.float32] | None = None,
        visible: NDArray[np.int64] | None = None,
        progress: Progress = silent,
    ) -> NDArray[np.float32]:
        """See `jepa_edge.export.families.base.Reference`."""
        graph, latent = self._model.graphs["encoder"], self._model.latent
        batch = 1 if latent.size >= _BIG_LATENT else _BATCH
        parts = []
        for start in range(0, len(frames), batch):
            progress("encoding frames with torch", start, len(frames))
            rows = slice(start, start + batch)
            feeds: dict[str, NDArray[np.generic]] = {"frames": frames[rows]}
            if states is not None:
                feeds["states"] = states[rows]
            if "visible" in graph.example:
                feeds["visible"] = np.arange(latent.tokens) if visible is None else visible
            parts.append(_run(graph, feeds))
        progress("encoding frames with torch", len(frames), len(frames))
        return np.concatenate(parts)

    def predict(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See `jepa_edge.export.families.base.Reference`."""
        graph = self._model.graphs["predictor"]
        batch = 1 if self._model.latent.size >= _BIG_LATENT else len(history)
        return np.concatenate(
            [
                _run(graph, {"history": history[i : i + batch], "actions": actions[i : i + batch]})
                for i in range(0, len(history), batch)
            ]
        )

    def rollout(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See `jepa_edge.export.families.base.Reference`."""
        return roll(self.predict, history, actions, self._model.history)

    def predict_masked(
        self,
        context: NDArray[np.float32],
        visible: NDArray[np.int64],
        hidden: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """See `jepa_edge.export.families.base.Reference`."""
        graph = self._model.graphs["mask_predictor"]
        feeds = {"visible": visible, "hidden": hidden}
        return np.concatenate([_run(graph, {"context": row[None], **feeds}) for row in context])


def _run(graph: GraphModule, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    tensors = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in graph.example]
    with torch.inference_mode():
        out: Tensor = graph.module(*tensors)
    return out.numpy()
