# SPDX-License-Identifier: Apache-2.0
"""Parameter files and assignments read as ROS reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_edge.dds.parameter_values import parse_assignment, read_file
from jepa_edge.errors import InputError

FILE = """
/**:
  ros__parameters:
    use_sim_time: true
    rate_hz: 5
jepa_world_model:
  ros__parameters:
    alpha: 0.05
    names: [a, b]
    nested: {deep: [1, 2.5]}
robot1:
  jepa_world_model:
    ros__parameters: {alpha: 0.1}
/robot1/jepa_planner:
  ros__parameters: {horizon: 4}
/*/jepa_planner:
  ros__parameters: {seed: 1}
"""


def _read(tmp_path: Path, node: str) -> tuple[dict[str, object], dict[str, object]]:
    path = tmp_path / "params.yaml"
    path.write_text(FILE)
    return read_file(path, node)


def test_a_section_counts_for_the_node_of_that_full_name(tmp_path: Path) -> None:
    named, wild = _read(tmp_path, "/jepa_world_model")
    assert named == {"alpha": 0.05, "names": ("a", "b"), "nested.deep": (1, 2.5)}
    assert wild == {"use_sim_time": True, "rate_hz": 5}

    assert _read(tmp_path, "/robot1/jepa_world_model")[0] == {"alpha": 0.1}


def test_wildcards_stand_for_one_part_or_for_any(tmp_path: Path) -> None:
    named, wild = _read(tmp_path, "/robot1/jepa_planner")
    assert named == {"horizon": 4}
    assert wild == {"use_sim_time": True, "rate_hz": 5, "seed": 1}
    assert "seed" not in _read(tmp_path, "/a/b/jepa_planner")[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alpha=0.05", ("alpha", 0.05)),
        ("on=true", ("on", True)),
        ("n=3", ("n", 3)),
        ("s='3'", ("s", "3")),
        ("path=/dev/ttyACM0", ("path", "/dev/ttyACM0")),
        ("w=[1.0, 2]", ("w", (1.0, 2))),
        ("url=a=b", ("url", "a=b")),
    ],
)
def test_values_on_the_command_line_are_yaml(text: str, expected: tuple[str, object]) -> None:
    name, value = parse_assignment(text)
    assert (name, value) == expected
    assert type(value) is type(expected[1])


@pytest.mark.parametrize("text", ["alpha", "=1", "a=[1"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_assignment(text)


@pytest.mark.parametrize("content", ["just text", "[1, 2]", "node: 3", "a: [", "\x00"])
def test_what_is_no_parameter_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=str(path)):
        read_file(path, "/a")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_file(tmp_path / "none.yaml", "/a")
