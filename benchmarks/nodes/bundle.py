# SPDX-License-Identifier: Apache-2.0
"""A calibrated bundle of full size with drawn weights: for times, not for what it sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from export_full_size import MEAN, RATE_HZ, STD, draw_frames, draw_model, write_recording

from jepa_edge.calibration.calibrate import calibrate_bundle
from jepa_edge.calibration.options import CalibrateOptions
from jepa_edge.export.exporter import ExportOptions, export_bundle
from jepa_edge.export.families.lewm import LeWMConfig
from jepa_edge.export.families.lewm_checkpoint import save_checkpoint
from jepa_edge.manifest import ActionSpec, ObservationSpec

EPISODES = 40


def full_size_bundle(folder: Path) -> Path:
    """Return folder/full.jepa: LeWM at 224 pixels, fp32, calibrated on drawn runs; made if missing.

    Its runs are in folder/runs.
    """
    bundle = folder / "full.jepa"
    if bundle.is_dir():
        return bundle
    config = LeWMConfig()
    write_recording(folder / "runs", config, EPISODES, 0)
    rng = np.random.default_rng(1)
    frames = np.concatenate([draw_frames(rng, 4, config.image_size) for _ in range(16)])
    side = config.image_size
    save_checkpoint(
        folder / "checkpoint",
        draw_model(config, frames, 0),
        observation=ObservationSpec(height=side, width=side, mean=MEAN, std=STD, rate_hz=RATE_HZ),
        action=ActionSpec(dim=10, block=5, mean=(0.0,) * 10, std=(1.0,) * 10),
    )
    export_bundle(
        folder / "checkpoint",
        bundle,
        ExportOptions(calibration_data=folder / "runs", precisions=("fp32",)),
    )
    calibrate_bundle(bundle, folder / "runs", CalibrateOptions(alpha=0.1, selftest_episodes=0))
    return bundle
