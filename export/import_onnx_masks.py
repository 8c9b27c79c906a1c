# SPDX-License-Identifier: Apache-2.0
"""The mask patterns that come with a foreign mask predictor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jepa_edge.errors import InputError
from jepa_edge.export.import_onnx_spec import ImportSpec


def read_masks(path: Path) -> dict[str, NDArray[np.int64]]:
    """Read `visible` (K, V) and `hidden` (K, M) int64. Raises InputError on anything else."""
    try:
        arrays = load_file(path)
        masks = {name: arrays[name] for name in ("visible", "hidden")}
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(
            f"{path} holds no masks ({error}); expected safetensors with visible (K, V) and hidden "
            "(K, M), int64"
        ) from error
    visible, hidden = masks["visible"], masks["hidden"]
    if any(a.dtype != np.int64 or a.ndim != 2 or not a.size for a in (visible, hidden)) or len(
        visible
    ) != len(hidden):
        raise InputError(
            f"{path}: visible is {visible.dtype} {visible.shape} and hidden {hidden.dtype} "
            f"{hidden.shape}, expected int64 (K, V) and (K, M), as many rows in both"
        )
    return masks


def mask_tokens(masks: Mapping[str, NDArray[np.int64]], spec: ImportSpec) -> int:
    """Number of tokens of a masked encoder: what the spec says, else one more than any index.

    Raises InputError when an index is negative or beyond it.
    """
    highest = max(int(masks[name].max()) for name in masks)
    tokens = spec.latent.get("tokens", highest + 1)
    if not isinstance(tokens, int) or min(int(m.min()) for m in masks.values()) < 0:
        raise InputError("masks hold negative token indices, or tokens is no number")
    if highest >= tokens:
        raise InputError(
            f"the masks name token {highest}, the spec says {tokens} tokens; they are counted from "
            "0: pass the masks that belong to this encoder"
        )
    return tokens
