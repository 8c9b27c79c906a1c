# SPDX-License-Identifier: Apache-2.0
"""The lifecycle around a core that fails, and the end of a process, on a real ROS 2."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from jepa_edge.errors import InputError

from .conftest import Ros, needs_ros
from .robot import ACTIVE, INACTIVE, UNCONFIGURED

pytestmark = needs_ros("rclpy", "jepa_msgs", "jepa_ros")


class Core:
    """A core that keeps the world model's rules, and whose steps can be made to fail."""

    def __init__(self, backend: Any) -> None:
        backend.parameters([])
        self.configured = self.active = False
        self.closed = 0
        self.fails: dict[str, Exception] = {}

    def _step(self, name: str, allowed: bool) -> None:
        if not allowed:
            raise InputError(f"{name}: not now")
        if name in self.fails:
            raise self.fails[name]

    def configure(self) -> None:
        self._step("configure", not self.configured)
        self.configured = True

    def activate(self) -> None:
        self._step("activate", self.configured and not self.active)
        self.active = True

    def deactivate(self) -> None:
        self._step("deactivate", self.active)
        self.active = False

    def cleanup(self) -> None:
        self._step("cleanup", self.configured and not self.active)
        self.configured = False

    def close(self) -> None:
        self.configured = self.active = False
        self.closed += 1


class Managed:
    """A lifecycle node with that core."""

    def __init__(self, ros: Ros) -> None:
        from jepa_ros.logs import NodeLogHandler
        from jepa_ros.nodes import WorldModel

        self.logs = NodeLogHandler()
        self.node: Any = WorldModel("wm", Core, self.logs)
        self.core: Core = self.node._core
        ros.add(self.node)

    @property
    def state(self) -> int:
        return int(self.node._state_machine.current_state[0])

    def trigger(self, name: str) -> str:
        return str(getattr(self.node, f"trigger_{name}")().name)


@pytest.fixture
def managed(ros: Ros) -> Iterator[Managed]:
    made = Managed(ros)
    yield made
    made.logs.detach()


def test_an_error_that_nobody_thought_of_leaves_a_node_that_can_be_configured(
    managed: Managed, capfd: pytest.CaptureFixture[str]
) -> None:
    core = managed.core
    for name, before in (
        ("configure", ()),
        ("activate", ("configure",)),
        ("deactivate", ("configure", "activate")),
        ("cleanup", ("configure",)),
    ):
        for step in before:
            assert managed.trigger(step) == "SUCCESS"
        core.fails = {name: OSError(f"{name}: disk gone")}
        assert managed.trigger(name) == "ERROR"
        assert managed.state == UNCONFIGURED
        assert (core.configured, core.active) == (False, False)
        logged = capfd.readouterr().err
        assert "Traceback" in logged
        assert f"OSError: {name}: disk gone" in logged
        core.fails = {}
    assert managed.trigger("configure") == managed.trigger("activate") == "SUCCESS"
    assert managed.state == ACTIVE


def test_a_refusal_is_one_line_and_closes_nothing(
    managed: Managed, capfd: pytest.CaptureFixture[str]
) -> None:
    assert managed.trigger("configure") == "SUCCESS"
    managed.core.fails = {"activate": InputError("no such type")}
    assert managed.trigger("activate") == "FAILURE"
    assert (managed.state, managed.core.closed) == (INACTIVE, 0)
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("error", [InputError("not yet"), OSError("not yet")])
@pytest.mark.parametrize("step", ["configure", "activate"])
def test_autostart_tries_again_what_failed(managed: Managed, step: str, error: Exception) -> None:
    managed.core.fails = {step: error}
    assert not managed.node.start()
    assert not managed.node.start()
    managed.core.fails = {}
    assert managed.node.start()
    assert managed.state == ACTIVE


def test_autostart_leaves_alone_what_a_manager_did(managed: Managed) -> None:
    assert managed.trigger("configure") == "SUCCESS"
    assert managed.node.start()
    assert managed.state == INACTIVE


def test_every_node_is_closed_though_one_fails_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from jepa_ros import process
    from rclpy.node import Node

    monkeypatch.setenv("ROS_DOMAIN_ID", "60")
    closed, end = [], threading.Event()

    class Fake:
        def __init__(self, kind: str) -> None:
            self.kind, self.node = kind, Node(kind)

        def start(self) -> bool:
            if self.kind == "planner":
                end.set()
            return True

        def close(self) -> None:
            closed.append(self.kind)
            if self.kind == "world_model":
                raise OSError("disk gone")

    monkeypatch.setattr(process, "make_node", lambda kind, _: Fake(kind))
    kinds = ["safety_gate", "world_model", "planner"]

    assert process.run(kinds, ["x"], end, autostart=True) == 1
    assert closed == ["planner", "world_model", "safety_gate"]
    assert "OSError: disk gone" in caplog.text
