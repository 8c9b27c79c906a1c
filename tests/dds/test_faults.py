# SPDX-License-Identifier: Apache-2.0
"""What may go wrong does not silence a node: damaged bytes, foreign types, errors in any thread."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from jepa_edge.dds.backend import DdsBackend
from jepa_edge.dds.dispatcher import Dispatcher, Registration
from jepa_edge.dds.endpoints import RawReader, RawWriter, dds_qos
from jepa_edge.dds.names import reply_name, request_name, topic_name
from jepa_edge.dds.participant import DdsParticipant
from jepa_edge.dds.services import SERVICE_QOS
from jepa_edge.errors import InputError
from jepa_edge.nodes.qos import Qos

STRING = "std_msgs/msg/String"
FLAG = "jepa_msgs/msg/ConfidenceFlag"
TRIGGER = "std_srvs/srv/Trigger"
PLAN = "jepa_msgs/action/PlanLatent"
Until = Callable[..., None]


@pytest.fixture
def defective(participant: DdsParticipant) -> Any:
    """Make nodes that may end with a failure."""
    return lambda name: DdsBackend(participant, name)


def test_damaged_messages_and_requests_are_dropped(node: Any, until: Until) -> None:
    """Bytes cut, flipped and grown; the nodes fixture checks that nothing failed."""
    backend = node("victim")
    rng = random.Random(3)
    make, serialize = backend.make, backend.participant.serialize
    good: list[tuple[RawWriter, bytes]] = []
    seen: list[str] = []
    for kind in (
        "sensor_msgs/msg/JointState",
        "trajectory_msgs/msg/JointTrajectory",
        "jepa_msgs/msg/LatentPrediction",
        STRING,
    ):
        topic = f"/{kind.rpartition('/')[2]}"
        backend.subscribe(topic, kind, Qos(depth=1000), lambda m: seen.append(m.__msgtype__))
        writer = backend.participant.writer(backend.name, topic_name(topic), kind, Qos(depth=1000))
        good.append((writer, bytes(serialize(make(kind)))))
    backend.service("ask", TRIGGER, lambda request: make(f"{TRIGGER}_Response"))
    writer = backend.participant.writer(
        backend.name, request_name("/ask"), f"{TRIGGER}_Request", SERVICE_QOS, extra="clientid=1;"
    )
    good.append((writer, b"\x00\x01\x00\x00" + bytes(16)))
    for _ in range(400):
        writer, body = rng.choice(good)
        bad = bytearray(body[4:])
        for _ in range(rng.randrange(1, 5)):
            if bad:
                bad[rng.randrange(len(bad))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        bad = bad[: rng.randrange(1, len(bad) + 1)] if rng.random() < 0.5 else bad
        writer.write(body[:4] + bytes(bad))
    seen.clear()
    good[3][0].write(b"\x00\x01\x00\x00\x03\x00\x00\x00ok\x00")
    until(lambda: STRING in seen)


@pytest.mark.parametrize("error", [IndexError("out of range"), UnicodeError("no text")])
def test_whatever_the_types_library_raises_drops_the_message(
    node: Any,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """Releases of rosbags before 0.11.8 let out what damaged bytes provoke."""
    backend = node("listener")
    seen: list[str] = []
    asked: list[Any] = []
    backend.subscribe("x", STRING, Qos(depth=1000), lambda m: seen.append(m.data))
    backend.deferred_service("ask", TRIGGER, lambda request, reply: asked.append(request))
    client = backend.client("ask", TRIGGER)
    client.wait(5.0)
    publisher = backend.publisher("x", STRING, Qos(depth=1000))
    store = backend.participant.store
    original = store.deserialize_cdr

    def read(cdr: Any, kind: str) -> Any:
        if b"bad" in bytes(cdr) or kind == f"{TRIGGER}_Request":
            raise error
        return original(cdr, kind)

    monkeypatch.setattr(store, "deserialize_cdr", read, raising=False)
    with pytest.raises(InputError, match="no answer"):
        client.call(backend.make(f"{TRIGGER}_Request"), 0.2)
    for _ in range(250):
        publisher.publish(backend.make(STRING, data="bad"))
    publisher.publish(backend.make(STRING, data="good"))
    until(lambda: seen)
    assert seen == ["good"]
    assert asked == []
    dropped = [m for m in caplog.messages if m.startswith("/x: a message was dropped")]
    assert [m.split("(")[1].split(" ")[0] for m in dropped] == ["1", "100", "200"]


def test_a_message_of_another_definition_is_dropped(
    peer_node: Any, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """It fits the bytes of ours, so only the hash that its writer announces tells."""
    listener, talker = peer_node("listener"), peer_node("talker")
    seen: list[int] = []
    listener.subscribe("/flag", FLAG, Qos(depth=10), lambda m: seen.append(m.level))
    us = talker.participant
    topic = us._topic("rt/flag", FLAG)
    ours = us.hash_data(FLAG)
    writers = []
    for data in (f"typehash=RIHS01_{'0' * 64};", ours, "", "typehash=RIHS02_1;"):
        with dds_qos(Qos(depth=10), data) as qos:
            writers.append(RawWriter(us.handle, topic, qos, "flag"))
    until(lambda: all(writer.matched() for writer in writers))
    for _ in range(2):
        for level, writer in enumerate(writers):
            writer.write(us.serialize(talker.make(FLAG, level=level)))
    until(lambda: len(seen) >= 6)
    assert sorted(seen) == [1, 1, 2, 2, 3, 3]
    (warning,) = [m for m in caplog.messages if "another definition" in m]
    assert "RIHS01_0000" in warning
    assert ours.removeprefix("typehash=").rstrip(";") in warning


def test_an_error_while_taking_messages_is_a_failure_and_timers_go_on(
    defective: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = defective("gate")
    ticks: list[int] = []
    backend.subscribe("x", STRING, Qos(), lambda m: None)
    backend.timer(0.01, lambda: ticks.append(1))

    def take(self: RawReader, limit: int = 16) -> Any:
        monkeypatch.undo()
        raise MemoryError("an image too large")

    monkeypatch.setattr(RawReader, "take", take)
    backend.publisher("x", STRING, Qos()).publish(backend.make(STRING))
    until(lambda: backend.failure)
    assert isinstance(backend.failure, MemoryError)
    before = len(ticks)
    until(lambda: len(ticks) > before + 2)


def test_the_end_of_the_callback_thread_is_a_failure(
    participant: DdsParticipant,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dispatcher = Dispatcher(participant.handle, "a")
    monkeypatch.setattr(dispatcher, "_run_timers", lambda: 1 // 0)
    dispatcher._wake()
    until(lambda: not dispatcher._thread.is_alive())
    assert isinstance(dispatcher.failure, ZeroDivisionError)
    assert "the thread of the callbacks ended" in caplog.messages

    dispatcher = Dispatcher(participant.handle, "b")
    dispatcher._delete()  # what it waits for is gone
    until(lambda: not dispatcher._thread.is_alive())
    assert "waiting failed" in str(dispatcher.failure)


def test_a_callback_that_exits_is_a_failure(defective: Any, until: Until) -> None:
    backend = defective("gate")
    ticks: list[int] = []

    def leave() -> None:
        ticks.append(1)
        raise SystemExit(0)

    backend.timer(0.01, leave)
    until(lambda: len(ticks) > 2)
    assert isinstance(backend.failure, SystemExit)


def test_no_callback_begins_after_close_returned(node: Any) -> None:
    """Closing waits for a callback that runs; one that is about to run does not begin."""
    backend = node("listener")
    inside, log = threading.Event(), []

    def callback() -> None:
        inside.set()
        time.sleep(0.1)
        log.append("callback")

    timer = backend.timer(0.01, callback)
    assert inside.wait(5.0)
    timer.close()
    log.append("closed")
    time.sleep(0.15)
    assert log == ["callback", "closed"]


def test_a_callback_that_hangs_does_not_hang_who_closes_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jepa_edge.dds.dispatcher._JOIN_S", 0.05)
    inside, over = threading.Event(), threading.Event()
    closed: list[int] = []

    def callback() -> None:
        inside.set()
        over.wait(10.0)

    registration = Registration(lambda: closed.append(1))
    thread = threading.Thread(target=lambda: registration.call(callback))
    thread.start()
    assert inside.wait(5.0)
    registration.close()
    over.set()
    thread.join()
    assert closed == [1]
    assert "a callback has not ended" in caplog.text


class Owner:
    """What holds the model: alive as long as anything can still call it."""

    def on_message(self, message: Any) -> None:
        """Take a message."""

    def on_tick(self) -> None:
        """Take a tick."""

    def on_request(self, request: Any) -> Any:
        """Answer."""

    def on_later(self, request: Any, reply: Any) -> None:
        """Answer later."""


@pytest.mark.parametrize(
    "use",
    [
        lambda node, owner: node.service("ask", TRIGGER, owner.on_request),
        lambda node, owner: node.deferred_service("ask", TRIGGER, owner.on_later),
        lambda node, owner: node.action("plan", PLAN, owner.on_request),
        lambda node, owner: node.subscribe("x", STRING, Qos(), owner.on_message),
        lambda node, owner: node.timer(0.005, owner.on_tick),
        lambda node, owner: node.client("ask", TRIGGER),
    ],
    ids=["service", "deferred", "action", "subscription", "timer", "client"],
)
def test_what_is_closed_is_let_go(node: Any, use: Any) -> None:
    """A model that is configured again would otherwise stay in memory with every time."""
    backend = node("worker")
    publisher = backend.publisher("x", STRING, Qos())
    before = len(backend._owned)
    owner = Owner()
    kept = weakref.ref(owner)
    part = use(backend, owner)
    part_kept = weakref.ref(part)
    publisher.publish(backend.make(STRING))
    time.sleep(0.05)
    part.close()
    part.close()
    time.sleep(0.02)
    del part, owner
    gc.collect()
    assert kept() is None
    assert part_kept() is None
    assert len(backend._owned) == before
    readers, writers = backend.participant.graph._nodes["/worker"]
    assert (readers, writers) == ([], [publisher._writer.gid])


class Goals:
    """Sends goals by number, and asks for their ends."""

    def __init__(self, node: Any) -> None:
        self._make = node.make
        self._send = node.client("/plan/_action/send_goal", f"{PLAN}_SendGoal")
        self._result = node.client("/plan/_action/get_result", f"{PLAN}_GetResult")

    def status(self, number: int) -> int:
        goal_id = self._make("unique_identifier_msgs/msg/UUID", uuid=[number] * 16)
        assert self._send.call(self._make(f"{PLAN}_SendGoal_Request", goal_id=goal_id)).accepted
        request = self._make(f"{PLAN}_GetResult_Request", goal_id=goal_id)
        return int(self._result.call(request).status)


def test_goals_go_on_after_a_result_that_cannot_be_sent(
    defective: Any, peer_node: Any, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    backend = defective("planner")

    def execute(goal: Any) -> Any:
        time.sleep(0.1)  # so that the client waits for the result
        goal.succeed()
        result = backend.make(f"{PLAN}_Result")
        if backend.failure is None:
            result.replans = -1
        return result

    server = backend.action("plan", PLAN, execute)
    goals = Goals(peer_node("tool"))
    assert goals.status(1) == 6
    assert isinstance(backend.failure, InputError)
    assert goals.status(2) == 4

    finish = server._finish

    def broken(goal: Any, result: Any) -> None:
        monkeypatch.undo()
        finish(goal, result)
        raise OSError("the network is gone")

    monkeypatch.setattr(server, "_finish", broken)
    backend.dispatcher.failure = None
    server._execute = lambda goal: None
    assert goals.status(3) == 6
    until(lambda: backend.failure)
    assert isinstance(backend.failure, OSError)
    assert goals.status(4) == 6


def test_a_malformed_or_late_answer_is_dropped(
    peer_node: Any, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    server, asking = peer_node("server"), peer_node("asking")
    client = asking.client("/ask", TRIGGER)
    writer = server.participant.writer(
        server.name, reply_name("/ask"), f"{TRIGGER}_Response", SERVICE_QOS, extra="serviceid=9;"
    )
    until(lambda: writer.matched())
    writer.write(b"\x00\x01\x00\x00" + bytes(8))
    own = client._client.to_bytes(8, "little")
    writer.write(b"\x00\x01\x00\x00" + own + bytes(8) + b"\x01\xff\xff\xff")
    until(lambda: "/ask: an answer was dropped" in caplog.text)
    writer.close()

    replies: list[Any] = []
    server.deferred_service("/ask", TRIGGER, lambda request, reply: replies.append(reply))
    with pytest.raises(InputError, match="no answer"):
        client.call(asking.make(f"{TRIGGER}_Request"), 1.0)
    assert len(replies) == 1
    replies[0](server.make(f"{TRIGGER}_Response"))
    time.sleep(0.2)
    assert client._answers == {}


def test_what_does_not_fit_is_said_by_publish(node: Any) -> None:
    backend = node("talker")
    message = backend.make(FLAG)
    message.level = 256
    with pytest.raises(InputError, match="ConfidenceFlag cannot be written"):
        backend.publisher("x", FLAG, Qos()).publish(message)


def test_the_first_failure_is_kept(participant: DdsParticipant) -> None:
    dispatcher = Dispatcher(participant.handle, "a")
    first = ValueError("first")
    dispatcher.fail("one", first)
    dispatcher.fail("two", ValueError("second"))
    dispatcher.close()
    assert dispatcher.failure is first
