# SPDX-License-Identifier: Apache-2.0
"""Simulators that act as a robot: real physics from third-party packages, faults on request."""

from jepa_edge.sim.policy import ScriptedPolicy
from jepa_edge.sim.pusht import PushTSim, goal_state
from jepa_edge.sim.reacher import ReacherSim
from jepa_edge.sim.recorder import SIMULATORS, make_simulator, record
from jepa_edge.sim.simulator import FaultySimulator, Robot, Simulator, warm_up

__all__ = [
    "SIMULATORS",
    "FaultySimulator",
    "PushTSim",
    "ReacherSim",
    "Robot",
    "ScriptedPolicy",
    "Simulator",
    "goal_state",
    "make_simulator",
    "record",
    "warm_up",
]
