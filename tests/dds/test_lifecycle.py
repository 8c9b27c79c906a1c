# SPDX-License-Identifier: Apache-2.0
"""A managed node's states, through the services that `ros2 lifecycle` uses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from jepa_edge.dds.backend import DdsBackend
from jepa_edge.dds.lifecycle import LifecycleServer
from jepa_edge.errors import BundleError, InputError
from jepa_edge.nodes.qos import Qos

Until = Callable[..., None]


class Node:
    """Notes what it was asked to do; may refuse to configure."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.broken = False
        self.stuck = ""

    def configure(self) -> None:
        if self.broken:
            raise BundleError("no such bundle")
        self.steps.append("configure")

    def activate(self) -> None:
        self.steps.append("activate")

    def deactivate(self) -> None:
        if self.stuck == "deactivate":
            raise InputError("cannot stop")
        self.steps.append("deactivate")

    def cleanup(self) -> None:
        if self.stuck == "cleanup":
            raise InputError("cannot clean up")
        self.steps.append("cleanup")


class Tool:
    """What `ros2 lifecycle` does."""

    def __init__(self, node: Any, target: str) -> None:
        self._make = node.make
        self._clients = {
            name: (node.client(f"{target}/{name}", f"lifecycle_msgs/srv/{kind}"), kind)
            for name, kind in (
                ("get_state", "GetState"),
                ("change_state", "ChangeState"),
                ("get_available_states", "GetAvailableStates"),
                ("get_available_transitions", "GetAvailableTransitions"),
                ("get_transition_graph", "GetAvailableTransitions"),
            )
        }

    def call(self, name: str, **fields: Any) -> Any:
        client, kind = self._clients[name]
        return client.call(self._make(f"lifecycle_msgs/srv/{kind}_Request", **fields))

    def state(self) -> tuple[int, str]:
        state = self.call("get_state").current_state
        return state.id, state.label

    def change(self, number: int = 0, label: str = "") -> bool:
        wanted = self._make("lifecycle_msgs/msg/Transition", id=number, label=label)
        return bool(self.call("change_state", transition=wanted).success)

    def available(self, name: str = "get_available_transitions") -> list[tuple[int, str]]:
        found = self.call(name).available_transitions
        return [(t.transition.id, t.transition.label) for t in found]


@pytest.fixture
def managed(peer_node: Any) -> tuple[Node, Tool, LifecycleServer, list[Any]]:
    backend = peer_node("managed")
    node = Node()
    events: list[Any] = []
    watcher = peer_node("tool")
    watcher.subscribe(
        "/managed/transition_event",
        "lifecycle_msgs/msg/TransitionEvent",
        Qos(depth=100),
        events.append,
    )
    server = LifecycleServer(backend, node)
    return node, Tool(watcher, "/managed"), server, events


def test_a_node_goes_through_its_states_by_number_or_label(
    managed: tuple[Node, Tool, LifecycleServer, list[Any]], until: Until
) -> None:
    node, tool, server, events = managed
    assert tool.state() == (1, "unconfigured")
    assert tool.available() == [(1, "configure"), (5, "shutdown")]
    assert tool.change(number=1)
    assert tool.state() == (2, "inactive")
    assert tool.available() == [(2, "cleanup"), (3, "activate"), (6, "shutdown")]
    assert tool.change(label="activate")
    assert tool.state() == (3, "active")
    assert server.state == "active"
    assert tool.change(number=4)
    assert tool.change(number=2)
    assert tool.state() == (1, "unconfigured")
    assert node.steps == ["configure", "activate", "deactivate", "cleanup"]
    until(lambda: len(events) == 8)
    seen = [(e.start_state.label, e.transition.label, e.goal_state.label) for e in events[:4]]
    assert seen == [
        ("unconfigured", "configure", "configuring"),
        ("configuring", "transition_success", "inactive"),
        ("inactive", "activate", "activating"),
        ("activating", "transition_success", "active"),
    ]


def test_what_the_state_does_not_allow_changes_nothing(
    managed: tuple[Node, Tool, LifecycleServer, list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    node, tool, server, _ = managed
    assert not tool.change(number=3)
    assert not tool.change(number=77)
    assert tool.state() == (1, "unconfigured")
    assert node.steps == []
    assert "cannot activate; possible: configure, shutdown" in caplog.text
    with pytest.raises(InputError, match="cannot cleanup"):
        server.change("cleanup")


def test_a_failed_transition_leads_back(
    managed: tuple[Node, Tool, LifecycleServer, list[Any]],
    until: Until,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node, tool, server, events = managed
    node.broken = True
    assert not tool.change(number=1)
    assert "could not configure: no such bundle" in caplog.text
    assert tool.state() == (1, "unconfigured")
    until(lambda: len(events) == 2)
    assert (events[1].transition.id, events[1].transition.label) == (11, "transition_failure")
    with pytest.raises(BundleError):
        server.change("configure")
    node.broken = False
    assert tool.change(number=1)


def test_shutdown_undoes_what_was_done(
    managed: tuple[Node, Tool, LifecycleServer, list[Any]],
) -> None:
    node, tool, _, _ = managed
    assert tool.change(number=1)
    assert tool.change(number=3)
    assert tool.change(number=7)
    assert tool.state() == (4, "finalized")
    assert node.steps == ["configure", "activate", "deactivate", "cleanup"]
    assert tool.available() == []
    assert len(tool.available("get_transition_graph")) == 7
    assert len(tool.call("get_available_states").available_states) == 11


@pytest.mark.parametrize(
    ("stuck", "state", "done"), [("deactivate", "active", []), ("cleanup", "inactive", [1])]
)
def test_a_shutdown_that_fails_leaves_the_state_it_reached(
    managed: tuple[Node, Tool, LifecycleServer, list[Any]],
    stuck: str,
    state: str,
    done: list[int],
) -> None:
    """A node that was deactivated must not say that it is active."""
    node, tool, server, _ = managed
    server.change("configure")
    server.change("activate")
    node.stuck = stuck
    with pytest.raises(InputError):
        server.change("shutdown")
    assert tool.state()[1] == state
    assert node.steps[2:] == ["deactivate"] * len(done)
    node.stuck = ""
    assert tool.change(label="shutdown")
    assert tool.state() == (4, "finalized")
    assert node.steps == ["configure", "activate", "deactivate", "cleanup"]


def test_a_transition_that_exits_is_answered_and_kept(peer_node: Any, participant: Any) -> None:
    backend = DdsBackend(participant, "exits")
    node = Node()
    node.configure = lambda: sys.exit(0)  # type: ignore[method-assign]
    LifecycleServer(backend, node)
    tool = Tool(peer_node("tool"), "/exits")
    assert not tool.change(number=1)
    assert tool.state() == (1, "unconfigured")
    assert isinstance(backend.failure, SystemExit)
