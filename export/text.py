# SPDX-License-Identifier: Apache-2.0
"""Attach a text head and a bank of text embeddings to a bundle; the model in it stays as it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend
from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.errors import CheckpointError, InputError
from jepa_edge.export.families.base import GraphModule
from jepa_edge.export.onnx_export import export_graph
from jepa_edge.export.text_head import load_text_predictor
from jepa_edge.export.weights import read_state_dict
from jepa_edge.golden import Golden
from jepa_edge.manifest import LatentSpec, Manifest, TextSpec
from jepa_edge.text import BANK, INPUT, OUTPUT

HEAD_FILE, BANK_FILE = "text/head.onnx", "text/bank.safetensors"
TEMPERATURE = 0.01
"""CLIP's, and what cosine similarities of text embeddings are commonly divided by."""

_LIMIT_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedText:
    """What was attached. labels: number of texts; dim: of their embeddings."""

    labels: int
    dim: int
    head_bytes: int
    manifest_sha256: str


def attach_text(
    bundle: Path | str,
    out: Path | str,
    *,
    head: Path,
    bank: Path,
    labels: Path | None = None,
    temperature: float = TEMPERATURE,
) -> AttachedText:
    """Write a copy of a bundle with a text head; out may be the bundle itself.

    head: ONNX, `latents` (B, N, D) -> `embedding` (B, E), or weights of a `TextPredictor`.
    bank: safetensors with `embeddings` (L, E), of any length but zero. labels: text file, one label
    per line; None takes the bank's metadata "labels", a JSON list. temperature: divides cosine
    similarities before the softmax. Calibrations stay valid, since no graph of the model changes;
    a signature is dropped.
    Raises InputError or CheckpointError when the parts do not fit together.
    """
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    if not 0.0 < temperature < float("inf"):
        raise InputError(f"the temperature is {temperature}, expected more than 0, e.g. 0.01")
    embeddings, texts = read_bank(bank, labels)
    model = _read_head(head, manifest.latent)
    payload: bytes = model.SerializeToString()
    with staged_bundle(Path(out), base=opened) as staging:
        for name in _owned(manifest):
            (staging / name).unlink()
        (staging / "text").mkdir(exist_ok=True)
        (staging / HEAD_FILE).write_bytes(payload)
        save_file({BANK: embeddings}, staging / BANK_FILE)
        _try_out(staging / HEAD_FILE, Golden.read(opened).latents, embeddings.shape[1], head)
        spec = TextSpec(
            file=HEAD_FILE,
            bank=BANK_FILE,
            labels=texts,
            dim=embeddings.shape[1],
            temperature=temperature,
        )
        sealed = seal(staging, msgspec.structs.replace(manifest, text=spec))
    return AttachedText(
        labels=len(texts),
        dim=embeddings.shape[1],
        head_bytes=len(payload),
        manifest_sha256=sealed.sha256,
    )


def read_bank(bank: Path, labels: Path | None) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return embeddings (L, E) of unit length and their texts.

    Raises InputError when the file has none, they do not match in number, a text comes twice, or
    an embedding has no direction.
    """
    try:
        with safe_open(bank, framework="numpy") as file:
            names, metadata = set(file.keys()), file.metadata() or {}
        given = load_file(bank)[BANK] if BANK in names else None
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot read the bank {bank} ({error}); expected a safetensors file with {BANK!r}"
        ) from error
    if given is None or given.ndim != 2 or not np.issubdtype(given.dtype, np.floating):
        told = f"{BANK!r} as {given.dtype} {given.shape}" if given is not None else sorted(names)
        raise InputError(
            f"the bank {bank} holds {told}, expected {BANK!r} of shape (labels, numbers), float"
        )
    texts = _read_labels(bank, labels, metadata)
    if len(texts) != len(given) or not texts:
        raise InputError(
            f"{len(texts)} labels for {len(given)} embeddings in {bank}, expected as many of each, "
            "in one order"
        )
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
        raise InputError(f"label {twice[0]!r} comes twice, expected it once; remove one")
    embeddings = given.astype(np.float64)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0.0)))
    if len(bad):
        raise InputError(
            f"the embedding of {texts[bad[0]]!r} in {bank} is zero or not finite; compute it again"
        )
    return (embeddings / lengths).astype(np.float32), texts


def _read_labels(bank: Path, labels: Path | None, metadata: dict[str, str]) -> tuple[str, ...]:
    if labels is not None:
        try:
            # Not splitlines: it splits at U+0085 and more that labels may hold.
            lines = labels.read_text("utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the labels {labels}: {error}") from error
        return tuple(line.strip() for line in lines if line.strip())
    try:
        return tuple(msgspec.json.decode(metadata["labels"], type=list[str]))
    except (KeyError, msgspec.DecodeError) as error:
        raise InputError(
            f"the bank {bank} does not say its labels in metadata 'labels' (a JSON list); "
            "pass --labels FILE, one label per line"
        ) from error


def _read_head(path: Path, latent: LatentSpec) -> Any:
    """Return the head as a ModelProto that holds its weights and fits the latent."""
    try:
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:9] == b"{"
    except OSError as error:
        raise InputError(f"cannot read the head {path} ({error.strerror})") from error
    if is_safetensors:
        model = _export_head(path, latent)
    else:
        try:
            model = onnx.load(str(path))
            onnx.checker.check_model(model)
        except Exception as error:  # protobuf, onnx and missing external data each raise their own
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{path} is neither ONNX nor safetensors, or damaged ({line})"
            ) from error
    if model.ByteSize() > _LIMIT_BYTES:
        raise CheckpointError(
            f"the head {path} has {model.ByteSize()} bytes, expected less than {_LIMIT_BYTES}"
        )
    _check_ports(model, path, latent)
    return model


def _export_head(path: Path, latent: LatentSpec) -> Any:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is a truncated or damaged safetensors file ({error}); fetch it again"
        ) from error
    head = load_text_predictor(read_state_dict(path), metadata, str(path))
    if head.query.shape[-1] != latent.dim:
        raise CheckpointError(
            f"the head {path} takes {head.query.shape[-1]} channels, the bundle's latents have "
            f"{latent.dim}; pass a head that was trained on this model"
        )
    example = {INPUT: torch.zeros(2, latent.tokens, latent.dim)}
    return export_graph(GraphModule(module=head, example=example, output=OUTPUT))


def _check_ports(model: Any, path: Path, latent: LatentSpec) -> None:
    """Raise CheckpointError unless the graph takes the bundle's latents and gives an embedding."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {v.name: v for v in model.graph.input if v.name not in constants}
    outputs = {v.name: v for v in model.graph.output}
    for what, ports, expected in (("takes", inputs, INPUT), ("gives", outputs, OUTPUT)):
        if set(ports) != {expected}:
            raise CheckpointError(
                f"the head {path} {what} {', '.join(sorted(ports)) or 'nothing'}, expected "
                f"{expected!r} alone; rename it when you export the head"
            )
    shape = (None, latent.tokens, latent.dim)
    for port, wanted in ((inputs[INPUT], shape), (outputs[OUTPUT], (None, None))):
        kind = port.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        fits = len(dims) == len(wanted) and all(
            have is None or want is None or have == want
            for have, want in zip(dims, wanted, strict=True)
        )
        if not fits or kind.elem_type != TensorProto.FLOAT:
            name = TensorProto.DataType.Name(kind.elem_type).lower()
            raise CheckpointError(
                f"{port.name!r} of the head {path} is {name} {_shown(dims)}, expected float "
                f"{_shown(wanted)}: the latents of this bundle; pass a head that was trained on it"
            )


def _shown(dims: Any) -> str:
    return "(" + ", ".join("any" if d is None else str(d) for d in dims) + ")"


def _try_out(file: Path, latents: NDArray[np.float32], dim: int, path: Path) -> None:
    """Run the head on golden latents, one by one, as a robot does."""
    graph = OnnxRuntimeBackend().load(file)
    for latent in latents:
        embedding = graph({INPUT: latent[None]})
        if embedding.shape != (1, dim):
            raise CheckpointError(
                f"the head {path} gives {embedding.shape[1:]} numbers for a latent, the bank's "
                f"embeddings have {dim}; pass the bank of the text encoder that it was trained for"
            )
        if not np.isfinite(embedding).all():
            raise CheckpointError(
                f"the head {path} gives NaN or infinity on the bundle's own golden latents; "
                "train it again"
            )


def _owned(manifest: Manifest) -> list[str]:
    """Files of the text head that the bundle has already."""
    if manifest.text is None:
        return []
    names = (manifest.text.file, manifest.text.data, manifest.text.bank)
    return [name for name in names if name is not None]


def write_bank(path: Path, embeddings: NDArray[np.float32], labels: list[str]) -> None:
    """Write a bank that names its own labels. embeddings: (L, E)."""
    metadata = {"labels": json.dumps(labels)}
    save_file({BANK: np.ascontiguousarray(embeddings, np.float32)}, path, metadata=metadata)
