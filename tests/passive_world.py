# SPDX-License-Identifier: Apache-2.0
"""A bundle that takes no actions, written by hand, and rendered runs for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from jepa_edge.bundle import seal, staged_bundle
from jepa_edge.golden import GOLDEN_NAME, Golden
from jepa_edge.manifest import (
    ClipSpec,
    GraphSpec,
    LatentSpec,
    Manifest,
    MaskSpec,
    ObservationSpec,
    Provenance,
    TensorSpec,
    VariantSpec,
)
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter

SIZE, GRID, DIM = 24, 4, 8
TOKENS, PATCH = GRID * GRID, SIZE // GRID
RATE_HZ = 5.0

HIDDEN = np.array([[5, 6, 9, 10], [0, 1, 4, 5], [10, 11, 14, 15]], np.int64)
VISIBLE = np.array([[t for t in range(TOKENS) if t not in row] for row in HIDDEN], np.int64)


def weights() -> NDArray[np.float32]:
    """The encoder's matrix (pixels of a patch, D), random; a picture's newest patches count."""
    rng = np.random.default_rng(11)
    matrix = rng.normal(size=(PATCH * PATCH * 3, DIM)) / np.sqrt(PATCH * PATCH * 3)
    return matrix.astype(np.float32)


def encoded(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the encoder must give for pictures (B, H, W, 3) or clips (B, F, H, W, 3): (B, N, D)."""
    seen = frames.astype(np.float64) / 255.0 - 0.5
    if seen.ndim == 5:
        seen = seen.mean(axis=1)
    patches = seen.reshape(-1, GRID, PATCH, GRID, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    flat = patches.reshape(len(frames), TOKENS, -1)
    return np.asarray(np.tanh(4.0 * flat @ weights()), np.float32)


def expected_energy(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Masked energy in float64: a hidden token is predicted as the mean of the visible ones."""
    latents = encoded(frames).astype(np.float64)
    total, times = np.zeros(latents.shape[:2]), np.zeros(TOKENS)
    for visible, hidden in zip(VISIBLE, HIDDEN, strict=True):
        predicted = latents[:, visible].mean(axis=1, keepdims=True)
        total[:, hidden] += np.abs(latents[:, hidden] - predicted).mean(axis=2)
        times[hidden] += 1
    return np.where(times > 0, total / np.maximum(times, 1), np.nan)


def _constant(name: str, value: NDArray[np.generic]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def _info(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _encoder(clip: ClipSpec | None, masks: bool) -> onnx.GraphProto:
    frames: list[int | str] = ["B", *([clip.frames] if clip else []), SIZE, SIZE, 3]
    nodes = [
        helper.make_node("Cast", ["frames"], ["raw"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["raw", "white"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "half"], ["picture" if clip is None else "clip"]),
    ]
    if clip is not None:
        nodes.append(helper.make_node("ReduceMean", ["clip", "time"], ["picture"], keepdims=0))
    out = "every" if masks else "latents"
    nodes += [
        helper.make_node("Reshape", ["picture", "split"], ["tiles"]),
        helper.make_node("Transpose", ["tiles"], ["sorted"], perm=[0, 1, 3, 2, 4, 5]),
        helper.make_node("Reshape", ["sorted", "flat"], ["patches"]),
        helper.make_node("MatMul", ["patches", "weights"], ["mixed"]),
        helper.make_node("Mul", ["mixed", "four"], ["strong"]),
        helper.make_node("Tanh", ["strong"], [out]),
    ]
    inputs = [_info("frames", TensorProto.UINT8, frames)]
    if masks:
        nodes.append(helper.make_node("Gather", ["every", "visible"], ["latents"], axis=1))
        inputs.append(_info("visible", TensorProto.INT64, ["V"]))
    constants = {
        "white": np.array(255.0, np.float32),
        "half": np.array(0.5, np.float32),
        "four": np.array(4.0, np.float32),
        "split": np.array([-1, GRID, PATCH, GRID, PATCH, 3], np.int64),
        "flat": np.array([-1, TOKENS, PATCH * PATCH * 3], np.int64),
        "weights": weights(),
        **({} if clip is None else {"time": np.array([1], np.int64)}),
    }
    output = _info("latents", TensorProto.FLOAT, ["B", "V" if masks else TOKENS, DIM])
    given = [_constant(name, value) for name, value in constants.items()]
    return helper.make_graph(nodes, "encoder", inputs, [output], given)


def _mask_predictor() -> onnx.GraphProto:
    nodes = [
        helper.make_node("ReduceMean", ["context", "tokens"], ["mean"], keepdims=1),
        helper.make_node("Shape", ["hidden"], ["count"]),
        helper.make_node("Shape", ["visible"], ["unused"]),
        helper.make_node("Concat", ["one", "count", "one"], ["shape"], axis=0),
        helper.make_node("Expand", ["mean", "shape"], ["predicted"]),
    ]
    inputs = [
        _info("context", TensorProto.FLOAT, ["B", "V", DIM]),
        _info("visible", TensorProto.INT64, ["V"]),
        _info("hidden", TensorProto.INT64, ["M"]),
    ]
    output = _info("predicted", TensorProto.FLOAT, ["B", "M", DIM])
    constants = [_constant("tokens", np.array([1], np.int64)), _constant("one", np.array([1]))]
    return helper.make_graph(nodes, "mask_predictor", inputs, [output], constants)


def make_passive_bundle(path: Path, *, masks: bool = True, clip: ClipSpec | None = None) -> Path:
    """Write a whole, sealed bundle without actions; masks: with a mask predictor."""
    rng = np.random.default_rng(3)
    shape = (4, *((clip.frames,) if clip else ()), SIZE, SIZE, 3)
    frames = rng.integers(0, 256, shape, dtype=np.uint8)
    latents = encoded(frames)
    context = latents[:, VISIBLE[0]]
    with staged_bundle(path) as staging:
        graphs = {"encoder": _encoder(clip, masks)}
        if masks:
            graphs["mask_predictor"] = _mask_predictor()
            save_file({"visible": VISIBLE, "hidden": HIDDEN}, staging / "masks.safetensors")
        for name, graph in graphs.items():
            opset = [helper.make_opsetid("", 20)]
            model = helper.make_model(graph, opset_imports=opset, ir_version=9)
            onnx.checker.check_model(model)
            onnx.save(model, str(staging / f"{name}.onnx"))
        (staging / "golden").mkdir()
        Golden(
            frames=frames,
            latents=latents,
            context=context if masks else None,
            masked=np.repeat(context.mean(axis=1, keepdims=True), 4, axis=1) if masks else None,
        ).write(str(staging / GOLDEN_NAME))
        seal(staging, _manifest(staging, masks, clip))
    return path


def _manifest(staging: Path, masks: bool, clip: ClipSpec | None) -> Manifest:
    def graph(name: str) -> GraphSpec:
        file = f"{name}.onnx"
        spec = TensorSpec(name=name, dtype="float32", shape=(-1, TOKENS, DIM))
        return GraphSpec(
            file=file,
            inputs=(spec,),
            outputs=(spec,),
            size_bytes=(staging / file).stat().st_size,
            sqnr_db=100.0,
            centered_cosine=1.0,
            latency_ms=0.1,
        )

    return Manifest(
        family="passive",
        observation=ObservationSpec(
            height=SIZE,
            width=SIZE,
            mean=(0.5, 0.5, 0.5),
            std=(1.0, 1.0, 1.0),
            rate_hz=RATE_HZ,
            clip=clip,
        ),
        action=None,
        latent=LatentSpec(tokens=TOKENS, dim=DIM, grid=(1, GRID, GRID)),
        history=1,
        masks=MaskSpec(file="masks.safetensors", target_norm=False) if masks else None,
        variants={
            "fp32": VariantSpec(
                precision="fp32",
                realized={"fp32": 1},
                encoder=graph("encoder"),
                mask_predictor=graph("mask_predictor") if masks else None,
            )
        },
        provenance=Provenance(
            checkpoint="none",
            checkpoint_sha256="0" * 64,
            created_utc="2026-01-01T00:00:00Z",
            command="tests",
            tools={},
        ),
        files={},
    )


def picture_episode(seed: int, frames: int = 21, *, camera_hz: float = RATE_HZ) -> Episode:
    """A run: a bright disc wanders over a shaded ground, under noise and an exposure of its own."""
    rng = np.random.default_rng([71, seed])
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    ground = 90.0 + 60.0 * rows[..., None] * np.array([1.0, 0.7, 0.4]) + 20.0 * columns[..., None]
    place, speed = rng.uniform(0.3, 0.7, 2), rng.normal(0.0, 0.04, 2)
    exposure = rng.normal(1.0, 0.04)
    pictures = np.empty((frames, SIZE, SIZE, 3), np.uint8)
    for index in range(frames):
        speed = 0.85 * speed + rng.normal(0.0, 0.02, 2) - 0.08 * (place - 0.5)
        place = np.clip(place + speed, 0.1, 0.9)
        near = (rows - place[0]) ** 2 + (columns - place[1]) ** 2 < 0.02
        shown = np.where(near[..., None], np.array([220.0, 90.0, 60.0]), ground)
        noisy = exposure * shown + rng.normal(0.0, 4.0, shown.shape)
        pictures[index] = np.clip(np.round(noisy), 0, 255)
    return Episode(
        name=f"pictures {seed}",
        frames=pictures,
        actions=np.zeros((frames - 1, 0), np.float32),
        stamps_s=np.arange(frames) / camera_hz,
    )


def record_pictures(
    path: Path, seeds: range, frames: int = 21, *, camera_hz: float = RATE_HZ
) -> Path:
    """Write a recording of picture episodes without actions."""
    info = RecordingInfo(rate_hz=camera_hz, action_dim=0)
    with RecordingWriter(path, info) as writer:
        for seed in seeds:
            writer.add(picture_episode(seed, frames, camera_hz=camera_hz))
    return path
