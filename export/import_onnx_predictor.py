# SPDX-License-Identifier: Apache-2.0
"""A foreign predictor bound to an encoder's latents."""

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
    Part,
    bind,
    cast_output,
    make_part,
    run_untouched,
)
from jepa_edge.export.import_onnx_roles import match, predictor_roles
from jepa_edge.export.import_onnx_spec import ImportSpec, complete
from jepa_edge.export.import_onnx_steps import Step
from jepa_edge.manifest import ActionSpec, LatentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPredictor:
    """The predictor, and what the manifest says of its actions. noise_dim: 0 without z."""

    part: Part
    action: ActionSpec
    history: int
    noise_dim: int


def fit_predictor(
    file: GraphFile, spec: ImportSpec, where: Path, latent: LatentSpec
) -> FittedPredictor:
    """Bind a predictor to the latents of an encoder. Raises as `fit_encoder` does."""
    mean = spec.action.get("mean")
    width = spec.action.get("dim", len(mean) if isinstance(mean, list) else None)
    known = width if isinstance(width, int) else None
    roles = predictor_roles(
        tokens=latent.tokens,
        dim=latent.dim,
        action=known,
        history=spec.model.history,
        noise=len(file.inputs) > 2,
    )
    ports, output = match(file, roles, spec.rename.get("predictor", {}))
    history, history_steps = _fit_history(file, ports["history"], spec, where, latent)
    action, action_steps = _fit_action(file, ports["actions"], spec, where, history)
    window = -1 if spec.model.min_history is not None else history
    latent_shape = (latent.tokens, latent.dim)
    inputs = {
        "history": bind(
            ports["history"], "history", (-1, window, *latent_shape), steps=history_steps
        ),
        "actions": bind(ports["actions"], "actions", (-1, window, action.dim), steps=action_steps),
    }
    trial: dict[str, NDArray[Any]] = {
        "history": np.zeros((TRIAL, history, *latent_shape), np.float32),
        "actions": np.tile(np.array(action.mean, np.float32), (TRIAL, history, 1)),
    }
    noise = 0
    if "z" in ports:
        noise = ports["z"].fixed(1) or 0
        if not noise:
            raise ExportError(
                f"{file.path}: z is {ports['z'].told()}, expected a fixed number of columns; "
                "export it with only the batch dynamic"
            )
        inputs["z"] = bind(ports["z"], "z", (-1, noise))
        trial["z"] = np.zeros((TRIAL, noise), np.float32)
    raw = run_untouched(file, output, inputs, trial)
    steps = _fit_prediction(file, output, raw, spec, history, latent)
    part = make_part(file, inputs, output, (-1, *latent_shape), steps)
    return FittedPredictor(part=part, action=action, history=history, noise_dim=noise)


def _fit_history(
    file: GraphFile, port: Port, spec: ImportSpec, where: Path, latent: LatentSpec
) -> tuple[int, tuple[Step, ...]]:
    """Return T and the steps from (B, T, N, D) to what the graph takes."""
    tokens, dim = latent.tokens, latent.dim
    given = spec.model.history
    length = None if port.rank is None else port.fixed(port.rank - 1)
    window: int | None = None
    steps: tuple[Step, ...] = ()
    if port.rank == 4:
        window = port.fixed(1)
        if port.fixed(2) not in (None, tokens):
            raise ExportError(
                f"{file.path}: history is {port.told()}, expected (B, T, {tokens}, {dim}), the "
                "encoder's tokens; pass the predictor that belongs to this encoder"
            )
    elif port.rank == 3 and tokens == 1:
        window = port.fixed(1)
        steps = (Step(op="Reshape", value=(0, -1 if window is None else window, dim)),)
    elif port.rank == 3 and port.fixed(1) in (None, tokens):
        window, steps = 1, (Step(op="Reshape", value=(0, tokens, dim)),)
    elif port.rank == 2 and (length or given):
        size = length or tokens * dim * (given or 1)
        window, steps = size // (tokens * dim), (Step(op="Reshape", value=(0, size)),)
    else:
        raise ExportError(
            f"{file.path}: history is {port.told()}, expected (B, T, {tokens}, {dim}): T latents, "
            "oldest first, each as the encoder gives it"
        )
    if window is not None and given is not None and window != given:
        raise InputError(
            f"{where} [model] says history = {given}, {file.path} takes {port.told()}, that is "
            f"{window}; correct the spec"
        )
    window = window or given
    fewest = spec.model.min_history
    if window is not None and (fewest or 1) > window:
        raise InputError(
            f"{where} [model] says min_history = {fewest}, expected at most {window}, the history; "
            "correct the spec"
        )
    if window is None:
        raise InputError(
            f"{where} [model] lacks history: {file.path} takes any number of latents, "
            f"{port.told()}; say how many it was trained with"
        )
    if port.dtype != "float32":
        steps = (*steps, Step(op="Cast", value=port.dtype))
    return window, steps


def _fit_action(
    file: GraphFile, port: Port, spec: ImportSpec, where: Path, history: int
) -> tuple[ActionSpec, tuple[Step, ...]]:
    """Return the action's record and the steps from (B, T, A) to what the graph takes."""
    width = None if port.rank is None else port.fixed(port.rank - 1)
    given = dict(spec.action)
    found: dict[str, Any] = {}
    shaping: tuple[Step, ...] = ()
    if port.rank == 3:
        found = {"dim": width} if width else {}
        if port.fixed(1) not in (None, history):
            raise ExportError(
                f"{file.path}: actions are {port.told()}, expected {history} of them, one per "
                "latent of the history"
            )
    elif port.rank == 2:
        dim = given.get("dim", width if history == 1 else None)
        if dim is None or (width is not None and width not in (dim, dim * history)):
            raise InputError(
                f"{file.path}: actions are {port.told()}, expected (B, {history}, A) or a row of "
                f"{history} x A numbers; set dim = A in {where} [action]"
            )
        newest = history > 1 and width == dim
        shaping = (
            (Step(op="Gather", value=-1),)
            if newest
            else (Step(op="Reshape", value=(0, dim * history)),)
        )
        found = {"dim": dim}
    if not given:
        raise InputError(
            f"{where} lacks [action]: {file.path} takes {port.told()}; give block, mean and std "
            "of the raw actions, and low and high where they are bounded"
        )
    given.setdefault("block", 1)
    action = complete(given, found, ActionSpec, f"{where} [action]")
    steps: list[Step] = []
    if spec.wrap.normalize_actions:
        steps = [Step(op="Sub", value=action.mean), Step(op="Div", value=action.std)]
    steps += shaping
    if port.dtype != "float32":
        steps.append(Step(op="Cast", value=port.dtype))
    return action, tuple(steps)


def _fit_prediction(
    file: GraphFile,
    output: Port,
    raw: NDArray[Any],
    spec: ImportSpec,
    history: int,
    latent: LatentSpec,
) -> tuple[Step, ...]:
    wanted = (latent.tokens, latent.dim)
    shape = raw.shape[1:]
    steps = cast_output(file, output, raw)
    if shape == wanted and not spec.wrap.last_step:
        return steps
    if shape in ((history, *wanted), (history, *wanted[1:])) and (
        spec.wrap.last_step or history == 1
    ):
        steps = (*steps, Step(op="Gather", value=-1))
        shape = shape[1:]
    elif shape[:1] == (history,) and shape[1:] in (wanted, wanted[1:]):
        raise ExportError(
            f"{file.path} gives {output.name} of shape {raw.shape}, one latent per step, expected "
            f"(B, {wanted[0]}, {wanted[1]}); if the last one is the prediction, set "
            "[wrap] last_step = true"
        )
    if (
        int(np.prod(shape)) != latent.size
        or len(shape) > 2
        or shape[-1]
        not in (
            latent.dim,
            latent.size,
        )
    ):
        raise ExportError(
            f"{file.path} gives {output.name} of shape {raw.shape}, expected "
            f"(B, {wanted[0]}, {wanted[1]}), the encoder's latent; pass the predictor that belongs "
            "to this encoder, in the encoder's space"
        )
    return steps if shape == wanted else (*steps, Step(op="Reshape", value=(0, *wanted)))
