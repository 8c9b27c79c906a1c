# SPDX-License-Identifier: Apache-2.0
"""A TensorRT predictor for the CUDA planner: who may be one. Running it needs a GPU."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from jepa_edge.errors import BundleError, InputError
from jepa_edge.trt.rollout import TensorRTRollout, tensorrt_rollout
from jepa_edge.world_model import WorldModel

from ..passive_world import make_passive_bundle


def test_a_model_on_the_cpu_is_refused(linear_bundle: Path) -> None:
    model = WorldModel.load(linear_bundle)
    with pytest.raises(BundleError, match="load it with provider tensorrt"):
        tensorrt_rollout(model, 300)


def test_a_model_without_actions_is_refused(tmp_path: Path) -> None:
    model = WorldModel.load(make_passive_bundle(tmp_path / "passive.jepa"))
    with pytest.raises(InputError, match="takes no actions"):
        tensorrt_rollout(model, 300)


def test_a_call_is_what_the_planners_binding_makes() -> None:
    """csrc/bindings/cuda/rollout.cpp calls it with integers."""
    parameters = list(inspect.signature(TensorRTRollout.__call__).parameters)
    assert parameters == ["self", "history", "actions", "out", "rows", "stream"]
    binding = Path(__file__).parents[2] / "csrc/bindings/cuda/rollout.cpp"
    call = "enqueue(address(history), address(actions), address(out), rows, address(stream))"
    assert call in binding.read_text()
