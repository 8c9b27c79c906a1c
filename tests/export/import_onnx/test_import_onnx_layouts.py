# SPDX-License-Identifier: Apache-2.0
"""Predictors with other axes than the run time's: each is bridged to the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jepa_edge.errors import InputError
from jepa_edge.export.import_onnx import ImportOptions, import_onnx
from jepa_edge.world_model import WorldModel

_STEPS, _DIM, _ACTION = 2, 6, 4
_SPEC = """
[observation]
rate_hz = 5.0
[model]
{model}
[action]
dim = 4
block = 2
mean = [0.0, 0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0, 1.0]
"""


def _save(
    path: Path,
    inputs: dict[str, list[Any]],
    nodes: list[Any],
    output: list[Any],
    constants: dict[str, NDArray[np.generic]],
) -> None:
    graph = helper.make_graph(
        nodes,
        "predictor",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("next", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


def _import(bundle: Path, predictor: Path, model: str = "history = 2") -> WorldModel:
    spec, out = predictor.with_suffix(".toml"), predictor.with_suffix(".jepa")
    spec.write_text(_SPEC.format(model=model))
    options = ImportOptions(encoder=bundle / "encoder.onnx", predictor=predictor, spec=spec)
    import_onnx(out, options)
    return WorldModel.load(out)


@pytest.mark.parametrize(
    "past", [[_STEPS, 1, _DIM], [_STEPS, _DIM], [_STEPS * _DIM]], ids=["tokens", "rows", "flat"]
)
@pytest.mark.parametrize(
    "taken", [[_STEPS, _ACTION], [_STEPS * _ACTION], [_ACTION]], ids=["steps", "flat", "newest"]
)
def test_every_layout_gives_the_same_numbers(
    linear_bundle: Path, tmp_path: Path, past: list[int], taken: list[int]
) -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(size=(_STEPS * _DIM, _DIM)).astype(np.float32)
    second = rng.normal(size=(int(np.prod(taken)), _DIM)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["x_row"], axis=1),
        helper.make_node("Flatten", ["u"], ["u_row"], axis=1),
        helper.make_node("MatMul", ["x_row", "first"], ["x_part"]),
        helper.make_node("MatMul", ["u_row", "second"], ["u_part"]),
        helper.make_node("Add", ["x_part", "u_part"], ["next"]),
    ]
    path = tmp_path / "p.onnx"
    constants = {"first": first, "second": second}
    _save(path, {"x": ["b", *past], "u": ["b", *taken]}, nodes, ["b", _DIM], constants)
    model = _import(linear_bundle, path)
    history = rng.normal(size=(3, _STEPS, 1, _DIM)).astype(np.float32)
    actions = rng.normal(size=(3, _STEPS, _ACTION)).astype(np.float32)
    given = actions[:, -1] if taken == [_ACTION] else actions.reshape(3, -1)
    expected = history.reshape(3, -1) @ first + given @ second
    np.testing.assert_allclose(
        model.predict(history, actions)[:, 0], expected, rtol=1e-4, atol=1e-5
    )


def test_a_window_of_any_length_stays_one(linear_bundle: Path, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["history"], ["past"], axes=[1], keepdims=0),
        helper.make_node("ReduceMean", ["actions"], ["push"], axes=[1, 2], keepdims=1),
        helper.make_node("Add", ["past", "push"], ["next"]),
    ]
    path = tmp_path / "p.onnx"
    inputs: dict[str, list[Any]] = {
        "history": ["b", "t", 1, _DIM],
        "actions": ["b", "t", _ACTION],
    }
    _save(path, inputs, nodes, ["b", 1, _DIM], {})
    with pytest.raises(InputError, match=r"lacks history.*any number of latents"):
        _import(linear_bundle, path, model="")
    model = _import(linear_bundle, path, model="history = 4\nmin_history = 1")
    rng = np.random.default_rng(2)
    for steps in (1, 2, 4):
        history = rng.normal(size=(2, steps, 1, _DIM)).astype(np.float32)
        actions = rng.normal(size=(2, steps, _ACTION)).astype(np.float32)
        expected = history.mean(axis=1) + actions.mean(axis=(1, 2))[:, None, None]
        np.testing.assert_allclose(model.predict(history, actions), expected, rtol=1e-4, atol=1e-5)


def test_a_latent_variable_of_its_own_is_named_z(linear_bundle: Path, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["history"], ["past"], axes=[1], keepdims=0),
        helper.make_node("ReduceMean", ["actions"], ["push"], axes=[1, 2], keepdims=1),
        helper.make_node("ReduceMean", ["z"], ["noise"], axes=[1], keepdims=1),
        helper.make_node("Unsqueeze", ["noise", "one"], ["noises"]),
        helper.make_node("Add", ["past", "push"], ["mean"]),
        helper.make_node("Add", ["mean", "noises"], ["next"]),
    ]
    inputs: dict[str, list[Any]] = {
        "history": ["b", _STEPS, 1, _DIM],
        "actions": ["b", _STEPS, _ACTION],
        "z": ["b", 5],
    }
    path = tmp_path / "p.onnx"
    _save(path, inputs, nodes, ["b", 1, _DIM], {"one": np.array([1], np.int64)})
    model = _import(linear_bundle, path)
    assert model.z_dim == 5
    history = np.ones((2, _STEPS, 1, _DIM), np.float32)
    actions = np.zeros((2, _STEPS, _ACTION), np.float32)
    z = np.full((2, 5), 0.5, np.float32)
    np.testing.assert_allclose(model.predict(history, actions, z), 1.5, rtol=1e-6)
