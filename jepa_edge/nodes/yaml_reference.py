# SPDX-License-Identifier: Apache-2.0
"""Parameter files of the nodes, written from what the nodes declare.

    python -m jepa_edge.nodes.yaml_reference ros/jepa_ros/config

A file sets every parameter to its default, so that it can be copied and edited.
"""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from jepa_edge.nodes.parameters import Parameter, Value

NODES = ("world_model", "planner", "safety_gate", "serial_bridge")
"""Modules of jepa_edge.nodes with PARAMETERS, and the stems of the files."""

_WIDTH = 96
_INDENT = " " * 4


def yaml_reference(node: str, parameters: Iterable[Parameter]) -> str:
    """Return the text of a ROS 2 parameter file: each parameter, its default, and what it means.

    node: stem of the node's module. Empty arrays are commented out, since rcl's parser takes none.
    """
    lines = [
        f"# Parameters of {node}_node: ros2 run jepa_ros {node}_node --ros-args --params-file FILE",
        "# These are the defaults; written by jepa_edge.nodes.yaml_reference. Edit a copy.",
        "/**:",
        "  ros__parameters:",
    ]
    for parameter in parameters:
        about = " ".join(part for part in (parameter.description, _limits(parameter)) if part)
        lines += textwrap.wrap(
            about, _WIDTH, initial_indent=_INDENT + "# ", subsequent_indent=_INDENT + "# "
        )
        off = "# " if parameter.default == () else ""
        lines.append(f"{_INDENT}{off}{parameter.name}: {_yaml(parameter.default)}")
    return "\n".join(lines) + "\n"


def _limits(parameter: Parameter) -> str:
    if parameter.choices:
        return f"One of {', '.join(choice or 'empty' for choice in parameter.choices)}."
    if parameter.default == ():
        return "An array of numbers." if parameter.numbers else "An array of strings."
    low, high = parameter.low, parameter.high
    if math.isinf(low) and math.isinf(high):
        return ""
    if math.isinf(high):
        return f"Range: {low:g} or more."
    if math.isinf(low):
        return f"Range: {high:g} or less."
    return f"Range: {low:g} to {high:g}."


def _yaml(value: Value) -> str:
    """A value as YAML that reads back with the same type."""
    if isinstance(value, tuple):
        return "[" + ", ".join(_yaml(one) for one in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def parameters_of(node: str) -> tuple[Parameter, ...]:
    """Return what a node declares."""
    found: tuple[Parameter, ...] = import_module(f"jepa_edge.nodes.{node}").PARAMETERS
    return found


def references() -> dict[str, str]:
    """Return file name to text, for every node."""
    return {f"{node}.yaml": yaml_reference(node, parameters_of(node)) for node in NODES}


def main(folder: str) -> None:
    """Write all files into a folder."""
    for name, text in references().items():
        Path(folder, name).write_text(text)


if __name__ == "__main__":
    main(sys.argv[1])
