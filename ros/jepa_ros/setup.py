# SPDX-License-Identifier: Apache-2.0
"""ament_python package: colcon build --base-paths ros."""

from pathlib import Path

from setuptools import setup

NAME = "jepa_ros"


def files_of(folder: str) -> list[str]:
    """Files to install from a folder, in a fixed order."""
    return sorted(str(path) for path in Path(folder).iterdir() if path.is_file())


setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *((f"share/{NAME}/{at}", files_of(at)) for at in ("launch", "config", "foxglove", "rviz")),
    ],
    # jepa-edge is not named here: pip packages beside ROS are checked for when a node starts.
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="JEPA Edge",
    maintainer_email="jepa-edge@users.noreply.github.com",
    description="ROS 2 nodes of JEPA Edge: world model, planner, safety gate, serial bridge",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "world_model_node = jepa_ros.main:world_model_node",
            "planner_node = jepa_ros.main:planner_node",
            "safety_gate_node = jepa_ros.main:safety_gate_node",
            "serial_bridge_node = jepa_ros.main:serial_bridge_node",
            "container = jepa_ros.main:container",
        ],
    },
)
