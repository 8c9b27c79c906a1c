# SPDX-License-Identifier: Apache-2.0
"""`DdsBackend` keeps what jepa_edge/nodes/backend.py promises."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jepa_edge.dds.participant import DdsParticipant
from jepa_edge.dds.rosout import RosoutHandler
from jepa_edge.errors import InputError
from jepa_edge.nodes.backend import Backend
from jepa_edge.nodes.parameters import Parameter
from jepa_edge.nodes.qos import Qos

STRING = "std_msgs/msg/String"
ARRAY = "std_msgs/msg/Float32MultiArray"
LATCHED = Qos(depth=1, transient_local=True)
Until = Callable[..., None]


def test_messages_arrive_in_order_and_never_at_the_same_time(node: Any, until: Until) -> None:
    backend: Backend = node("listener", namespace="robot1", remaps={"b": "/elsewhere"})
    inside = threading.Semaphore(1)
    seen: list[str] = []

    def callback(message: Any) -> None:
        assert inside.acquire(blocking=False)
        time.sleep(0.001)
        seen.append(message.data)
        inside.release()

    backend.subscribe("a", STRING, Qos(depth=100), callback)
    backend.subscribe("b", STRING, Qos(depth=100), callback)
    talker = node("talker")
    one = talker.publisher("/robot1/a", STRING, Qos(depth=100))
    two = talker.publisher("/elsewhere", STRING, Qos(depth=100))
    for index in range(20):
        one.publish(talker.make(STRING, data=f"a{index}"))
        two.publish(talker.make(STRING, data=f"b{index}"))

    until(lambda: len(seen) == 40)
    for topic in "ab":
        assert [s for s in seen if s[0] == topic] == [f"{topic}{i}" for i in range(20)]


def test_arrays_arrive_as_arrays_of_the_fields_type(node: Any, until: Until) -> None:
    backend = node("both")
    seen: list[Any] = []
    backend.subscribe("x", ARRAY, Qos(), seen.append)
    values = np.linspace(-1.0, 1.0, 7, dtype=np.float32)
    backend.publisher("x", ARRAY, Qos()).publish(backend.make(ARRAY, data=values))

    until(lambda: seen)
    got = np.asarray(seen[0].data)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, values)


def test_late_subscribers_get_the_latched_message(peer_node: Any, until: Until) -> None:
    publisher = peer_node("early").publisher("info", STRING, LATCHED)
    publisher.publish(peer_node("maker").make(STRING, data="old"))
    publisher.publish(peer_node("maker2").make(STRING, data="latched"))
    seen: list[str] = []
    peer_node("late").subscribe("info", STRING, LATCHED, lambda m: seen.append(m.data))

    until(lambda: seen)
    assert seen == ["latched"]


@pytest.mark.parametrize(
    ("offered", "asked", "policy"),
    [
        (Qos(reliable=False), Qos(reliable=True), "reliability"),
        (Qos(), LATCHED, "durability"),
        (Qos(deadline_s=1.0), Qos(deadline_s=0.1), "deadline"),
    ],
)
def test_what_does_not_fit_is_warned_of_on_both_sides(
    peer_node: Any,
    until: Until,
    caplog: pytest.LogCaptureFixture,
    offered: Qos,
    asked: Qos,
    policy: str,
) -> None:
    with caplog.at_level(logging.WARNING, "jepa_edge"):
        publisher = peer_node("a").publisher("x", STRING, offered)
        peer_node("b").subscribe("x", STRING, asked, lambda m: None)
        until(lambda: len(caplog.messages) >= 2)
    assert publisher.matched == 0
    assert f"/x: a publisher offers an incompatible {policy}; no message of it will arrive" in (
        caplog.messages
    )
    assert f"/x: a subscriber asks for an incompatible {policy}; it will get no message" in (
        caplog.messages
    )


def test_a_best_effort_reader_takes_a_reliable_writer(peer_node: Any, until: Until) -> None:
    seen: list[Any] = []
    reader = Qos(reliable=False, depth=1)
    peer_node("b").subscribe("x", STRING, reader, lambda m: seen.append(m.data))
    talker = peer_node("a")
    publisher = talker.publisher("x", STRING, Qos(deadline_s=0.5))
    until(lambda: publisher.matched)
    publisher.publish(talker.make(STRING, data="hello"))
    until(lambda: seen)


def test_nothing_is_called_after_close(node: Any, until: Until) -> None:
    backend = node("listener")
    talker = node("talker")
    publisher = talker.publisher("x", STRING, Qos())
    seen: list[str] = []
    subscription = backend.subscribe("x", STRING, Qos(), lambda m: seen.append(m.data))
    publisher.publish(talker.make(STRING, data="1"))
    until(lambda: seen)

    subscription.close()
    subscription.close()
    publisher.publish(talker.make(STRING, data="2"))
    publisher.close()
    publisher.close()
    publisher.publish(talker.make(STRING, data="3"))  # dropped, no error: threads end in any order
    time.sleep(0.05)
    assert seen == ["1"]


def test_a_callback_may_close_its_own_subscription_and_timer(node: Any, until: Until) -> None:
    backend = node("self")
    publisher = backend.publisher("x", STRING, Qos())
    seen: list[str] = []
    ticks: list[int] = []

    def on_message(message: Any) -> None:
        seen.append(message.data)
        subscription.close()

    def on_tick() -> None:
        ticks.append(1)
        timer.close()

    subscription = backend.subscribe("x", STRING, Qos(), on_message)
    timer = backend.timer(0.01, on_tick)
    for _ in range(3):
        publisher.publish(backend.make(STRING, data="x"))
    until(lambda: seen and ticks)
    time.sleep(0.05)
    assert (len(seen), len(ticks)) == (1, 1)


def test_closing_while_others_publish_and_call_back_is_safe(participant: DdsParticipant) -> None:
    from jepa_edge.dds.backend import DdsBackend

    for _ in range(10):
        backend = DdsBackend(participant, "busy")
        publisher = backend.publisher("x", ARRAY, Qos(depth=100))
        backend.subscribe("x", ARRAY, Qos(depth=100), lambda m: None)
        backend.timer(0.001, lambda: None)
        stop = threading.Event()

        def flood(backend: Any = backend, publisher: Any = publisher, stop: Any = stop) -> None:
            while not stop.is_set():
                publisher.publish(backend.make(ARRAY, data=np.zeros(1000, np.float32)))

        threads = [threading.Thread(target=flood) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        backend.close()
        backend.close()
        stop.set()
        for thread in threads:
            thread.join()
        assert backend.failure is None


def test_a_callback_that_fails_is_kept_for_the_main_thread(
    participant: DdsParticipant, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    from jepa_edge.dds.backend import DdsBackend

    backend = DdsBackend(participant, "defect")
    ticks: list[int] = []

    def fail() -> None:
        ticks.append(1)
        raise ZeroDivisionError

    backend.timer(0.01, fail)
    until(lambda: len(ticks) > 2)  # the others go on: a watchdog keeps its word
    backend.close()
    assert isinstance(backend.failure, ZeroDivisionError)
    assert "a callback failed" in caplog.messages


def test_a_message_of_another_layout_is_dropped_with_a_warning(
    node: Any, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    backend = node("listener")
    seen: list[str] = []
    backend.subscribe("x", STRING, Qos(), lambda m: seen.append(m.data))
    writer = backend.participant.writer(backend.name, "rt/x", STRING, Qos())
    writer.write(b"\x00\x01\x00\x00\xff\xff\xff\x7fno string")
    writer.write(b"\x00\x01\x00\x00\x03\x00\x00\x00ok\x00")
    until(lambda: seen)
    assert seen == ["ok"]
    assert "/x: a message was dropped" in caplog.text


def test_wrong_types_and_names_are_refused(node: Any) -> None:
    backend = node("strict")
    publisher = backend.publisher("x", STRING, Qos())
    with pytest.raises(InputError, match=ARRAY):
        publisher.publish(backend.make(ARRAY))
    with pytest.raises(InputError, match="no ROS type"):
        backend.publisher("y", "std_msgs/msg/Nothing", Qos())
    with pytest.raises(InputError, match="no ROS type"):
        backend.make("std_msgs/msg/Nothing")
    with pytest.raises(InputError, match="no field 'datum'; it has data"):
        backend.make(STRING, datum=1)
    with pytest.raises(InputError, match="expected parts"):
        backend.subscribe("a//b", STRING, Qos(), print)
    with pytest.raises(InputError, match="expected above 0"):
        backend.timer(0.0, print)
    with pytest.raises(InputError, match="there is a node /strict"):
        node("strict")


def test_time_is_the_systems_or_simulated(node: Any, until: Until) -> None:
    system = node("system")
    system.parameters(())
    assert abs(system.now_ns() - time.time_ns()) < 1e9

    simulated = node("simulated", values={"use_sim_time": True})
    values = simulated.parameters((Parameter(name="a", default=1, description="A."),))
    assert dict(values) == {"a": 1, "use_sim_time": True}
    assert simulated.now_ns() == 0
    clock = system.publisher("/clock", "rosgraph_msgs/msg/Clock", Qos())
    message = system.make("rosgraph_msgs/msg/Clock")
    message.clock.sec, message.clock.nanosec = 12, 345
    clock.publish(message)
    until(lambda: simulated.now_ns())
    assert simulated.now_ns() == 12 * 10**9 + 345


def test_log_records_reach_rosout(peer_node: Any, until: Until) -> None:
    backend = peer_node("worker", namespace="/robot1")
    seen: list[Any] = []
    peer_node("console").subscribe(
        "/rosout", "rcl_interfaces/msg/Log", Qos(transient_local=True), seen.append
    )
    logger = logging.getLogger("jepa_edge.test_rosout")
    with RosoutHandler(backend, logger):
        logger.warning("%d frames dropped", 3)
        logger.debug("not this")
    logger.warning("nor that")
    until(lambda: seen)
    time.sleep(0.05)
    (record,) = seen
    assert (record.level, record.name, record.msg) == (30, "robot1.worker", "3 frames dropped")
    assert record.file.endswith("test_backend.py")
    assert record.stamp.sec > 0


def test_the_graph_names_nodes_and_endpoints(peer_node: Any, until: Until) -> None:
    """Whoever listens to ros_discovery_info, as `ros2 node list` does, sees every change."""
    watcher = peer_node("watcher")
    name = "rmw_dds_common/msg/ParticipantEntitiesInfo"
    reader = watcher.participant.reader(watcher.name, "ros_discovery_info", name, LATCHED)
    infos: list[Any] = []
    watcher.dispatcher.on_sample(
        reader,
        lambda s: infos.append(watcher.participant.store.deserialize_cdr(s.payload, name)),
    )

    def seen() -> set[tuple[str, str, int, int]]:
        own = [i for i in infos if bytes(i.gid.data) == backend.participant.gid]
        return {
            (n.node_namespace, n.node_name, len(n.reader_gid_seq), len(n.writer_gid_seq))
            for n in (own[-1].node_entities_info_seq if own else ())
        }

    backend = peer_node("one", namespace="/robot1")
    publisher = backend.publisher("x", STRING, Qos())
    subscription = backend.subscribe("y", STRING, Qos(), print)
    until(lambda: seen() == {("/robot1", "one", 1, 1)})
    publisher.close()
    subscription.close()
    until(lambda: seen() == {("/robot1", "one", 0, 0)})
    backend.close()
    until(lambda: seen() == set())


@pytest.mark.parametrize("ending", ["participant.close()", "pass", "sys.exit(3)", "1 / 0"])
def test_a_process_ends_cleanly_however_it_ends(ending: str) -> None:
    code = (
        "import sys, time\n"
        "from jepa_edge.dds.backend import DdsBackend\n"
        "from jepa_edge.dds.participant import DdsParticipant\n"
        "from jepa_edge.nodes.qos import Qos\n"
        "participant = DdsParticipant(41, localhost=True)\n"
        "node = DdsBackend(participant, 'careless')\n"
        "p = node.publisher('x', 'std_msgs/msg/String', Qos())\n"
        "node.subscribe('x', 'std_msgs/msg/String', Qos(), lambda m: None)\n"
        "node.timer(0.001, lambda: p.publish(node.make('std_msgs/msg/String')))\n"
        f"time.sleep(0.05)\n{ending}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    expected = {"sys.exit(3)": 3, "1 / 0": 1}.get(ending, 0)
    assert done.returncode == expected, done.stderr
    assert "Fatal" not in done.stderr
    assert ("ZeroDivisionError" in done.stderr) == (ending == "1 / 0")
    if expected != 1:
        assert done.stderr == ""
