# SPDX-License-Identifier: Apache-2.0
"""The ROS packages as files: what can be checked of them where there is no ROS."""

from __future__ import annotations

import ast
import re
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

from jepa_edge.nodes import yaml_reference
from jepa_edge.nodes.parameters import resolve
from jepa_edge.version import __version__

ROOT = Path(__file__).parents[2]
MSGS = ROOT / "ros/jepa_msgs"
ROS = ROOT / "ros/jepa_ros"
LAUNCH = sorted((ROS / "launch").glob("*.launch.py"))


def depends(package: Path) -> set[str]:
    """Packages that a package.xml names as needed."""
    root = ElementTree.parse(package / "package.xml").getroot()
    return {str(e.text) for e in root if e.tag in ("depend", "exec_depend")}


@pytest.mark.parametrize("package", [MSGS, ROS], ids=lambda path: path.name)
def test_the_package_states_its_name_and_the_one_version(package: Path) -> None:
    root = ElementTree.parse(package / "package.xml").getroot()

    assert root.get("format") == "3"
    assert root.findtext("name") == package.name
    assert root.findtext("version") == __version__
    assert root.findtext("license") == "Apache-2.0"


def test_cmake_generates_every_interface_and_no_other() -> None:
    text = (MSGS / "CMakeLists.txt").read_text()
    listed = re.findall(r'"((?:msg|srv|action)/\w+\.\w+)"', text)

    there = [str(f.relative_to(MSGS)) for f in MSGS.glob("*/*") if f.suffix[1:] == f.parent.name]
    assert listed == sorted(there)


def test_interfaces_use_only_packages_that_are_depended_on() -> None:
    text = "".join(file.read_text() for file in MSGS.glob("*/*.[msa]*"))
    used = set(re.findall(r"^(\w+)/\w+", text, re.MULTILINE)) - {"jepa_msgs"}

    assert used
    assert used <= depends(MSGS)
    found = set(
        re.findall(r"find_package\((\w+) REQUIRED\)", (MSGS / "CMakeLists.txt").read_text())
    )
    assert used <= found


def test_every_type_that_the_nodes_name_comes_from_a_package_that_is_depended_on() -> None:
    files = [*(ROOT / "jepa_edge/nodes").glob("*.py"), *(ROS / "jepa_ros").glob("*.py")]
    text = "".join(file.read_text() for file in files)
    used = set(re.findall(r'"(\w+)/(?:msg|srv|action)/\w+"', text)) - {"package"}
    imported = set(re.findall(r"^from (\w+)\.(?:msg|srv) import", text, re.MULTILINE))

    assert {"jepa_msgs", "sensor_msgs", "geometry_msgs"} <= used
    assert used | imported <= depends(ROS)


@pytest.fixture
def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    given: dict[str, Any] = {}
    monkeypatch.chdir(ROS)
    monkeypatch.setattr("setuptools.setup", lambda **arguments: given.update(arguments))
    runpy.run_path("setup.py")
    return given


def test_setup_installs_files_that_are_there(setup_arguments: dict[str, Any]) -> None:
    assert setup_arguments["version"] == __version__
    installed = {file for _, files in setup_arguments["data_files"] for file in files}

    for file in installed:
        assert (ROS / file).is_file(), file
    folders = ("launch", "config", "rviz", "foxglove")
    wanted = {
        f"{at}/{file.name}" for at in folders for file in (ROS / at).iterdir() if file.is_file()
    }
    assert wanted <= installed
    assert {file.split("/")[0] for file in wanted} == set(folders)


def test_every_executable_is_a_function(setup_arguments: dict[str, Any]) -> None:
    scripts = setup_arguments["entry_points"]["console_scripts"]
    names = {script.split(" = ")[0] for script in scripts}
    assert names == {f"{node}_node" for node in yaml_reference.NODES} | {"container"}
    for script in scripts:
        module, function = script.split(" = ")[1].split(":")
        tree = ast.parse((ROS / (module.replace(".", "/") + ".py")).read_text())
        assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, script


def arguments_of(launch_file: Path) -> dict[str, tuple[str, str]]:
    """The launch file's arguments: name to (default, description)."""
    for node in ast.parse(launch_file.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ARGUMENTS":
            found: dict[str, tuple[str, str]] = ast.literal_eval(node.value)
            return found
    raise AssertionError(f"{launch_file} has no ARGUMENTS")


def test_the_robot_passes_on_what_the_world_model_takes() -> None:
    model, robot = (arguments_of(ROS / f"launch/{n}.launch.py") for n in ("world_model", "robot"))
    tree = ast.parse((ROS / "launch/robot.launch.py").read_text())
    passed_on = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PASSED_ON"
    )

    assert set(passed_on) <= model.keys() & robot.keys()
    for name in passed_on:
        assert model[name][0] == robot[name][0], f"{name} has two defaults"


@pytest.mark.parametrize("launch_file", LAUNCH, ids=lambda path: path.name)
def test_every_launch_argument_is_on_the_page(launch_file: Path) -> None:
    page = (ROOT / "docs/ros.md").read_text()
    for name, (default, text) in arguments_of(launch_file).items():
        assert f"`{name}`" in page, name
        assert isinstance(default, str)
        assert text


@pytest.mark.parametrize("node", yaml_reference.NODES)
def test_the_parameter_files_are_up_to_date(node: str) -> None:
    written = (ROS / f"config/{node}.yaml").read_text()

    assert written == yaml_reference.references()[f"{node}.yaml"], (
        "run `python -m jepa_edge.nodes.yaml_reference ros/jepa_ros/config`"
    )


@pytest.mark.parametrize("node", yaml_reference.NODES)
def test_a_parameter_file_sets_every_parameter_to_its_default(node: str) -> None:
    text = (ROS / f"config/{node}.yaml").read_text()
    given = yaml.safe_load(text)["/**"]["ros__parameters"]
    declared = yaml_reference.parameters_of(node)

    assert resolve(declared, given) == resolve(declared, {})
    for parameter in declared:
        assert parameter.name in given or f"# {parameter.name}: []" in text
        # Line breaks apart, the whole description is there.
        assert "".join(parameter.description.split()) in re.sub(r"\n\s*# |\s", "", text)


def test_the_pages_name_every_topic_of_the_nodes() -> None:
    page = (ROOT / "docs/ros.md").read_text()
    topics: set[str] = set()
    for file in (ROOT / "jepa_edge/nodes").glob("*.py"):
        topics |= set(
            re.findall(r'"(~?/?(?:jepa/\w+|diagnostics|cmd_in|cmd_out))"', file.read_text())
        )

    assert "jepa/flag" in topics
    for name in topics:
        assert f"`{name}`" in page, name


@pytest.mark.parametrize("unit", sorted((ROOT / "deploy").glob("*.service")), ids=lambda p: p.name)
def test_units_end_by_sigint_and_come_back(unit: Path) -> None:
    """SIGTERM to `ros2 launch` can leave its nodes behind (ros2/launch issue 666)."""
    lines = unit.read_text().splitlines()

    assert "KillSignal=SIGINT" in lines
    assert any(line.startswith("Restart=") for line in lines)
    assert any(line.startswith("ExecStart=") for line in lines)
