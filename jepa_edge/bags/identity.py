# SPDX-License-Identifier: Apache-2.0
"""Whether a replay judges with what judged then: bundle, variant, calibration, runtime, machine."""

from __future__ import annotations

from typing import Any

import msgspec

from jepa_edge.bags.compare import FieldDifference, differing
from jepa_edge.bags.recorded import Run
from jepa_edge.errors import printable
from jepa_edge.flags import Reason
from jepa_edge.monitor import Monitor
from jepa_edge.nodes.messages import header, model_info_message
from jepa_edge.ros_types import Make
from jepa_edge.session_config import SessionConfig
from jepa_edge.world_model import WorldModel

SAME_FLAGS = (
    "variant",
    "manifest_sha256",
    "variant_sha256",
    "calibration_sha256",
    "caution_threshold",
    "reject_threshold",
)
"""Fields of ModelInfo that must agree, or the flags are another model's."""

SAME_NUMBERS = ("runtime", "device_class")
"""Fields that must agree for numbers to be the same to the last bit."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's ModelInfo says against what is loaded here.

    known: whether the bag holds a ModelInfo of the run. differing: fields that must agree for the
    flags to be this model's; numbers: fields that must agree for the last bits.
    """

    known: bool
    differing: tuple[FieldDifference, ...] = ()
    numbers: tuple[FieldDifference, ...] = ()


def compare_identity(make: Make, run: Run, model: WorldModel, monitor: Monitor | None) -> Identity:
    """Hold a run's ModelInfo against a loaded model."""
    if run.info is None:
        return Identity(known=False)
    here = model_info_message(make, model, monitor, header(make, 0, ""), limits=SessionConfig())
    return Identity(
        known=True,
        differing=differing(run.info, here, SAME_FLAGS),
        numbers=differing(run.info, here, SAME_NUMBERS),
    )


def was_uncalibrated(run: Run) -> bool:
    """Whether a run was made without a calibration."""
    return all(Reason.UNCALIBRATED in flag.reasons for flag in run.flags.values())


def disarmed_reason(run: Run) -> str:
    """Why a run's machine was not armed; empty if it was."""
    if not any(Reason.NOT_ARMED in flag.reasons for flag in run.flags.values()):
        return ""
    told: Any = "" if run.info is None else run.info.armed_reason
    return printable(str(told)) or "the recorded flags say so"
