# SPDX-License-Identifier: Apache-2.0
"""A foreign encoder or mask predictor: manifest records, and steps that bridge what differs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import ExportError, InputError
from jepa_edge.export.import_onnx_file import GraphFile, Port
from jepa_edge.export.import_onnx_part import (
    TRIAL,
    Bound,
    Part,
    bind,
    cast_output,
    make_part,
    run_untouched,
)
from jepa_edge.export.import_onnx_roles import (
    channel_axis,
    encoder_roles,
    mask_predictor_roles,
    match,
)
from jepa_edge.export.import_onnx_spec import ImportSpec, complete
from jepa_edge.export.import_onnx_steps import Step, apply_steps
from jepa_edge.manifest import (
    LatentSpec,
    ObservationSpec,
    StateSpec,
    TensorSpec,
)

# Position of the frame's axes (frames, height, width) and the permutation from (B, F, H, W, 3),
# by rank and axis of the colors.
_LAYOUTS: dict[tuple[int, int], tuple[tuple[int | None, int, int], tuple[int, ...] | None]] = {
    (4, 3): ((None, 1, 2), None),
    (4, 1): ((None, 2, 3), (0, 3, 1, 2)),
    (5, 4): ((1, 2, 3), None),
    (5, 2): ((1, 3, 4), (0, 1, 4, 2, 3)),
    (5, 1): ((2, 3, 4), (0, 4, 1, 2, 3)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedEncoder:
    """The encoder, and what the manifest says of what it sees and gives."""

    part: Part
    observation: ObservationSpec
    state: StateSpec | None
    latent: LatentSpec


def fit_encoder(
    file: GraphFile, spec: ImportSpec, where: Path, visible: NDArray[np.int64] | None, tokens: int
) -> FittedEncoder:
    """Bind an encoder. visible: a mask pattern (V,), of `tokens` tokens; None without masks.

    Raises ExportError or InputError: what the graph has, what was expected, how to fix it.
    """
    states = int(spec.state.get("dim", 0)) if spec.state else None
    roles = encoder_roles(states=states, masks=visible is not None)
    ports, output = match(file, roles, spec.rename.get("encoder", {}))
    observation, steps = _fit_frames(file, ports["frames"], spec, where)
    inputs = {
        "frames": Bound(
            port=ports["frames"],
            spec=TensorSpec(name="frames", dtype="uint8", shape=(-1, *observation.frame_shape)),
            steps=steps,
        )
    }
    trial: dict[str, NDArray[Any]] = {
        "frames": np.random.default_rng(0).integers(
            0, 256, (TRIAL, *observation.frame_shape), np.uint8
        )
    }
    state = None
    if "states" in ports:
        width = ports["states"].fixed(1)
        found = {"dim": width} if width else {}
        state = complete(spec.state, found, StateSpec, f"{where} [state]")
        inputs["states"] = bind(ports["states"], "states", (-1, state.dim))
        trial["states"] = np.zeros((TRIAL, state.dim), np.float32)
    if visible is not None:
        inputs["visible"] = bind(ports["visible"], "visible", (-1,), "int64")
        trial["visible"] = np.arange(tokens, dtype=np.int64)
    raw = run_untouched(file, output, inputs, trial)
    output_steps = cast_output(file, output, raw)
    if raw.ndim == 2:
        output_steps = (*output_steps, Step(op="Reshape", value=(0, 1, raw.shape[1])))
    elif raw.ndim != 3:
        raise ExportError(
            f"{file.path} gives {output.name} of shape {raw.shape}, expected (B, N, D) or (B, D): "
            "tokens, then channels; flatten and transpose a map of features before you export it"
        )
    shape = apply_steps(output_steps, raw).shape
    found = {"tokens": shape[1], "dim": shape[2]}
    latent = complete(spec.latent, found, LatentSpec, f"{where} [latent]")
    part = make_part(file, inputs, output, (-1, *shape[1:]), output_steps)
    return FittedEncoder(part=part, observation=observation, state=state, latent=latent)


def fit_mask_predictor(
    file: GraphFile, spec: ImportSpec, latent: LatentSpec, visible: int, hidden: int
) -> Part:
    """Bind a mask predictor; visible and hidden: V and M. Raises as `fit_encoder` does."""
    ports, output = match(
        file, mask_predictor_roles(latent.dim), spec.rename.get("mask_predictor", {})
    )
    inputs = {
        "context": bind(ports["context"], "context", (-1, -1, latent.dim)),
        "visible": bind(ports["visible"], "visible", (-1,), "int64"),
        "hidden": bind(ports["hidden"], "hidden", (-1,), "int64"),
    }
    trial: dict[str, NDArray[Any]] = {
        "context": np.zeros((TRIAL, visible, latent.dim), np.float32),
        "visible": np.arange(visible, dtype=np.int64),
        "hidden": np.arange(hidden, dtype=np.int64),
    }
    raw = run_untouched(file, output, inputs, trial)
    if raw.shape[1:] != (hidden, latent.dim):
        raise ExportError(
            f"{file.path} gives {output.name} of shape {raw.shape} for {hidden} hidden tokens, "
            f"expected (B, {hidden}, {latent.dim}): in the encoder's space, hidden tokens only"
        )
    return make_part(file, inputs, output, (-1, -1, latent.dim), cast_output(file, output, raw))


def _fit_frames(
    file: GraphFile, port: Port, spec: ImportSpec, where: Path
) -> tuple[ObservationSpec, tuple[Step, ...]]:
    axis = None if port.rank is None else channel_axis(port)
    if port.rank is None or axis is None:
        raise ExportError(
            f"{file.path}: {port.told()} is no picture, expected uint8 (B, H, W, 3) or float "
            "(B, 3, H, W); export it with its shape"
        )
    (frames, height, width), order = _LAYOUTS[port.rank, axis]
    given = dict(spec.observation)
    found: dict[str, Any] = {}
    for name, place in (("height", height), ("width", width)):
        if port.fixed(place):
            found[name] = port.fixed(place)
    clip = given.get("clip")
    if frames is None and clip is not None:
        raise InputError(
            f"{where} [observation.clip] is for clips, but {file.path} takes single pictures, "
            f"{port.told()}; leave it out"
        )
    if frames is not None:
        told = {"frames": port.fixed(frames)} if port.fixed(frames) else {}
        for name, value in told.items():
            if isinstance(clip, dict) and clip.get(name, value) != value:
                raise InputError(
                    f"{where} [observation.clip] says {name} = {clip[name]}, the graph has {value}"
                )
        if not isinstance(clip, dict):
            raise InputError(
                f"{file.path} takes clips, {port.told()}; add [observation.clip] to {where}: "
                "frames, tubelet, stride and hop"
            )
        given["clip"] = {**told, **clip}
    is_float = port.dtype != "uint8"
    for name, plain in (("mean", [0.0] * 3), ("std", [1.0] * 3)):
        if name not in given and is_float:
            raise InputError(
                f"{where} [observation] lacks {name}: {file.path} takes {port.dtype} pixels, which "
                "are made from uint8 as (pixel / 255 - mean) / std; give the model's own numbers, "
                "or mean = [0, 0, 0] and std = [1, 1, 1] for pixels from 0 to 1"
            )
        given.setdefault(name, plain)
    observation = complete(given, found, ObservationSpec, f"{where} [observation]")
    steps: list[Step] = []
    if is_float:
        steps = [Step(op="Cast", value="float32"), Step(op="Div", value=255.0)]
        if any(observation.mean):
            steps.append(Step(op="Sub", value=observation.mean))
        if any(std != 1.0 for std in observation.std):
            steps.append(Step(op="Div", value=observation.std))
    if order is not None:
        steps.append(Step(op="Transpose", value=order))
    if is_float and port.dtype != "float32":
        steps.append(Step(op="Cast", value=port.dtype))
    return observation, tuple(steps)
