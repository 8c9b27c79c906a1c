# SPDX-License-Identifier: Apache-2.0
"""Recorded runs of a little colored world, and a bundle that was calibrated on them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_edge.calibration import CalibrateOptions, CalibrationReport, calibrate_bundle
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter

SIZE, ACTION, STEPS = 8, 4, 16
OPTIONS = CalibrateOptions(variant="fp32", alpha=0.1, hidden=16, rank=2, members=3, samples=8)


def record(path: Path, episodes: int, seed: int, frozen_from: int | None = None) -> Path:
    """Frames of one color that the action drives. frozen_from: the frame repeats from there on."""
    rng = np.random.default_rng(seed)
    info = RecordingInfo(rate_hz=5.0, action_dim=ACTION)
    with RecordingWriter(path, info) as writer:
        for index in range(episodes):
            actions = rng.uniform(156.0, 356.0, (STEPS, ACTION)).astype(np.float32)
            color = rng.uniform(80.0, 180.0, 3)
            frames = np.empty((STEPS + 1, SIZE, SIZE, 3), np.uint8)
            for step in range(STEPS + 1):
                if frozen_from is not None and step >= frozen_from:
                    frames[step] = frames[frozen_from - 1]
                else:
                    frames[step] = np.clip(color, 0.0, 255.0).astype(np.uint8)
                if step < STEPS:
                    push = 0.3 * (actions[step, :3] - 256.0)
                    color = 128.0 + 0.7 * (color - 128.0) + push + rng.normal(0.0, 3.0, 3)
            writer.add(
                Episode(
                    name=str(index),
                    frames=frames,
                    actions=actions,
                    stamps_s=np.arange(STEPS + 1) / 5.0,
                )
            )
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A calibrated bundle, its report, and the recording that it was made from."""

    bundle: Path
    report: CalibrationReport
    data: Path


@pytest.fixture(scope="session")
def nominal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 nominal episodes."""
    return record(tmp_path_factory.mktemp("data") / "nominal", 80, seed=1)


@pytest.fixture(scope="session")
def _cache() -> dict[str, Calibrated]:
    return {}


@pytest.fixture
def calibrated(
    linear_bundle: Path,
    nominal: Path,
    _cache: dict[str, Calibrated],
    tmp_path_factory: pytest.TempPathFactory,
) -> Calibrated:
    """A calibrated bundle, free to be damaged; calibrated once, copied for every test."""
    if not _cache:
        torch.set_num_threads(1)
        keep = tmp_path_factory.mktemp("calibrated") / "linear.jepa"
        shutil.copytree(linear_bundle, keep)
        report = calibrate_bundle(keep, nominal, OPTIONS)
        _cache["fp32"] = Calibrated(bundle=keep, report=report, data=nominal)
    kept = _cache["fp32"]
    shutil.rmtree(linear_bundle)
    shutil.copytree(kept.bundle, linear_bundle)
    return Calibrated(bundle=linear_bundle, report=kept.report, data=kept.data)
