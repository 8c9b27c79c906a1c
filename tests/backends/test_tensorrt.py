# SPDX-License-Identifier: Apache-2.0
"""The TensorRT backend without a GPU: shapes, number types, names of the API, and errors."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jepa_edge.backends import tensorrt, tensorrt_engine
from jepa_edge.backends.tensorrt_engine import (
    Tensor,
    batch_of,
    bfloat16_bits,
    pick_profile,
    to_float32,
    to_memory,
)
from jepa_edge.errors import BundleError
from jepa_edge.trt import rollout

FLOATS = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32))


def tensor(
    name: str, *spans: tuple[tuple[int, ...], tuple[int, ...]], kind: str = "FLOAT"
) -> Tensor:
    """An input with (smallest, largest) shape per profile."""
    return Tensor(
        name=name,
        kind=kind,
        low=tuple(low for low, _ in spans),
        high=tuple(high for _, high in spans),
    )


@settings(deadline=None)  # the first example imports torch
@given(FLOATS)
def test_bfloat16_is_torchs(values: Any) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()
    output = tensor("y", ((1,), (1,)), kind="BF16")
    np.testing.assert_array_equal(to_float32(bfloat16_bits(values), output), expected)


def test_inputs_are_converted_as_the_engine_wants_them() -> None:
    half = tensor("x", ((1, 2), (4, 2)), kind="HALF")
    assert to_memory(np.ones((1, 2), np.float32), half).dtype == np.float16
    index = tensor("visible", ((3,), (3,)), kind="INT32")
    assert to_memory(np.arange(3), index).dtype == np.int32
    pixels = tensor("frames", ((1, 2), (4, 2)), kind="UINT8")
    with pytest.raises(BundleError, match="frames is float32, the engine takes uint8"):
        to_memory(np.ones((1, 2), np.float32), pixels)
    np.testing.assert_array_equal(
        to_float32(np.array([1.5, -2.0], np.float16), half), np.array([1.5, -2.0], np.float32)
    )


def test_the_tightest_profile_that_takes_all_rows_is_chosen() -> None:
    inputs = {"x": tensor("x", ((1, 5), (1, 5)), ((1, 5), (8, 5)), ((1, 5), (300, 5)))}
    assert pick_profile(inputs, {"x": (1, 5)}, 1) == (0, 1)
    assert pick_profile(inputs, {"x": (2, 5)}, 2) == (1, 2)
    assert pick_profile(inputs, {"x": (9, 5)}, 9) == (2, 9)


@given(st.integers(1, 2000))
def test_a_batch_beyond_the_largest_profile_is_taken_in_parts(batch: int) -> None:
    inputs = {"x": tensor("x", ((1, 5), (8, 5)), ((1, 5), (300, 5)))}
    left, parts = batch, []
    while left:
        picked = pick_profile(inputs, {"x": (batch, 5)}, left)
        assert picked is not None
        profile, taken = picked
        assert 1 <= taken <= (8, 300)[profile]
        parts.append(taken)
        left -= taken
    assert sum(parts) == batch
    assert len(parts) == -(-batch // 300)


def test_token_lists_choose_among_profiles_and_are_no_batch() -> None:
    inputs = {
        "frames": tensor("frames", ((1, 4), (8, 4)), ((1, 4), (8, 4)), kind="UINT8"),
        "visible": tensor("visible", ((9,), (9,)), ((4,), (4,)), kind="INT64"),
    }
    assert pick_profile(inputs, {"frames": (2, 4), "visible": (9,)}, 2) == (0, 2)
    assert pick_profile(inputs, {"frames": (2, 4), "visible": (4,)}, 2) == (1, 2)
    assert pick_profile(inputs, {"frames": (2, 4), "visible": (5,)}, 2) is None
    assert pick_profile(inputs, {"frames": (2, 4, 1), "visible": (9,)}, 2) is None
    assert batch_of({"frames": (2, 4), "visible": (9,)}, inputs) == 2


def test_inputs_of_different_batches_are_refused() -> None:
    inputs = {name: tensor(name, ((1, 4), (8, 4))) for name in ("history", "actions")}
    with pytest.raises(BundleError, match="expected one batch size"):
        batch_of({"history": (2, 4), "actions": (3, 4)}, inputs)
    with pytest.raises(BundleError, match="1 or more"):
        batch_of({"history": (0, 4), "actions": (0, 4)}, inputs)


def _attributes(module: Any, *owners: str) -> set[str]:
    """Names that a module reads of objects with one of these names: `context.infer_shapes`."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
            if name in owners:
                found.add(node.attr)
    return found


def test_every_name_of_tensorrt_that_is_used_exists_in_tensorrt_rtx() -> None:
    """Its Python API is TensorRT 10's and 11's; only the module has another name."""
    trt = pytest.importorskip("tensorrt_rtx")
    engine = _attributes(tensorrt_engine, "_engine") | _attributes(tensorrt_engine, "engine")
    context = _attributes(tensorrt_engine, "context", "made")
    runtime = _attributes(tensorrt_engine, "_runtime")
    old = {"device_memory_size", "device_memory"}  # read only where the newer names are missing
    assert {"deserialize_cuda_engine", "DLA_core"} <= runtime
    assert {"get_tensor_profile_shape", "num_io_tensors", "create_execution_context"} <= engine
    assert {"execute_async_v3", "set_tensor_address", "set_input_shape"} <= context
    for owner, names in (
        (trt.Runtime, runtime),
        (trt.ICudaEngine, engine),
        (trt.IExecutionContext, context),
    ):
        for name in names - old:
            assert hasattr(owner, name), f"{owner.__name__}.{name}"
    for name in ("INPUT", "OUTPUT"):
        assert hasattr(trt.TensorIOMode, name)
    assert hasattr(trt.TensorLocation, "DEVICE")
    assert hasattr(trt.ExecutionContextAllocationStrategy, "USER_MANAGED")
    kinds = set(tensorrt_engine._DTYPES)
    assert kinds <= set(trt.DataType.__members__)
    assert _attributes(rollout, "context") == set()  # it goes through LoadedEngine
    assert _attributes(tensorrt, "context") == set()


@pytest.mark.parametrize("kind", [k for k in tensorrt_engine._DTYPES if k != "BF16"])
def test_number_types_are_as_wide_as_tensorrts(kind: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    expected = np.dtype(trt.nptype(getattr(trt.DataType, kind)))
    assert tensor("x", ((1,), (1,)), kind=kind).dtype == expected
