# SPDX-License-Identifier: Apache-2.0
"""A bundle of several tokens whose latent carries the robot's own state, written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jepa_edge.bundle import seal, staged_bundle
from jepa_edge.golden import GOLDEN_NAME, Golden
from jepa_edge.manifest import (
    ActionSpec,
    GraphSpec,
    LatentSpec,
    Manifest,
    ObservationSpec,
    Provenance,
    StateSpec,
    TensorSpec,
    VariantSpec,
)
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter

SIZE, PATCHES, SEEN, STATE, ACTION, HISTORY = 8, 4, 6, 2, 2, 2
TOKENS, DIM = PATCHES + 1, SEEN + STATE
"""Patches and one token of the state; every patch has its colors and the state in channels."""

RATE_HZ = 5.0


def _weights() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(5)
    colors = rng.normal(size=(3, SEEN)).astype(np.float32) / 64.0
    step = np.eye(SEEN, dtype=np.float32) * np.float32(0.7)
    push = (rng.normal(size=(ACTION, 3)).astype(np.float32) * 8.0) @ colors
    return {"colors": colors, "step": step, "push": push}


def encoded(frames: NDArray[np.uint8], states: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the encoder must give: (B, N, D)."""
    half = SIZE // 2
    tiles = frames.astype(np.float32).reshape(-1, 2, half, 2, half, 3).mean(axis=(2, 4))
    seen = (tiles.reshape(-1, PATCHES, 3) - 128.0) @ _weights()["colors"]
    return _joined(seen, states)


def _joined(seen: NDArray[np.float32], states: NDArray[np.float32]) -> NDArray[np.float32]:
    tiled = np.repeat(states[:, None], PATCHES, axis=1)
    token = np.zeros((len(states), 1, DIM), np.float32)
    token[:, 0, :STATE] = states
    return np.concatenate([np.concatenate([seen, tiled], axis=2), token], axis=1)


def predicted(history: NDArray[np.float32], actions: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the predictor must give: the action pushes the colors, and adds to the state."""
    weights, last = _weights(), history[:, -1]
    seen = last[:, :PATCHES, :SEEN] @ weights["step"] + (actions[:, -1] @ weights["push"])[:, None]
    return _joined(seen, last[:, PATCHES, :STATE] + actions[:, -1])


def _constant(name: str, value: NDArray[np.generic]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def _joining() -> list[onnx.NodeProto]:
    """`seen` (B, 4, 6) and `state` (B, 2) into a latent."""
    return [
        helper.make_node("Unsqueeze", ["state", "axis"], ["one_state"]),
        helper.make_node("Tile", ["one_state", "four"], ["tiled"]),
        helper.make_node("Concat", ["seen", "tiled"], ["patches"], axis=2),
        helper.make_node("Pad", ["one_state", "padding"], ["token"]),
        helper.make_node("Concat", ["patches", "token"], ["latent"], axis=1),
    ]


_JOINING = {
    "axis": np.array([1], np.int64),
    "four": np.array([1, PATCHES, 1], np.int64),
    "padding": np.array([0, 0, 0, 0, 0, DIM - STATE], np.int64),
}


def _encoder() -> onnx.GraphProto:
    half = SIZE // 2
    nodes = [
        helper.make_node("Cast", ["frames"], ["raw"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["raw", "split"], ["tiles"]),
        helper.make_node("ReduceMean", ["tiles", "pixels"], ["means"], keepdims=0),
        helper.make_node("Reshape", ["means", "flat"], ["colored"]),
        helper.make_node("Sub", ["colored", "grey"], ["centered"]),
        helper.make_node("MatMul", ["centered", "colors"], ["seen"]),
        helper.make_node("Identity", ["states"], ["state"]),
        *_joining(),
    ]
    constants = {
        **_JOINING,
        "split": np.array([-1, 2, half, 2, half, 3], np.int64),
        "pixels": np.array([2, 4], np.int64),
        "flat": np.array([-1, PATCHES, 3], np.int64),
        "grey": np.array(128.0, np.float32),
        "colors": _weights()["colors"],
    }
    inputs = [
        helper.make_tensor_value_info("frames", TensorProto.UINT8, ["B", SIZE, SIZE, 3]),
        helper.make_tensor_value_info("states", TensorProto.FLOAT, ["B", STATE]),
    ]
    return _graph("encoder", nodes, inputs, constants)


def _predictor() -> onnx.GraphProto:
    nodes = [
        helper.make_node("Gather", ["history", "last"], ["newest"], axis=1),
        helper.make_node("Gather", ["actions", "last"], ["action"], axis=1),
        helper.make_node("Slice", ["newest", "zeros", "seen_end", "axes"], ["patch"]),
        helper.make_node("MatMul", ["patch", "step"], ["moved"]),
        helper.make_node("MatMul", ["action", "push"], ["pushed"]),
        helper.make_node("Unsqueeze", ["pushed", "axis"], ["pushed_one"]),
        helper.make_node("Add", ["moved", "pushed_one"], ["seen"]),
        helper.make_node("Slice", ["newest", "token_from", "token_to", "axes"], ["known"]),
        helper.make_node("Squeeze", ["known", "axis"], ["before"]),
        helper.make_node("Add", ["before", "action"], ["state"]),
        *_joining(),
    ]
    weights = _weights()
    constants = {
        **_JOINING,
        "last": np.array(HISTORY - 1, np.int64),
        "axes": np.array([1, 2], np.int64),
        "zeros": np.array([0, 0], np.int64),
        "seen_end": np.array([PATCHES, SEEN], np.int64),
        "token_from": np.array([PATCHES, 0], np.int64),
        "token_to": np.array([TOKENS, STATE], np.int64),
        "step": weights["step"],
        "push": weights["push"],
    }
    inputs = [
        helper.make_tensor_value_info("history", TensorProto.FLOAT, ["B", HISTORY, TOKENS, DIM]),
        helper.make_tensor_value_info("actions", TensorProto.FLOAT, ["B", HISTORY, ACTION]),
    ]
    return _graph("predictor", nodes, inputs, constants)


def _graph(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    constants: dict[str, NDArray[np.generic]],
) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["B", TOKENS, DIM])
    given = [_constant(key, value) for key, value in constants.items()]
    return helper.make_graph(nodes, name, inputs, [output], given)


def make_state_bundle(path: Path) -> Path:
    """Write a whole, sealed bundle; energies compare the colors of the patches only."""
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    states = rng.normal(size=(4, STATE)).astype(np.float32)
    history = rng.normal(size=(4, HISTORY, TOKENS, DIM)).astype(np.float32)
    actions = rng.normal(size=(4, HISTORY, ACTION)).astype(np.float32)
    with staged_bundle(path) as staging:
        for graph in (_encoder(), _predictor()):
            opset = [helper.make_opsetid("", 20)]
            model = helper.make_model(graph, opset_imports=opset, ir_version=9)
            onnx.checker.check_model(model)
            onnx.save(model, str(staging / f"{graph.name}.onnx"))
        (staging / "golden").mkdir()
        Golden(
            frames=frames,
            latents=encoded(frames, states),
            states=states,
            history=history,
            actions=actions,
            predictions=predicted(history, actions),
        ).write(str(staging / GOLDEN_NAME))
        seal(staging, _manifest(staging))
    return path


def _manifest(staging: Path) -> Manifest:
    def graph(name: str) -> GraphSpec:
        spec = TensorSpec(name=name, dtype="float32", shape=(-1, TOKENS, DIM))
        return GraphSpec(
            file=f"{name}.onnx",
            inputs=(spec,),
            outputs=(spec,),
            size_bytes=(staging / f"{name}.onnx").stat().st_size,
            sqnr_db=100.0,
            centered_cosine=1.0,
            latency_ms=0.1,
        )

    return Manifest(
        family="state",
        observation=ObservationSpec(
            height=SIZE, width=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3, rate_hz=RATE_HZ
        ),
        action=ActionSpec(dim=ACTION, block=1, mean=(0.0,) * ACTION, std=(1.0,) * ACTION),
        state=StateSpec(dim=STATE, names=("x", "y")),
        latent=LatentSpec(
            tokens=TOKENS, dim=DIM, grid=(1, 2, 2), energy_tokens=PATCHES, energy_dim=SEEN
        ),
        history=HISTORY,
        variants={
            "fp32": VariantSpec(
                precision="fp32",
                realized={"fp32": 2},
                encoder=graph("encoder"),
                predictor=graph("predictor"),
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


def state_episode(seed: int, steps: int = 18) -> Episode:
    """A run whose patches' colors follow the actions, whose state adds them up from far away."""
    rng = np.random.default_rng([91, seed])
    actions = rng.normal(0.0, 1.0, (steps, ACTION)).astype(np.float32)
    push = np.random.default_rng(5)
    push.normal(size=(3, SEEN))
    pushed = push.normal(size=(ACTION, 3)) * 8.0
    color = rng.normal(0.0, 15.0, (PATCHES, 3))
    state = rng.normal(0.0, 500.0, STATE)
    frames = np.empty((steps + 1, SIZE, SIZE, 3), np.uint8)
    states = np.empty((steps + 1, STATE), np.float32)
    for step in range(steps + 1):
        tiles = color.reshape(2, 1, 2, 1, 3)
        noise = rng.normal(0.0, 4.0, (2, SIZE // 2, 2, SIZE // 2, 3))
        frames[step] = np.clip(np.round(128.0 + tiles + noise), 0, 255).reshape(SIZE, SIZE, 3)
        states[step] = state
        if step < steps:
            color = 0.7 * color + actions[step] @ pushed + rng.normal(0.0, 3.0, color.shape)
            state = state + actions[step]
    return Episode(
        name=f"state {seed}",
        frames=frames,
        actions=actions,
        stamps_s=np.arange(steps + 1) / RATE_HZ,
        robot_state=states,
    )


def record_states(path: Path, seeds: range) -> Path:
    """Write a recording of state episodes."""
    with RecordingWriter(path, RecordingInfo(rate_hz=RATE_HZ, action_dim=ACTION)) as writer:
        for seed in seeds:
            writer.add(state_episode(seed))
    return path
