# SPDX-License-Identifier: Apache-2.0
"""Write pinned.json: type hashes and CDR bytes as a real ROS 2 gives them.

Run where ROS 2 Jazzy and jepa_msgs are sourced, after a change to ros/jepa_msgs:

    source /opt/ros/jazzy/setup.bash && source install/setup.bash
    python3 tests/ros/pin.py

The values lie in the file too, as JSON, so that other implementations can build the same messages.
JSON knows no NaN: floats that are not finite are the strings "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

import json
import os
from array import array
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from ament_index_python.packages import get_package_share_directory
from rclpy.serialization import serialize_message

PINNED = Path(__file__).with_name("pinned.json")

STAMP = {"sec": 1_700_000_000, "nanosec": 987_654_321}
HEADER = {"stamp": STAMP, "frame_id": "front_camera_optical"}
UUID = {"uuid": list(range(16))}
FLAG = {
    "header": HEADER,
    "seq": 2**40 + 5,
    "level": 2,
    "raw_level": 1,
    "latched": True,
    "reasons": 16 | 32 | 16384,
    "confidence": 0.0625,
    "score": 3.25,
    "caution_threshold": 3.5,
    "reject_threshold": "Infinity",
    "ood_score": "NaN",
    "innovation": -1.5,
    "episode_steps": 77,
    "budget_period": 2,
    "episode": 3,
    "input_age": {"sec": 0, "nanosec": 12_000_000},
    "latency": {"sec": 0, "nanosec": 4_500_001},
    "valid_for": {"sec": -1, "nanosec": 300_000_000},
}
IMAGE = {
    "header": HEADER,
    "height": 2,
    "width": 3,
    "encoding": "rgb8",
    "is_bigendian": 0,
    "step": 9,
    "data": [0, 1, 2, 253, 254, 255, 128, 127, 64, 9, 8, 7, 6, 5, 4, 3, 2, 1],
}
ARRAY = {
    "layout": {
        "dim": [
            {"label": "horizon", "size": 2, "stride": 4},
            {"label": "a", "size": 2, "stride": 2},
        ],
        "data_offset": 0,
    },
    "data": [0.5, "NaN", -2.0, "-Infinity"],
}
TWIST = {
    "linear": {"x": 0.25, "y": -0.5, "z": "NaN"},
    "angular": {"x": 0.0, "y": 1e-300, "z": -3.0},
}
GOAL = {
    "goal_image": IMAGE,
    "goal_latent": [0.25, -0.75],
    "replans": 4,
    "goal_energy": 0.125,
    "deadline": {"sec": 1, "nanosec": 5},
}
RESULT = {
    "status": 2,
    "message": "flag is REJECT: résumé",
    "horizon": 2,
    "action_dim": 2,
    "actions": [1.0, 2.0, 3.0, 4.0],
    "best_energy": 0.5,
    "energy": "NaN",
    "replans": 7,
    "deadline_hit": True,
    "flag": FLAG,
}
FEEDBACK = {
    "stamp": STAMP,
    "replan": 3,
    "energy": 9.5,
    "best_energy": 0.25,
    "actions": [1.5, -1.5],
    "search_time": {"sec": 0, "nanosec": 33_000_000},
    "level": 3,
}

# In the order of the file. Odd string lengths and array sizes, so that alignment shows.
MESSAGES: dict[str, dict[str, Any]] = {
    "jepa_msgs/msg/ConfidenceFlag": FLAG,
    "jepa_msgs/msg/StateEmbedding": {
        "header": HEADER,
        "tokens": 1,
        "dim": 3,
        "latent": [0.1, "NaN", -3.0e38],
        "action": [256.0, 12.5, 0.0],
        "state": [],
        "flag": FLAG,
    },
    "jepa_msgs/msg/LatentPrediction": {
        "header": HEADER,
        "dt": {"sec": 0, "nanosec": 200_000_000},
        "horizon": 3,
        "tokens": 1,
        "dim": 2,
        "latent": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "action_dim": 1,
        "actions": [0.5, 0.25, 0.125],
        "aleatoric": [0.5, 0.75, 1.0],
        "epistemic": [0.1, 0.2, "NaN"],
        "spread": [0.6, 0.95, 1.5],
        "bound": [],
        "level": [1, 2, 0],
        "seq": 12,
    },
    "jepa_msgs/msg/ModelInfo": {
        "header": HEADER,
        "bundle": "pusht.jepa",
        "family": "lewm",
        "variant": "int8",
        "runtime": "onnxruntime 1.23",
        "device_class": "x86_64",
        "manifest_sha256": "ab" * 32,
        "variant_sha256": "cd" * 32,
        "calibration_sha256": "",
        "signed_by": "",
        "armed": False,
        "armed_reason": "no self-test passed here",
        "caution_alpha": 0.05,
        "reject_alpha": 0.01,
        "caution_threshold": "NaN",
        "reject_threshold": 5.25,
        "budget_steps": 120,
        "rate_hz": 5.0,
        "height": 64,
        "width": 64,
        "color": "rgb",
        "history": 3,
        "tokens": 1,
        "dim": 192,
        "action_dim": 4,
        "action_block": 2,
        "action_names": ["x", "", "höhe"],
        "action_units": "pixel",
        "horizon": 8,
    },
    "jepa_msgs/srv/ScoreActions_Request": {
        "candidates": 1,
        "horizon": 1,
        "actions": [0.5, 1.5, 2.5],
        "goal_image": {},
        "goal_latent": [1.0, "NaN"],
    },
    "jepa_msgs/srv/ScoreActions_Response": {
        "success": True,
        "message": "ok",
        "stamp": STAMP,
        "energies": [0.5, "Infinity"],
        "best": 0,
        "flag": FLAG,
    },
    "jepa_msgs/action/PlanLatent_Goal": GOAL,
    "jepa_msgs/action/PlanLatent_Result": RESULT,
    "jepa_msgs/action/PlanLatent_Feedback": FEEDBACK,
    "jepa_msgs/action/PlanLatent_SendGoal_Request": {"goal_id": UUID, "goal": GOAL},
    "jepa_msgs/action/PlanLatent_SendGoal_Response": {"accepted": True, "stamp": STAMP},
    "jepa_msgs/action/PlanLatent_GetResult_Request": {"goal_id": UUID},
    "jepa_msgs/action/PlanLatent_GetResult_Response": {"status": 4, "result": RESULT},
    "jepa_msgs/action/PlanLatent_FeedbackMessage": {"goal_id": UUID, "feedback": FEEDBACK},
    "sensor_msgs/msg/Image": IMAGE,
    "sensor_msgs/msg/JointState": {
        "header": HEADER,
        "name": ["shoulder", "elbow"],
        "position": [0.5, -1.5],
        "velocity": ["NaN"],
        "effort": [],
    },
    "std_msgs/msg/Float32MultiArray": ARRAY,
    "geometry_msgs/msg/Twist": TWIST,
    "geometry_msgs/msg/TwistStamped": {"header": HEADER, "twist": TWIST},
    "nav_msgs/msg/Odometry": {
        "header": HEADER,
        "child_frame_id": "base",
        "pose": {
            "pose": {"position": {"x": 1.0, "y": 2.0, "z": 3.0}, "orientation": {"w": 1.0}},
            "covariance": [0.25 * i for i in range(36)],
        },
        "twist": {"twist": TWIST, "covariance": ["NaN"] * 36},
    },
    "trajectory_msgs/msg/JointTrajectory": {
        "header": HEADER,
        "joint_names": ["a", "bc"],
        "points": [
            {"positions": [0.5, 1.5], "time_from_start": {"sec": 1, "nanosec": 2}},
            {"velocities": [0.25, "NaN"], "effort": [3.0]},
        ],
    },
    "diagnostic_msgs/msg/DiagnosticArray": {
        "header": HEADER,
        "status": [
            {
                "level": 2,
                "name": "/jepa_world_model: flag",
                "message": "REJECT",
                "hardware_id": "",
                "values": [{"key": "frame_rate_node", "value": "4.98"}],
            }
        ],
    },
    "visualization_msgs/msg/MarkerArray": {
        "markers": [
            {
                "header": HEADER,
                "ns": "jepa",
                "id": -7,
                "type": 9,
                "action": 0,
                "pose": {"position": {"x": 0.5}, "orientation": {"w": 1.0}},
                "scale": {"x": 1.0, "y": 1.0, "z": 0.1},
                "color": {"r": 1.0, "g": 0.5, "b": 0.0, "a": 1.0},
                "lifetime": {"sec": 1, "nanosec": 0},
                "points": [{"x": 1.0, "y": -1.0, "z": 0.0}],
                "text": "CAUTION",
            }
        ]
    },
    "std_srvs/srv/Trigger_Request": {},
    "std_srvs/srv/Trigger_Response": {"success": True, "message": "REJECT released"},
    "rosgraph_msgs/msg/Clock": {"clock": STAMP},
    "rcl_interfaces/srv/GetParameters_Request": {"names": ["bundle", "max_age_s"]},
    "rcl_interfaces/srv/SetParameters_Request": {
        "parameters": [
            {"name": "max_age_s", "value": {"type": 3, "double_value": 0.25}},
            {"name": "action_fields", "value": {"type": 9, "string_array_value": ["linear.x"]}},
        ]
    },
    "rcl_interfaces/srv/SetParameters_Response": {
        "results": [{"successful": False, "reason": "fixed while the node runs"}]
    },
    "rmw_dds_common/msg/ParticipantEntitiesInfo": {
        "gid": {"data": list(range(100, 116))},
        "node_entities_info_seq": [
            {
                "node_namespace": "/",
                "node_name": "jepa_world_model",
                "reader_gid_seq": [{"data": list(range(16))}],
                "writer_gid_seq": [],
            }
        ],
    },
}
WRAPPED = {  # parts of an action that rclpy keeps inside its implementation
    "SendGoal_Request": ("SendGoalService", "Request"),
    "SendGoal_Response": ("SendGoalService", "Response"),
    "GetResult_Request": ("GetResultService", "Request"),
    "GetResult_Response": ("GetResultService", "Response"),
    "FeedbackMessage": ("FeedbackMessage",),
}


def message_class(type_name: str) -> Any:
    """Return the class of a message, or of a part of a service or action."""
    package, kind, name = type_name.split("/")
    stem, _, part = name.partition("_")
    found = getattr(import_module(f"{package}.{kind}"), stem)
    if part in WRAPPED:
        found = found.Impl
        for step in WRAPPED[part]:
            found = getattr(found, step)
        return found
    return getattr(found, part) if part else found


def filled(message: Any, fields: dict[str, Any]) -> Any:
    """Put the values in, by the types that rosidl states."""
    kinds = dict(zip(message.get_fields_and_field_types(), message.SLOT_TYPES, strict=True))
    for name, value in fields.items():
        setattr(message, name, _value(getattr(message, name), kinds[name], value))
    return message


def _value(present: Any, kind: Any, value: Any) -> Any:
    if hasattr(present, "get_fields_and_field_types"):
        return filled(present, value)
    if isinstance(present, array):
        floats = present.typecode in "fd"
        return array(present.typecode, [float(v) if floats else v for v in value])
    if isinstance(present, np.ndarray):
        floats = present.dtype.kind == "f"
        return np.array([float(v) if floats else v for v in value], present.dtype)
    if isinstance(present, list) and value and isinstance(value[0], dict):
        package, folder = kind.value_type.namespaces
        one = f"{package}/{folder}/{kind.value_type.name}"
        return [filled(message_class(one)(), v) for v in value]
    if isinstance(present, bytes):
        return bytes([value])
    return float(value) if isinstance(present, float) else value


def type_hashes() -> dict[str, str]:
    """Return the hashes of all pinned types, of their services and actions, and of what is in them.

    Source: the type description files that rosidl writes beside the interfaces.
    """
    found: dict[str, str] = {}
    for name in MESSAGES:
        package, kind, stem = name.split("/")
        stem = stem.partition("_")[0]
        file = Path(get_package_share_directory(package)) / kind / f"{stem}.json"
        for entry in json.loads(file.read_text())["type_hashes"]:
            known = found.setdefault(entry["type_name"], entry["hash_string"])
            assert known == entry["hash_string"]
    return dict(sorted(found.items()))


def main() -> None:
    """Write the file."""
    messages = [
        {
            "type": name,
            "fields": fields,
            "cdr": serialize_message(filled(message_class(name)(), fields)).hex(),
        }
        for name, fields in MESSAGES.items()
    ]
    versions = {
        package: _version(package)
        for package in ("rclpy", "rosidl_generator_py", "rmw_cyclonedds_cpp", "sensor_msgs")
    }
    pinned = {
        "rmw": os.environ.get("RMW_IMPLEMENTATION", ""),
        "versions": versions,
        "hashes": type_hashes(),
        "messages": messages,
    }
    PINNED.write_text(json.dumps(pinned, indent=1, allow_nan=False) + "\n")


def _version(package: str) -> str:
    text = (Path(get_package_share_directory(package)) / "package.xml").read_text()
    return text.partition("<version>")[2].partition("</version>")[0]


if __name__ == "__main__":
    main()
