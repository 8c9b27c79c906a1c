# SPDX-License-Identifier: Apache-2.0
"""What a model family gives the exporter: how to know its checkpoints, load them, and its graphs.

A family is a name and three functions' worth of knowledge. Nothing of it is left at run time: the
graphs have the same inputs and outputs in every family, and the manifest says the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_edge.errors import InputError
from jepa_edge.manifest import ActionSpec, LatentSpec, NoiseSpec, ObservationSpec, StateSpec
from jepa_edge.progress import Progress, silent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GraphModule:
    """A torch module that becomes one ONNX file; it is also the reference that the file is held to.

    example: inputs by name, in the order of `forward`, batch first (of 2) where they have a batch.
    output: name of the one output. unbatched: inputs without a batch axis (token indices), whose
    first axis is dynamic under their own name. windowed: inputs whose axis 1 is a window of any
    length from the manifest's min_history to its history. float_layers: names of layers that int8
    leaves in float: those that read numbers of very different size, which one scale would blur.

    The run time knows three graphs by name:

    encoder         frames uint8 (B, H, W, 3) or clips (B, F, H, W, 3); states float32 (B, S) raw
                    where the manifest has a state; visible int64 (V,) where it has masks
                    -> latents float32 (B, N, D), or (B, V, D) of the visible tokens
    predictor       history float32 (B, T, N, D), actions float32 (B, T, A) raw; z float32 (B, Z)
                    where the model has its own latent variable -> prediction float32 (B, N, D)
    mask_predictor  context float32 (B, V, D), visible int64 (V,), hidden int64 (M,)
                    -> predicted float32 (B, M, D)

    Scaling to [0, 1], mean and std of the pixels, and of actions and states, are inside.
    """

    module: nn.Module
    example: dict[str, Tensor]
    output: str
    unbatched: tuple[str, ...] = ()
    windowed: tuple[str, ...] = ()
    float_layers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """K patterns of hidden tokens; see `jepa_edge.manifest.MaskSpec`.

    visible: (K, V), hidden: (K, M), token indices, ascending in each row; none is in both.
    Raises InputError when they are not.
    """

    visible: NDArray[np.int64]
    hidden: NDArray[np.int64]
    target_norm: bool
    distance: Literal["l1", "l2", "smooth_l1"]

    def __post_init__(self) -> None:
        check_patterns(self.visible, self.hidden)


def check_patterns(visible: NDArray[np.int64], hidden: NDArray[np.int64]) -> None:
    """Raise InputError unless visible (K, V) and hidden (K, M) are patterns as `Masks` has them."""
    for name, rows in (("visible", visible), ("hidden", hidden)):
        if rows.ndim != 2 or not rows.size or rows.dtype != np.int64 or rows.min() < 0:
            raise InputError(
                f"masks.{name} is {rows.dtype} {rows.shape}, expected int64 (patterns, tokens) of "
                "token indices from 0; correct the patterns"
            )
        falling = np.flatnonzero((np.diff(rows) <= 0).any(axis=1))
        if len(falling):
            raise InputError(
                f"masks.{name}[{falling[0]}] is {rows[falling[0]].tolist()[:8]} ..., expected "
                "token indices that ascend, each once; sort them"
            )
    if len(visible) != len(hidden):
        raise InputError(
            f"masks have {len(visible)} visible and {len(hidden)} hidden patterns, expected as "
            "many; give each pattern both"
        )
    for index, (seen, asked) in enumerate(zip(visible, hidden, strict=True)):
        both = np.intersect1d(seen, asked)
        if len(both):
            raise InputError(
                f"masks: pattern {index} has token {both[0]} visible and hidden, expected one of "
                "them; take it out of one"
            )


class Reference(Protocol):
    """What torch gives for the run-time's inputs. Shapes as of `GraphModule`, in numpy."""

    @property
    def z_dim(self) -> int:
        """Size of the model's own latent variable, 0 without one."""

    def encode(
        self,
        frames: NDArray[np.uint8],
        states: NDArray[np.float32] | None = None,
        visible: NDArray[np.int64] | None = None,
        progress: Progress = silent,
    ) -> NDArray[np.float32]:
        """Encode frames (B, *frame shape) into latents (B, N, D), or (B, V, D) of some tokens."""

    def predict(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Predict (B, N, D) from history (B, T, N, D) and actions (B, T, A) in raw units, z = 0."""

    def rollout(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Roll out (B, H, N, D) from history (B, T, N, D) and actions (B, T - 1 + H, A)."""

    def predict_masked(
        self,
        context: NDArray[np.float32],
        visible: NDArray[np.int64],
        hidden: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Predict hidden tokens (B, M, D) from visible ones (B, V, D)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A checkpoint in memory: what the manifest will say, and the torch modules of its graphs.

    graphs: by name, those that the model has. assumed: dotted names, such as "action.mean", of
    what neither the checkpoint nor the --spec file said, so that a default stands in. notes:
    sentences for the report's warnings. also_read: weights files beside the checkpoint's own, for
    the provenance.

    Only where a family can do better than its graphs as they are: reference: torch's answers from
    the module before it was rewritten. prepare: is given calibration frames (B, H, W, 3) before the
    export, and may shift constants between layers. write_engine: stores the predictor for the C++
    core. write_gpu_engine: stores it for the GPU core, where that alone can run it; it holds the
    weights, so let go of it with the graphs. newest_tubelet_error: relative RMS error of encoding
    the newest tubelet alone, of clips (B, F, H, W, 3) uint8.
    """

    family: str
    observation: ObservationSpec
    action: ActionSpec | None
    state: StateSpec | None = None
    latent: LatentSpec
    history: int = 1
    min_history: int | None = None
    noise: NoiseSpec | msgspec.UnsetType = msgspec.UNSET
    masks: Masks | None = None
    graphs: dict[str, GraphModule]
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    also_read: tuple[Path, ...] = ()
    reference: Reference | None = None
    prepare: Callable[[NDArray[np.uint8]], None] | None = None
    write_engine: Callable[[Path], None] | None = None
    write_gpu_engine: Callable[[Path], None] | None = None
    newest_tubelet_error: Callable[[NDArray[np.uint8]], float] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint's files as a family meets them.

    path: as the user gave it. weights: the file that the tensors came from. sha256: of that file,
    or of its shards' digests, for the bundle's provenance. tensors: by name, nested dicts joined by
    "."; read them, do not write into them: they may be mapped from the file. config: config.json
    beside the weights as decoded, {} without one. spec: the user's --spec file, {} without one; its
    sections "model", "observation", "action", "state" override what the checkpoint says.
    """

    path: Path
    weights: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    spec: Mapping[str, dict[str, Any]]


class Family(Protocol):
    """One model family. name: as in the manifest, and in `--family`."""

    name: str

    def matches(self, names: Collection[str], config: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is this family's, by its tensors' names and its config.json."""

    def load(self, checkpoint: Checkpoint) -> LoadedModel:
        """Build the model. Raises CheckpointError: what came, what was expected, how to fix it."""
