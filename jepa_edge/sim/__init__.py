# SPDX-License-Identifier: Apache-2.0
"""Simulators that act as a robot: real physics from third-party packages, faults on request."""

from jepa_edge.sim.faults import FaultKind
from jepa_edge.sim.policy import ScriptedPolicy
from jepa_edge.sim.pusht import PushTSim, goal_state
from jepa_edge.sim.record import record_pusht, warm_up

__all__ = [
    "FaultKind",
    "PushTSim",
    "ScriptedPolicy",
    "goal_state",
    "record_pusht",
    "warm_up",
]
