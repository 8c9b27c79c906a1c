# SPDX-License-Identifier: Apache-2.0
"""Faults for simulators, recordings and live streams; numpy only, so that robots can use them."""

from jepa_edge.faults.actuator import ActionScale, ActuatorFilter
from jepa_edge.faults.camera import CameraFilter
from jepa_edge.faults.library import FAULTS, Fault, FaultKind, Injection, parse_fault
from jepa_edge.faults.recorded import inject_recorded, inject_recording

__all__ = [
    "FAULTS",
    "ActionScale",
    "ActuatorFilter",
    "CameraFilter",
    "Fault",
    "FaultKind",
    "Injection",
    "inject_recorded",
    "inject_recording",
    "parse_fault",
]
