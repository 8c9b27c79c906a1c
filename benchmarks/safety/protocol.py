# SPDX-License-Identifier: Apache-2.0
"""What PROTOCOL.md fixes, as numbers: they were written down before a held-out fault was run."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
ALPHA = 0.05
COVERAGE_ALPHA = 0.1
SEEDS = (1, 2, 3, 4, 5)
STEPS = 40
ONSET = 15
CALIBRATION_EPISODES = 600
CONFORMAL_EPISODES = 300
NOMINAL_EPISODES = 400
FAULT_EPISODES = 40
VARIANTS = ("fp32", "int8")
ROBOTS = {
    "pusht": ROOT / "examples/pusht/model",
    "reacher": ROOT / "examples/reacher/model",
}

DEVELOPMENT = ("occlusion", "blur", "freeze", "exposure", "stuck", "bias", "delay", "friction")
"""Kinds that channels may be looked at with."""

HELD_OUT_INJECTED = (
    "salt:0.05",
    "salt:0.01",
    "shift:0.08",
    "shift:0.03",
    "rotation:6.0",
    "rotation:2.0",
    "lag:2.0",
    "lag:1.0",
    "ghost:0.3",
    "ghost:0.12",
)
"""Camera faults, put into the recorded nominal test episodes: the library's default, and weaker."""

HELD_OUT_SIMULATED = ("gain:0.7", "gain:0.9", "inverted", "dead_axis", "mass:3.0", "mass:2.0")
"""Actuator and dynamics faults, simulated: default, and weaker."""

SHIFTED = ("friction:0.9", "gain:0.7")
"""Simulated conditions for spread against error under a shift."""


def calibration_seed(seed: int) -> int:
    """Seed of the recording that a calibration is made on."""
    return 10_000 + seed


def nominal_seed(seed: int) -> int:
    """Seed of the nominal test recording."""
    return 20_000 + seed


def fault_seed(seed: int) -> int:
    """Seed of the simulated faulty recordings."""
    return 30_000 + seed
