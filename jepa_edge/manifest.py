# SPDX-License-Identifier: Apache-2.0
"""The manifest: what a bundle says about itself. docs/bundle.md describes every field."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from jepa_edge.errors import BundleError, InputError
from jepa_edge.json_text import json_bytes

SCHEMA_VERSION = 3
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
"""Signs the manifest; the one file beside it that it does not list."""
REFERENCE_VARIANT = "fp32"

STD_RANGE = (1e-12, 1e12)
"""What a standard deviation may be: float32 graphs divide by it."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)

Positive = Annotated[int, Meta(gt=0, le=1_000_000)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
# A variant names files; nothing that could lead out of the bundle.
VariantName = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,32}$")]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all manifest records: immutable, by keyword, unknown keys refused."""


def check_numbers(name: str, values: Sequence[float]) -> None:
    """Raise ValueError unless all are finite in float32, in which every graph computes."""
    # NaN compares as False.
    if not all(abs(value) <= _FLOAT32_MAX for value in values):
        raise ValueError(
            f"{name} is {tuple(values)}, expected finite numbers within float32; correct it"
        )


def check_std(name: str, values: Sequence[float]) -> None:
    """Raise ValueError unless all are positive and float32 can divide by them."""
    low, high = STD_RANGE
    if not all(low <= value <= high for value in values):
        raise ValueError(
            f"{name} is {tuple(values)}, expected positive numbers from {low:g} to {high:g}: they "
            "divide; give a constant channel 1"
        )


class ClipSpec(_Strict, frozen=True, kw_only=True):
    """What an encoder of video sees at once: `frames` pictures, `stride` camera frames apart.

    tubelet: pictures that share one layer of tokens; it divides frames. hop: camera frames from one
    model step to the next, a multiple of tubelet * stride, so that the tubelets of successive clips
    lie on one grid of time.
    """

    frames: Positive
    tubelet: Positive = 1
    stride: Positive = 1
    hop: Positive = 1

    def __post_init__(self) -> None:
        if self.frames % self.tubelet:
            raise ValueError(
                f"clip.frames {self.frames} is not a multiple of clip.tubelet {self.tubelet}"
            )
        if self.hop % (self.tubelet * self.stride):
            raise ValueError(
                f"clip.hop {self.hop} is not a multiple of clip.tubelet x clip.stride, "
                f"{self.tubelet * self.stride}"
            )

    @property
    def span(self) -> int:
        """Camera frames from the oldest picture of a clip to the newest, both counted."""
        return (self.frames - 1) * self.stride + 1


class FitSpec(_Strict, frozen=True, kw_only=True):
    """How the training data were made from camera pictures of any size.

    short_side: the picture is scaled until its shorter side has this many pixels, then the middle
    is cut out; None: the largest middle part of the model's aspect ratio is cut out, then scaled.
    stretch: the whole picture is scaled, whatever its aspect ratio. filter: antialiased, as Pillow.
    offset: of a middle that lies between two pixels: "round" is torchvision's, half to even;
    "floor" is transformers'.
    """

    short_side: Positive | None = None
    stretch: bool = False
    filter: Literal["bilinear", "bicubic"] = "bilinear"
    offset: Literal["round", "floor"] = "round"

    def __post_init__(self) -> None:
        if self.stretch and self.short_side is not None:
            raise ValueError("fit has stretch and short_side, expected one: a stretch has no sides")


class ObservationSpec(_Strict, frozen=True, kw_only=True):
    """What the camera must deliver: uint8 frames of shape (height, width, 3).

    mean, std: per channel, of pixels scaled to [0, 1]; they are applied inside the encoder graph.
    rate_hz: model steps per second that the model was trained at. clip: where the encoder takes
    several frames at once; the camera's rate is then rate_hz * clip.hop. fit: None where only
    pictures of the model's own size are known to be right.
    """

    height: Positive
    width: Positive
    color: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rate_hz: Annotated[float, Meta(gt=0, le=10_000)]
    clip: ClipSpec | None = None
    fit: FitSpec | None = None

    def __post_init__(self) -> None:
        check_numbers("observation.mean", self.mean)
        check_std("observation.std", self.std)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of what one model step sees: (height, width, 3), or (frames, height, width, 3)."""
        picture = (self.height, self.width, 3)
        return picture if self.clip is None else (self.clip.frames, *picture)

    @property
    def camera_rate_hz(self) -> float:
        """Camera frames per second."""
        return self.rate_hz * (1 if self.clip is None else self.clip.hop)

    def check_frames(self, frames: NDArray[np.generic]) -> None:
        """Raise InputError unless frames is (B, height, width, 3) uint8, or clips of those."""
        expected = self.frame_shape
        if frames.dtype == np.uint8 and frames.shape[1:] == expected:
            return
        hint = "resize and convert the camera image first"
        if self.clip is not None and frames.ndim == 4:
            hint = "the model takes clips: gather them with jepa_edge.clip.ClipBuffer"
        elif frames.ndim == 4 and frames.shape[1] == 3:
            hint = "the channels come first; transpose to (height, width, channel)"
        elif np.issubdtype(frames.dtype, np.floating):
            hint = "pass the camera's uint8 pixels; the graph scales and normalizes them itself"
        raise InputError(
            f"frame is {frames.dtype} with shape {frames.shape[1:]}, expected uint8 {expected} "
            f"in {self.color} order; {hint}"
        )


class ActionSpec(_Strict, frozen=True, kw_only=True):
    """An action block: dim numbers = block environment steps x dim/block, flattened in time order.

    mean, std: of raw actions, length dim. The predictor graph applies them, except that of a model
    that takes raw actions (V-JEPA 2-AC): there they only say what usual actions are. low, high:
    limits in raw units, length dim, or empty where the action is unbounded. names: one per number,
    or one per number of an environment step; empty where nobody gave any.
    """

    dim: Positive
    block: Positive
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    units: str = ""
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("mean", "std", "low", "high"):
            values = getattr(self, name)
            if len(values) != self.dim and not (name in ("low", "high") and not values):
                raise ValueError(f"action.{name} has {len(values)} numbers, expected {self.dim}")
            check_numbers(f"action.{name}", values)
        check_std("action.std", self.std)
        if any(low >= high for low, high in zip(self.low, self.high, strict=False)):
            raise ValueError("action.low must lie below action.high everywhere")
        if self.dim % self.block:
            raise ValueError(f"action.dim {self.dim} is not a multiple of the block {self.block}")
        per_step = self.dim // self.block
        if len(self.names) not in (0, per_step, self.dim):
            either = f"{self.dim}" if per_step == self.dim else f"{self.dim} or {per_step}"
            raise ValueError(
                f"action.names has {len(self.names)} names, expected {either}, one per number of "
                "an action or of an environment step"
            )


class StateSpec(_Strict, frozen=True, kw_only=True):
    """What the robot knows of itself at a frame: an input of the encoder, (dim,) float32, raw.

    What the predictor needs of it travels in the latent, in the part that energies leave out.
    """

    dim: Positive
    units: str = ""
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.names and len(self.names) != self.dim:
            raise ValueError(f"state.names has {len(self.names)} names, expected {self.dim}")


class LatentSpec(_Strict, frozen=True, kw_only=True):
    """A latent state is (tokens, dim) float32.

    grid: (time, rows, columns) of the first tokens, where they are patches. energy_tokens,
    energy_dim: energies compare the first of each only; what lies behind is the robot's own state.
    None counts all. distance: of planned to wanted latents, as the model was trained: "l2" sums
    squares, "l1" averages absolute values.
    """

    tokens: Positive
    dim: Positive
    grid: tuple[Positive, Positive, Positive] | None = None
    energy_tokens: Positive | None = None
    energy_dim: Positive | None = None
    distance: Literal["l2", "l1"] = "l2"

    def __post_init__(self) -> None:
        tokens, dim = self.compared
        if tokens > self.tokens or dim > self.dim:
            raise ValueError(
                f"latent.energy_tokens {tokens} and energy_dim {dim} exceed the latent, "
                f"({self.tokens}, {self.dim})"
            )
        if self.grid is not None and self.grid[0] * self.grid[1] * self.grid[2] > self.tokens:
            raise ValueError(f"latent.grid {self.grid} has more than {self.tokens} tokens")

    @property
    def compared(self) -> tuple[int, int]:
        """How many tokens and channels energies compare."""
        return self.energy_tokens or self.tokens, self.energy_dim or self.dim

    @property
    def size(self) -> int:
        """Numbers in one latent state."""
        return self.tokens * self.dim


class NoiseSpec(_Strict, frozen=True, kw_only=True):
    """The model's own latent variable: the predictor graph takes z (B, dim) float32, N(0, I).

    z = 0 is the mean prediction.
    """

    dim: Positive


class MaskSpec(_Strict, frozen=True, kw_only=True):
    """Masked-region energy: parts of what is seen are hidden, and predicted from the rest.

    file: safetensors with `visible` (K, V) and `hidden` (K, M) int64, token indices of K patterns.
    The encoder graph then takes `visible` (V,) too, and encodes those tokens alone. target_norm:
    whether targets are layer-normalized over D, without scale and shift, before they are compared.
    distance: mean over D of |difference|, its square, or Huber's (smooth L1, beta 1).
    """

    file: str
    target_norm: bool = True
    distance: Literal["l1", "l2", "smooth_l1"] = "l1"


class TextSpec(_Strict, frozen=True, kw_only=True):
    """Open-vocabulary labels: a graph from the latent into the space of text embeddings.

    file: ONNX, `latents` (B, N, D) float32 -> `embedding` (B, E) float32. bank: safetensors,
    `embeddings` (L, E) float32 of unit length. labels: their L texts. temperature: divides the
    cosine similarities before the softmax.
    """

    file: str
    data: str | None = None
    bank: str
    labels: tuple[str, ...]
    dim: Positive
    temperature: Annotated[float, Meta(gt=0)] = 0.01


class TensorSpec(_Strict, frozen=True, kw_only=True):
    """One graph input or output; -1 marks the dynamic batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class GraphSpec(_Strict, frozen=True, kw_only=True):
    """One ONNX file of a variant and what was measured when it was exported.

    data: the file of its weights, where they do not fit into the ONNX file itself. sqnr_db and
    centered_cosine: against the float32 torch output on held-out recorded frames. latency_ms:
    median at batch 1, one thread, on the exporting machine; None for a graph that only TensorRT
    runs.
    """

    file: str
    data: str | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    size_bytes: int
    sqnr_db: float
    centered_cosine: float
    latency_ms: float | None


class VariantSpec(_Strict, frozen=True, kw_only=True):
    """A precision of the model. realized: number of weighted operators per precision.

    predictor: None in a model that takes no actions. mask_predictor: `context` (B, V, D) float32,
    `visible` (V,) and `hidden` (M,) int64 -> `predicted` (B, M, D), None without masks.
    """

    precision: str
    realized: dict[str, int]
    encoder: GraphSpec
    predictor: GraphSpec | None = None
    mask_predictor: GraphSpec | None = None

    @property
    def graphs(self) -> dict[str, GraphSpec]:
        """Those that are there, by name."""
        named = {
            "encoder": self.encoder,
            "predictor": self.predictor,
            "mask_predictor": self.mask_predictor,
        }
        return {name: graph for name, graph in named.items() if graph is not None}

    @property
    def needs_tensorrt(self) -> bool:
        """Whether only TensorRT runs its graphs: ONNX Runtime has no FP8 or FP4 products."""
        return any(name.startswith(("fp8", "nvfp4")) for name in self.realized)


class EnginePrecision(_Strict, frozen=True, kw_only=True):
    """The rollout engine in one precision, against the float32 torch output on held-out windows.

    cost_rank_correlation: Spearman, of planner costs of candidate actions.
    """

    sqnr_db: float
    centered_cosine: float
    cost_rank_correlation: float


class EngineSpec(_Strict, frozen=True, kw_only=True):
    """The predictor as the C++ core computes it. precisions: those within the accuracy budget.

    processors: what can compute it; both where it is not said. On a GPU the golden outputs decide
    about a precision, when it is loaded.
    """

    file: str
    precisions: dict[Literal["float32", "bfloat16", "int8"], EnginePrecision]
    processors: tuple[Literal["cpu", "cuda"], ...] | msgspec.UnsetType = msgspec.UNSET

    def runs_on(self, processor: Literal["cpu", "cuda"]) -> bool:
        """Whether the core can compute this predictor there."""
        return self.processors is msgspec.UNSET or processor in self.processors


class Provenance(_Strict, frozen=True, kw_only=True):
    """Where the bundle came from."""

    checkpoint: str
    checkpoint_sha256: Sha256
    created_utc: str
    command: str
    tools: dict[str, str]


class Manifest(_Strict, frozen=True, kw_only=True):
    """All of manifest.json. files maps every other file of the bundle to its sha256.

    action: None in a model that takes none, and predicts no step ahead. state: None where the
    encoder takes pictures only. history: latents that the predictor sees; a session gives it so
    many. min_history: the fewest that it takes, where its graph takes any number between; None
    takes exactly `history`.
    """

    schema_version: int = SCHEMA_VERSION
    family: str
    observation: ObservationSpec
    action: ActionSpec | None
    state: StateSpec | None = None
    latent: LatentSpec
    history: Positive
    min_history: Positive | None = None
    noise: NoiseSpec | msgspec.UnsetType = msgspec.UNSET
    masks: MaskSpec | None = None
    text: TextSpec | None = None
    variants: dict[VariantName, VariantSpec]
    engine: EngineSpec | None = None
    provenance: Provenance
    files: dict[str, Sha256]
    sha256: str = ""

    def require_action(self) -> ActionSpec:
        """Return what an action is. Raises InputError in a model that takes none."""
        if self.action is None:
            raise InputError(
                f"this {self.family} model takes no actions, so that nothing can be predicted "
                "ahead, rolled out or planned with it; use a bundle with an action-conditioned "
                "predictor"
            )
        return self.action

    def variant_sha256(self, variant: str) -> str:
        """Return the digest of the graphs that make a variant: what a calibration is bound to."""
        files = [
            name
            for graph in self.variants[variant].graphs.values()
            for name in (graph.file, graph.data)
            if name is not None
        ]
        digests = "".join(self.files[name] for name in files)
        return hashlib.sha256(digests.encode()).hexdigest()


def calibration_name(variant: str) -> str:
    """Return the path, inside the bundle, of a variant's calibration."""
    return f"calibration/{variant}.json"


def heads_name(variant: str) -> str:
    """Return the path, inside the bundle, of a variant's fitted heads."""
    return f"calibration/{variant}.safetensors"


def canonical_bytes(manifest: Manifest) -> bytes:
    """Return the one byte sequence that a valid manifest.json may have, digest filled in."""
    blank = msgspec.structs.replace(manifest, sha256="")
    digest = hashlib.sha256(msgspec.json.encode(blank)).hexdigest()
    signed = msgspec.structs.replace(manifest, sha256=digest)
    return json_bytes(signed)


def parse_manifest(payload: bytes, where: str) -> Manifest:
    """Decode and check a manifest.

    Raises BundleError when it is no valid manifest, was altered, or names a file outside.
    """
    try:
        version = msgspec.json.decode(payload, type=dict[str, object]).get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{where} has schema version {version}, this jepa-edge reads {SCHEMA_VERSION}; "
                "export the bundle again or install the matching version"
            )
        manifest = msgspec.json.decode(payload, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{where} is damaged or not a manifest ({error}); restore it or export again"
        ) from error
    for path in manifest.files:
        _check_inside(path, where)
    if not manifest.variants:
        raise BundleError(f"{where} has no variant; export the bundle again")
    named: list[str | None] = []
    for variant in manifest.variants.values():
        for graph in variant.graphs.values():
            named += [graph.file, graph.data]
    if manifest.engine is not None:
        named.append(manifest.engine.file)
    if manifest.masks is not None:
        named.append(manifest.masks.file)
    if manifest.text is not None:
        named += [manifest.text.file, manifest.text.data, manifest.text.bank]
    for name in named:
        if name is not None and name not in manifest.files:
            raise BundleError(f"{where} names {name!r} but lists no sha256 for it")
    _check_consistent(manifest, where)
    if canonical_bytes(manifest) != payload:
        raise BundleError(
            f"{where} was altered after it was written (its sha256 does not match); "
            "restore it or export again"
        )
    return manifest


def _check_consistent(manifest: Manifest, where: str) -> None:
    """Raise BundleError where parts of a manifest contradict one another."""
    for name, variant in manifest.variants.items():
        for part, wanted, there in (
            ("predictor", manifest.action is not None, variant.predictor is not None),
            ("mask_predictor", manifest.masks is not None, variant.mask_predictor is not None),
        ):
            if wanted != there:
                raise BundleError(
                    f"{where}: variant {name!r} {'lacks' if wanted else 'has'} the graph {part!r}, "
                    f"and the manifest {'has' if wanted else 'lacks'} what it goes with; "
                    "export the bundle again"
                )
    if manifest.action is not None and manifest.observation.clip is not None:
        raise BundleError(
            f"{where} has actions and clips, expected one of them: a predictor steps from frame to "
            "frame; encode frame by frame"
        )
    if (manifest.min_history or 1) > manifest.history:
        raise BundleError(
            f"{where}: min_history {manifest.min_history} exceeds history {manifest.history}"
        )


def _check_inside(path: str, where: str) -> None:
    parts = PurePosixPath(path).parts
    if path in (MANIFEST_NAME, SIGNATURE_NAME):
        raise BundleError(f"{where} lists {path!r} among its own files; do not use this bundle")
    if not parts or path.startswith("/") or ".." in parts or re.search(r"[\\\x00:]", path):
        raise BundleError(
            f"{where} names {path!r}, which leaves the bundle; do not use a bundle you do not trust"
        )
