# SPDX-License-Identifier: Apache-2.0
"""What parity measures, against SciPy and against distortions of known size."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from jepa_edge.export.data import Windows, split_recording
from jepa_edge.export.families.lewm import LeWM
from jepa_edge.export.families.lewm_reference import LeWMReference
from jepa_edge.export.parity import HeldOut, compare_variants, judge, spearman
from jepa_edge.manifest import ActionSpec, ObservationSpec
from jepa_edge.recording import Recording


@pytest.mark.parametrize("levels", [3, 10_000])
def test_rank_correlation_is_scipys(levels: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(levels)
    for _ in range(20):
        a = rng.integers(0, levels, 30).astype(float)
        b = a + rng.integers(0, levels, 30)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_rank_correlation_of_constants() -> None:
    flat, slope = np.ones(5), np.arange(5.0)
    assert spearman(flat, flat) == 1.0
    assert spearman(flat, slope) == 0.0
    assert spearman(slope, np.exp(slope)) == 1.0
    assert spearman(slope, -slope) == -1.0


@pytest.fixture(scope="module")
def held_out(
    export_model: LeWM,
    export_specs: tuple[ObservationSpec, ActionSpec],
    export_recording: Path,
) -> HeldOut:
    """What torch says about 24 windows."""
    data = split_recording(
        Recording(export_recording), 3, calibration=8, tuning=8, held_out=24, seed=0
    )
    observation, action = export_specs
    reference = LeWMReference(model=export_model, observation=observation, action=action)
    return judge(data.held_out, reference, seed=0)


def _scaled_output(model: Any, factor: float) -> Any:
    """The graph with its output multiplied by a factor."""
    scaled = copy.deepcopy(model)
    name = scaled.graph.output[0].name
    for node in scaled.graph.node:
        node.output[:] = ["unscaled" if output == name else output for output in node.output]
    scaled.graph.initializer.append(numpy_helper.from_array(np.float32([factor]), "factor"))
    scaled.graph.node.append(helper.make_node("Mul", ["unscaled", "factor"], [name]))
    return scaled


def test_a_distortion_of_known_size_is_measured_as_such(
    export_onnx: dict[str, Any], held_out: HeldOut, tmp_path: Path
) -> None:
    files = {}
    for name, factor in (("fp32", 1.0), ("int8", 1.1)):
        encoder = _scaled_output(export_onnx["encoder"], factor)
        graphs = {"encoder": encoder, "predictor": export_onnx["predictor"]}
        files[name] = {part: tmp_path / f"{name}_{part}.onnx" for part in graphs}
        for part, graph in graphs.items():
            onnx.save(graph, files[name][part])
    parity = compare_variants(files, held_out)

    same = parity["fp32"]
    assert same.graph("encoder").sqnr_db > 80
    assert same.graph("predictor").sqnr_db > 80
    assert max(same.rollout_error) < 1e-4
    assert same.cost_rank_correlation == pytest.approx(1.0, abs=1e-3)
    assert same.graph("encoder").size_ratio == same.graph("encoder").latency_ratio == 1.0

    # Latents a tenth too long: the error is a tenth of their size, over their spread.
    latents = held_out.latents[:, -1, 0].astype(np.float64)
    error = np.sqrt(np.mean((0.1 * latents) ** 2) / np.mean((latents - latents.mean(0)) ** 2))
    off = parity["int8"]
    assert off.graph("encoder").sqnr_db == pytest.approx(-20 * np.log10(error), abs=0.01)
    assert off.graph("predictor").sqnr_db == same.graph("predictor").sqnr_db
    assert min(off.rollout_error) > 10 * max(same.rollout_error)
    assert off.cost_rank_correlation_worst <= off.cost_rank_correlation < 1.0
    assert off.graph("encoder").size_bytes == files["int8"]["encoder"].stat().st_size
    for graph in off.graphs:
        assert graph.latency_batch64_ms is not None
        assert 0 < graph.latency_ms < graph.latency_batch64_ms


def test_torch_rolls_out_from_the_history(held_out: HeldOut) -> None:
    windows: Windows = held_out.windows
    assert held_out.latents.shape == (24, 3, 1, 24)
    assert held_out.rollout.shape == (24, 5, 1, 24)
    np.testing.assert_allclose(held_out.rollout[:, 0], held_out.predictions, atol=1e-5)
    plans = held_out.plans
    assert plans is not None
    assert plans.candidates.shape == (8, 64, 7, 4)
    past = windows.actions[plans.starts][:, None, :2]
    np.testing.assert_array_equal(plans.candidates[:, :, :2], np.repeat(past, 64, axis=1))
    assert not np.any(plans.starts == plans.goals)
    assert plans.costs.shape == (8, 64)
    assert (plans.costs.std(axis=1) > 0).all()
