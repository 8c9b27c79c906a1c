# SPDX-License-Identifier: Apache-2.0
"""Parameters of the safety gate, and what its logic makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from jepa_edge.nodes.gate_commands import JOINT_TRAJECTORY, TWIST, TWIST_STAMPED
from jepa_edge.nodes.gate_logic import MAX_VALID_FOR_S, GateLimits
from jepa_edge.nodes.parameters import Parameter, Value
from jepa_edge.nodes.qos import PROFILES

COMMAND_TYPES = {
    "geometry_msgs/Twist": TWIST,
    "geometry_msgs/TwistStamped": TWIST_STAMPED,
    "trajectory_msgs/JointTrajectory": JOINT_TRAJECTORY,
}
"""What command_type may be, and the type's full name."""

PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        name="command_type",
        default="geometry_msgs/Twist",
        description="Type of cmd_in and cmd_out.",
        choices=tuple(COMMAND_TYPES),
    ),
    Parameter(
        name="caution_scale",
        default=0.5,
        description="Factor on the speed while the flag is CAUTION: linear, or of a trajectory. "
        "0 stops.",
        low=0.0,
        high=1.0,
    ),
    Parameter(
        name="caution_angular_scale",
        default=0.5,
        description="Factor on the angular speed while the flag is CAUTION.",
        low=0.0,
        high=1.0,
    ),
    Parameter(
        name="resume_ramp_s",
        default=0.5,
        description="The speed rises no faster than from 0, where a stop ends, to full in this "
        "time, s; 0 for at once. Trajectories begin at rest by themselves and have no ramp.",
        low=0.0,
        high=60.0,
    ),
    Parameter(
        name="max_valid_for_s",
        default=MAX_VALID_FOR_S,
        description="No flag is believed longer than this, whatever its valid_for says, s.",
        low=0.01,
        high=60.0,
    ),
    Parameter(
        name="command_timeout_s",
        default=0.5,
        description="Without a command for this long the robot is stopped, s, and a TwistStamped "
        "of that age is none; 0 for never. A trajectory ends by itself and has no time-out.",
        low=0.0,
        high=3600.0,
    ),
    Parameter(
        name="stop_rate_hz",
        default=20.0,
        description="How often the safe command is published during a stop, Hz; a hold no more "
        "often than every two hold_time_s, so that a controller can finish one.",
        low=1.0,
        high=100.0,
    ),
    Parameter(
        name="joints",
        default=(),
        description="Joints that a hold names; empty for all that moved since the last hold.",
    ),
    Parameter(
        name="joint_state_timeout_s",
        default=0.2,
        description="An older joint state is no place to hold, s.",
        low=0.01,
        high=10.0,
    ),
    Parameter(
        name="hold_time_s",
        default=0.2,
        description="Time in which the joints have to be back where they were measured, s.",
        low=0.01,
        high=10.0,
    ),
    Parameter(
        name="input_qos",
        default="RELIABLE",
        description="QoS of cmd_in.",
        choices=tuple(PROFILES),
    ),
    Parameter(
        name="output_qos",
        default="RELIABLE",
        description="QoS of cmd_out.",
        choices=tuple(PROFILES),
    ),
)


def command_type(values: Mapping[str, Value]) -> str:
    """Return the full name of the commands' type."""
    return COMMAND_TYPES[cast(str, values["command_type"])]


def limits(values: Mapping[str, Value]) -> GateLimits:
    """Return the logic's settings. A trajectory has neither a ramp nor a time-out.

    Controllers begin a trajectory where the arm is: holds that replace one another all the time
    would give way to its weight.
    """
    linear, angular = number(values, "caution_scale"), number(values, "caution_angular_scale")
    arm = command_type(values) == JOINT_TRAJECTORY
    stop_period_ns = round(1e9 / number(values, "stop_rate_hz"))
    return GateLimits(
        caution=(linear, linear if arm else angular),
        max_valid_for_ns=nanoseconds(values, "max_valid_for_s"),
        command_timeout_ns=0 if arm else nanoseconds(values, "command_timeout_s"),
        resume_ramp_ns=0 if arm else nanoseconds(values, "resume_ramp_s"),
        stop_period_ns=(
            max(stop_period_ns, 2 * nanoseconds(values, "hold_time_s")) if arm else stop_period_ns
        ),
    )


def number(values: Mapping[str, Value], name: str) -> float:
    """Return a parameter that is a double."""
    return cast(float, values[name])


def nanoseconds(values: Mapping[str, Value], name: str) -> int:
    """Return a parameter in seconds as nanoseconds."""
    return round(1e9 * number(values, name))
