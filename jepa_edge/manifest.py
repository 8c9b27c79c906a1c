# SPDX-License-Identifier: Apache-2.0
"""The manifest: what a bundle says about itself. docs/bundle.md describes every field."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from jepa_edge.errors import BundleError, InputError
from jepa_edge.json_text import json_bytes

SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
"""Signs the manifest; the one file beside it that it does not list."""
REFERENCE_VARIANT = "fp32"

Positive = Annotated[int, Meta(gt=0, le=1_000_000)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
# A variant names files; nothing that could lead out of the bundle.
VariantName = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,32}$")]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all manifest records: immutable, by keyword, unknown keys refused."""


class ObservationSpec(_Strict, frozen=True, kw_only=True):
    """What the camera must deliver: uint8 frames of shape (height, width, 3).

    mean, std: per channel, of pixels scaled to [0, 1]; they are applied inside the encoder graph.
    rate_hz: frames (model steps) per second that the model was trained at.
    """

    height: Positive
    width: Positive
    color: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rate_hz: Annotated[float, Meta(gt=0, le=10_000)]

    def check_frames(self, frames: NDArray[np.generic]) -> None:
        """Raise InputError unless frames is (B, height, width, 3) uint8."""
        expected = (self.height, self.width, 3)
        if frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[1:] == expected:
            return
        hint = "resize and convert the camera image first"
        if frames.ndim == 4 and frames.shape[1] == 3:
            hint = "the channels come first; transpose to (height, width, channel)"
        elif np.issubdtype(frames.dtype, np.floating):
            hint = "pass the camera's uint8 pixels; the graph scales and normalizes them itself"
        raise InputError(
            f"frame is {frames.dtype} with shape {frames.shape[1:]}, expected uint8 {expected} "
            f"in {self.color} order; {hint}"
        )


class ActionSpec(_Strict, frozen=True, kw_only=True):
    """An action block: dim numbers = block environment steps x dim/block, flattened in time order.

    mean, std: of raw actions, length dim, applied inside the predictor graph. low, high: limits in
    raw units, length dim, or empty where the action is unbounded.
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
        if any(low >= high for low, high in zip(self.low, self.high, strict=False)):
            raise ValueError("action.low must lie below action.high everywhere")
        if self.dim % self.block:
            raise ValueError(f"action.dim {self.dim} is not a multiple of the block {self.block}")


class LatentSpec(_Strict, frozen=True, kw_only=True):
    """A latent state is (tokens, dim) float32."""

    tokens: Positive
    dim: Positive

    @property
    def size(self) -> int:
        """Numbers in one latent state."""
        return self.tokens * self.dim


class NoiseSpec(_Strict, frozen=True, kw_only=True):
    """The model's own latent variable: the predictor graph takes z (B, dim) float32, N(0, I).

    z = 0 is the mean prediction.
    """

    dim: Positive


class TensorSpec(_Strict, frozen=True, kw_only=True):
    """One graph input or output; -1 marks the dynamic batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class GraphSpec(_Strict, frozen=True, kw_only=True):
    """One ONNX file of a variant and what was measured when it was exported.

    sqnr_db and centered_cosine: against the float32 torch output on held-out recorded frames.
    latency_ms: median at batch 1, one thread, on the exporting machine.
    """

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    size_bytes: int
    sqnr_db: float
    centered_cosine: float
    latency_ms: float


class VariantSpec(_Strict, frozen=True, kw_only=True):
    """A precision of the model. realized: number of weighted operators per precision."""

    precision: str
    realized: dict[str, int]
    encoder: GraphSpec
    predictor: GraphSpec


class EnginePrecision(_Strict, frozen=True, kw_only=True):
    """The rollout engine in one precision, against the float32 torch output on held-out windows.

    cost_rank_correlation: Spearman, of planner costs of candidate actions.
    """

    sqnr_db: float
    centered_cosine: float
    cost_rank_correlation: float


class EngineSpec(_Strict, frozen=True, kw_only=True):
    """The predictor as the C++ core computes it. precisions: those within the accuracy budget."""

    file: str
    precisions: dict[Literal["float32", "bfloat16", "int8"], EnginePrecision]


class Provenance(_Strict, frozen=True, kw_only=True):
    """Where the bundle came from."""

    checkpoint: str
    checkpoint_sha256: Sha256
    created_utc: str
    command: str
    tools: dict[str, str]


class Manifest(_Strict, frozen=True, kw_only=True):
    """All of manifest.json. files maps every other file of the bundle to its sha256."""

    schema_version: int = SCHEMA_VERSION
    family: str
    observation: ObservationSpec
    action: ActionSpec
    latent: LatentSpec
    history: Positive
    noise: NoiseSpec | msgspec.UnsetType = msgspec.UNSET
    variants: dict[VariantName, VariantSpec]
    engine: EngineSpec | None = None
    provenance: Provenance
    files: dict[str, Sha256]
    sha256: str = ""

    def variant_sha256(self, variant: str) -> str:
        """Return the digest of the graphs that make a variant: what a calibration is bound to."""
        spec = self.variants[variant]
        digests = self.files[spec.encoder.file] + self.files[spec.predictor.file]
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
    if REFERENCE_VARIANT not in manifest.variants:
        raise BundleError(f"{where} has no variant {REFERENCE_VARIANT!r}; export the bundle again")
    for variant in manifest.variants.values():
        for graph in (variant.encoder, variant.predictor):
            if graph.file not in manifest.files:
                raise BundleError(f"{where} names {graph.file!r} but lists no sha256 for it")
    if manifest.engine is not None and manifest.engine.file not in manifest.files:
        raise BundleError(f"{where} names {manifest.engine.file!r} but lists no sha256 for it")
    if canonical_bytes(manifest) != payload:
        raise BundleError(
            f"{where} was altered after it was written (its sha256 does not match); "
            "restore it or export again"
        )
    return manifest


def _check_inside(path: str, where: str) -> None:
    parts = PurePosixPath(path).parts
    if path in (MANIFEST_NAME, SIGNATURE_NAME):
        raise BundleError(f"{where} lists {path!r} among its own files; do not use this bundle")
    if not parts or path.startswith("/") or ".." in parts or re.search(r"[\\\x00:]", path):
        raise BundleError(
            f"{where} names {path!r}, which leaves the bundle; do not use a bundle you do not trust"
        )
