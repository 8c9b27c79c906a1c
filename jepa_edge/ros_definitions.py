# SPDX-License-Identifier: Apache-2.0
"""Service types of ROS 2 Jazzy that rosbags, which knows messages only, does not bring.

Field for field as in std_srvs, rcl_interfaces, lifecycle_msgs and action_msgs (Apache-2.0,
BSD-3-Clause), without their comments.
"""

from __future__ import annotations

SERVICES: dict[str, str] = {
    "std_srvs/srv/Trigger": "---\nbool success\nstring message\n",
    "rcl_interfaces/srv/DescribeParameters": (
        "string[] names\n---\nParameterDescriptor[] descriptors\n"
    ),
    "rcl_interfaces/srv/GetParameters": "string[] names\n---\nParameterValue[] values\n",
    "rcl_interfaces/srv/GetParameterTypes": "string[] names\n---\nuint8[] types\n",
    "rcl_interfaces/srv/ListParameters": (
        "uint64 DEPTH_RECURSIVE=0\nstring[] prefixes\nuint64 depth\n---\n"
        "ListParametersResult result\n"
    ),
    "rcl_interfaces/srv/SetParameters": (
        "Parameter[] parameters\n---\nSetParametersResult[] results\n"
    ),
    "rcl_interfaces/srv/SetParametersAtomically": (
        "Parameter[] parameters\n---\nSetParametersResult result\n"
    ),
    "lifecycle_msgs/srv/ChangeState": "Transition transition\n---\nbool success\n",
    "lifecycle_msgs/srv/GetAvailableStates": "---\nState[] available_states\n",
    "lifecycle_msgs/srv/GetAvailableTransitions": (
        "---\nTransitionDescription[] available_transitions\n"
    ),
    "lifecycle_msgs/srv/GetState": "---\nState current_state\n",
    "action_msgs/srv/CancelGoal": (
        "GoalInfo goal_info\n---\n"
        "int8 ERROR_NONE=0\nint8 ERROR_REJECTED=1\nint8 ERROR_UNKNOWN_GOAL_ID=2\n"
        "int8 ERROR_GOAL_TERMINATED=3\nint8 return_code\nGoalInfo[] goals_canceling\n"
    ),
}
