# SPDX-License-Identifier: Apache-2.0
"""A LeWorldModel as it is exported: every precision passes TensorRT's parser and compiler."""

from __future__ import annotations

import pytest

from jepa_edge.bundle import Bundle
from jepa_edge.export.exporter import export_bundle
from jepa_edge.export.families.lewm import LeWM, LeWMConfig
from jepa_edge.export.families.lewm_checkpoint import save_checkpoint
from jepa_edge.export.options import ExportOptions
from jepa_edge.manifest import ActionSpec, ObservationSpec
from jepa_edge.recording import RecordingInfo, RecordingWriter
from jepa_edge.trt.dry_run import DryRow, dry_run

from ..export.conftest import ACTION_MEAN, ACTION_STD, MEAN, STD, drawn_episode, randomize

SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "encoder_dim": 48,
    "encoder_depth": 2,
    "encoder_heads": 2,
    "encoder_mlp_dim": 96,
    "latent_dim": 24,
    "projector_dim": 64,
    "predictor_dim": 32,
    "predictor_depth": 2,
    "predictor_heads": 2,
    "predictor_dim_head": 16,
    "predictor_mlp_dim": 64,
    "history": 3,
    "action_dim": 4,
    "action_smoothed_dim": 4,
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small model in two precisions."""
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path_factory.mktemp("lewm")
    model = LeWM(LeWMConfig(**SIZES))
    randomize(model, seed=5)
    save_checkpoint(
        path / "model",
        model.eval(),
        observation=ObservationSpec(height=32, width=32, mean=MEAN, std=STD, rate_hz=5.0),
        action=ActionSpec(dim=4, block=2, mean=ACTION_MEAN, std=ACTION_STD),
    )
    with RecordingWriter(path / "runs", RecordingInfo(rate_hz=5.0, action_dim=4)) as writer:
        for seed in range(12):
            writer.add(drawn_episode(seed))
    options = ExportOptions(
        precisions=("int8",),
        calibration_data=path / "runs",
        calibration_frames=48,
        tuning_frames=16,
        held_out_frames=32,
    )
    export_bundle(path / "model", path / "x.jepa", options)
    return Bundle.open(path / "x.jepa")


@pytest.fixture(scope="module")
def rows(bundle: Bundle) -> dict[tuple[str, str], DryRow]:
    """What the dry run found, by variant and graph."""
    return {(row.variant, row.graph): row for row in dry_run(bundle, candidates=300).rows}


@pytest.fixture
def realized(bundle: Bundle) -> dict[str, dict[str, int]]:
    """Weighted operators by precision, as the exporter counted them in the ONNX files."""
    return {name: spec.realized for name, spec in bundle.manifest.variants.items()}


def test_every_graph_in_every_precision_is_built(rows: dict[tuple[str, str], DryRow]) -> None:
    assert set(rows) == {
        (variant, graph) for variant in ("fp32", "int8") for graph in ("encoder", "predictor")
    }
    assert [row.refused for row in rows.values() if row.refused] == []


def test_the_network_has_the_precision_that_was_exported(
    rows: dict[tuple[str, str], DryRow], realized: dict[str, dict[str, int]]
) -> None:
    attention = 2 * 2  # products of two blocks, whose operands are both activations
    for variant, counts in realized.items():
        found: dict[str, int] = {}
        for graph in ("encoder", "predictor"):
            for precision, count in rows[variant, graph].precisions.items():
                found[precision] = found.get(precision, 0) + count
        assert found == counts | {"fp32": counts.get("fp32", 0) + 2 * attention}
