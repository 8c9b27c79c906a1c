# SPDX-License-Identifier: Apache-2.0
"""Services, parameters over services, and actions, between two participants."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jepa_edge.dds.services import join_request, split_request
from jepa_edge.errors import InputError
from jepa_edge.nodes.parameters import Parameter
from jepa_edge.nodes.qos import Qos

TRIGGER = "std_srvs/srv/Trigger"
SCORE = "jepa_msgs/srv/ScoreActions"
PLAN = "jepa_msgs/action/PlanLatent"
Until = Callable[..., None]


def test_the_header_of_a_request_is_that_of_rmw_cyclonedds() -> None:
    """After the CDR header 8 bytes client and 8 bytes number, little-endian, then the body."""
    pieces = join_request(0x1122334455667788, 5, memoryview(b"\x00\x01\x00\x00\x2a\x00\x00\x00"))
    wire = b"".join(pieces)
    assert wire.hex() == "00010000" + "8877665544332211" + "0500000000000000" + "2a000000"
    assert split_request(memoryview(wire)) == (
        0x1122334455667788,
        5,
        b"\x00\x01\x00\x00\x2a\x00\x00\x00",
    )
    with pytest.raises(InputError, match="no request header"):
        split_request(memoryview(wire[:19]))


def test_every_client_gets_its_own_answers(peer_node: Any) -> None:
    server = peer_node("server")

    def answer(request: Any) -> Any:
        return server.make(
            f"{SCORE}_Response", success=True, energies=np.asarray(request.actions) * 2
        )

    server.service("score", SCORE, answer)
    nodes = [peer_node(f"client{n}") for n in range(2)]
    clients = [node.client("/score", SCORE) for node in nodes]
    failures: list[str] = []

    def ask(number: int) -> None:
        for index in range(20):
            values = np.array([number, index], np.float32)
            request = nodes[number].make(f"{SCORE}_Request", actions=values)
            response = clients[number].call(request)
            if not np.array_equal(response.energies, values * 2):
                failures.append(f"{number} {index} {response.energies}")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_missing_or_silent_server_is_said_to_be_so(peer_node: Any) -> None:
    client = peer_node("client")
    with pytest.raises(InputError, match=r"no server of /nobody after 0\.1 s"):
        client.client("nobody", TRIGGER).call(client.make(f"{TRIGGER}_Request"), 0.1)
    peer_node("silent").deferred_service("/silent", TRIGGER, lambda request, reply: None)
    with pytest.raises(InputError, match="/silent gave no answer"):
        client.client("silent", TRIGGER).call(client.make(f"{TRIGGER}_Request"), 1.0)


PARAMETERS = (
    Parameter(name="rate_hz", default=5.0, low=0.1, high=100.0, description="Rate."),
    Parameter(name="mode", default="exact", choices=("exact", "crop"), description="How."),
    Parameter(name="count", default=3, low=0, description="Count."),
    Parameter(name="on", default=True, description="On."),
    Parameter(name="names", default=("a", "b"), description="Names."),
    Parameter(name="limits.low", default=(0.5, 1.0), description="Numbers."),
)


class ParameterClient:
    """What `ros2 param` does."""

    def __init__(self, node: Any, target: str) -> None:
        self._node = node
        self._clients = {
            kind: node.client(f"{target}/{name}", f"rcl_interfaces/srv/{kind}")
            for name, kind in (
                ("get_parameters", "GetParameters"),
                ("set_parameters", "SetParameters"),
                ("set_parameters_atomically", "SetParametersAtomically"),
                ("list_parameters", "ListParameters"),
                ("describe_parameters", "DescribeParameters"),
                ("get_parameter_types", "GetParameterTypes"),
            )
        }

    def call(self, kind: str, **fields: Any) -> Any:
        request = self._node.make(f"rcl_interfaces/srv/{kind}_Request", **fields)
        return self._clients[kind].call(request)

    def parameter(self, name: str, kind: int, **value: Any) -> Any:
        message = self._node.make("rcl_interfaces/msg/ParameterValue", type=kind, **value)
        return self._node.make("rcl_interfaces/msg/Parameter", name=name, value=message)


@pytest.fixture
def served(peer_node: Any) -> tuple[Any, ParameterClient]:
    backend = peer_node("worker", namespace="/robot1", values={"count": 7})
    return backend, ParameterClient(peer_node("tool"), "/robot1/worker")


def test_parameters_are_listed_described_and_read(served: tuple[Any, ParameterClient]) -> None:
    backend, tool = served
    backend.parameters(PARAMETERS)

    names = tool.call("ListParameters").result.names
    assert names == ["count", "limits.low", "mode", "names", "on", "rate_hz", "use_sim_time"]
    listed = tool.call("ListParameters", prefixes=["limits"]).result
    assert (listed.names, listed.prefixes) == (["limits.low"], ["limits"])
    values = tool.call("GetParameters", names=["rate_hz", "mode", "count", "on", "none"]).values
    assert [v.type for v in values] == [3, 4, 2, 1, 0]
    assert (values[0].double_value, values[1].string_value) == (5.0, "exact")
    assert (values[2].integer_value, values[3].bool_value) == (7, True)
    values = tool.call("GetParameters", names=["names", "limits.low"]).values
    assert (values[0].type, values[0].string_array_value) == (9, ["a", "b"])
    assert (values[1].type, values[1].double_array_value.tolist()) == (8, [0.5, 1.0])
    types = tool.call("GetParameterTypes", names=["rate_hz", "nothing"]).types
    assert types.tolist() == [3, 0]
    rate, mode, count = tool.call(
        "DescribeParameters", names=["rate_hz", "mode", "count"]
    ).descriptors
    assert (rate.type, rate.description) == (3, "Rate.")
    (limits,) = rate.floating_point_range
    assert (limits.from_value, limits.to_value) == (0.1, 100.0)
    assert mode.additional_constraints == "one of exact, crop"
    assert count.integer_range[0].from_value == 0


def test_parameters_are_set_or_refused_with_the_reason(
    served: tuple[Any, ParameterClient], until: Until
) -> None:
    backend, tool = served
    events: list[Any] = []
    backend.subscribe(
        "/parameter_events", "rcl_interfaces/msg/ParameterEvent", Qos(), events.append
    )
    values = backend.parameters(PARAMETERS)
    good = tool.parameter("rate_hz", 3, double_value=10.0)
    bad = tool.parameter("rate_hz", 3, double_value=1000.0)
    text = tool.parameter("count", 4, string_value="many")
    unknown = tool.parameter("speed", 3, double_value=1.0)

    results = tool.call("SetParameters", parameters=[good, bad, text, unknown]).results
    assert [r.successful for r in results] == [True, False, False, False]
    assert "expected 0.1 to 100" in results[1].reason
    assert "expected int" in results[2].reason
    assert "not known" in results[3].reason
    assert values["rate_hz"] == 10.0  # the mapping is live

    numbers = tool.parameter("limits.low", 8, double_array_value=[1.5, 2.5, 3.5])
    result = tool.call("SetParametersAtomically", parameters=[numbers, bad]).result
    assert not result.successful
    assert values["limits.low"] == (0.5, 1.0)
    assert tool.call("SetParametersAtomically", parameters=[numbers]).result.successful
    assert values["limits.low"] == (1.5, 2.5, 3.5)

    backend.freeze_parameters(True)
    (result,) = tool.call("SetParameters", parameters=[good]).results
    assert not result.successful
    assert "deactivate" in result.reason
    backend.freeze_parameters(False)
    assert tool.call("SetParameters", parameters=[good]).results[0].successful

    changed = [[p.name for p in e.changed_parameters] for e in events if e.changed_parameters]
    until(lambda: len([e for e in events if e.changed_parameters]) == 3)
    changed = [[p.name for p in e.changed_parameters] for e in events if e.changed_parameters]
    assert changed == [["rate_hz"], ["limits.low"], ["rate_hz"]]
    assert {e.node for e in events} == {"/robot1/worker"}


def test_given_values_are_checked_when_the_node_is_made(node: Any) -> None:
    with pytest.raises(InputError, match="'speed' is not known"):
        node("a", values={"speed": 1}).parameters(PARAMETERS)
    with pytest.raises(InputError, match="expected one of exact, crop"):
        node("b", values={"mode": "none"}).parameters(PARAMETERS)


class ActionClient:
    """What `ros2 action send_goal` does."""

    def __init__(self, node: Any, name: str) -> None:
        self._node = node
        self._send = node.client(f"{name}/_action/send_goal", f"{PLAN}_SendGoal")
        self._result = node.client(f"{name}/_action/get_result", f"{PLAN}_GetResult")
        self._cancel = node.client(f"{name}/_action/cancel_goal", "action_msgs/srv/CancelGoal")
        self.feedback: list[int] = []
        self.statuses: list[list[int]] = []
        node.subscribe(
            f"{name}/_action/feedback",
            f"{PLAN}_FeedbackMessage",
            Qos(depth=100),
            lambda m: self.feedback.append(m.feedback.replan),
        )
        node.subscribe(
            f"{name}/_action/status",
            "action_msgs/msg/GoalStatusArray",
            Qos(depth=100, transient_local=True),
            lambda m: self.statuses.append([s.status for s in m.status_list]),
        )

    def send(self, replans: int) -> Any:
        goal_id = self._node.make("unique_identifier_msgs/msg/UUID", uuid=list(uuid.uuid4().bytes))
        goal = self._node.make(f"{PLAN}_Goal", replans=replans)
        request = self._node.make(f"{PLAN}_SendGoal_Request", goal_id=goal_id, goal=goal)
        assert self._send.call(request).accepted
        assert not self._send.call(request).accepted  # the same goal twice
        return goal_id

    def result(self, goal_id: Any) -> Any:
        return self._result.call(
            self._node.make(f"{PLAN}_GetResult_Request", goal_id=goal_id), timeout_s=10.0
        )

    def cancel(self, goal_id: Any) -> Any:
        info = self._node.make("action_msgs/msg/GoalInfo", goal_id=goal_id)
        request = self._node.make("action_msgs/srv/CancelGoal_Request", goal_info=info)
        return self._cancel.call(request)


@pytest.fixture
def planner(peer_node: Any) -> ActionClient:
    """A server that counts to `replans` every 10 ms, and a client."""
    server = peer_node("planner")

    def execute(goal: Any) -> Any:
        done = 0
        while done < goal.request.replans and not goal.cancelled:
            goal.feedback(server.make(f"{PLAN}_Feedback", replan=done))
            time.sleep(0.01)
            done += 1
        if done == goal.request.replans:
            goal.succeed()
        return server.make(f"{PLAN}_Result", replans=done)

    server.action("plan", PLAN, execute)
    return ActionClient(peer_node("tool"), "/plan")


def test_a_goal_runs_with_feedback_to_its_result(planner: ActionClient, until: Until) -> None:
    answer = planner.result(planner.send(5))

    assert (answer.status, answer.result.replans) == (4, 5)
    until(lambda: [4] in planner.statuses)
    until(lambda: planner.feedback == [0, 1, 2, 3, 4])


def test_a_goal_is_cancelled_by_a_client(planner: ActionClient, until: Until) -> None:
    goal = planner.send(100_000)
    until(lambda: planner.feedback)
    response = planner.cancel(goal)
    assert response.return_code == 0
    assert bytes(response.goals_canceling[0].goal_id.uuid) == bytes(goal.uuid)
    answer = planner.result(goal)
    assert answer.status == 5
    assert 0 < answer.result.replans < 100_000
    assert planner.cancel(goal).return_code == 3  # it has ended
    nobody = planner._node.make("unique_identifier_msgs/msg/UUID", uuid=[1] * 16)
    assert planner.cancel(nobody).return_code == 2
    assert planner.result(nobody).status == 0


def test_a_newer_goal_takes_the_place_of_the_one_at_work(
    planner: ActionClient, until: Until
) -> None:
    first = planner.send(100_000)
    until(lambda: planner.feedback)
    second = planner.send(3)
    assert planner.result(first).status == 6
    assert planner.result(second).status == 4


def test_closing_ends_a_goal_at_work(peer_node: Any, until: Until) -> None:
    server = peer_node("planner")
    started, ended = threading.Event(), threading.Event()

    def execute(goal: Any) -> Any:
        started.set()
        while not goal.cancelled:
            time.sleep(0.005)
        ended.set()
        return server.make(f"{PLAN}_Result")

    action = server.action("plan", PLAN, execute)
    ActionClient(peer_node("tool"), "/plan").send(1)
    assert started.wait(5.0)
    action.close()
    assert ended.is_set()
