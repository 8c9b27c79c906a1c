# SPDX-License-Identifier: Apache-2.0
"""Live topics over DDS become a bag that is whole, whoever ends the recording."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader, Writer

from jepa_edge.bags.reader import Bag
from jepa_edge.bags.recorder import Recorder, recorder
from jepa_edge.cli.record import command as record
from jepa_edge.cli.record_dds import topics_of
from jepa_edge.dds.backend import DdsBackend
from jepa_edge.dds.participant import DdsParticipant
from jepa_edge.errors import InputError
from jepa_edge.nodes.messages import IMAGE, MODEL_INFO, header
from jepa_edge.nodes.qos import Qos
from jepa_edge.ros_types import ACTION, type_hash, typestore

DOMAIN = 82
TOPICS = {"/image", "/action", "/jepa/model_info"}


class Talker:
    """A robot on the wire: images best effort, commands reliable, one message for late joiners."""

    def __init__(self, domain: int) -> None:
        self.participant = DdsParticipant(domain, localhost=True)
        self.backend = DdsBackend(self.participant, "robot")
        make = self.make = self.backend.make
        self.images = self.backend.publisher("image", IMAGE, Qos(reliable=False, depth=5))
        self.actions = self.backend.publisher("action", ACTION, Qos(depth=50))
        latched = Qos(depth=1, transient_local=True, deadline_s=0.5)
        self.infos = self.backend.publisher("jepa/model_info", MODEL_INFO, latched)
        self.infos.publish(make(MODEL_INFO, bundle="pusht.jepa", header=header(make, 7, "")))
        self.sent = 0

    def say(self) -> None:
        """Send an image and a command, numbered."""
        self.sent += 1
        pixels = np.full(192, self.sent % 256, np.uint8)
        head = header(self.make, self.sent * 10**9 + 1, "camera")
        self.images.publish(
            self.make(IMAGE, header=head, height=8, width=8, encoding="rgb8", step=24, data=pixels)
        )
        self.actions.publish(self.make(ACTION, data=np.full(4, self.sent, np.float32)))

    def close(self) -> None:
        self.backend.close()
        self.participant.close()


@pytest.fixture
def talker() -> Iterator[Talker]:
    made = Talker(DOMAIN)
    yield made
    made.close()


@pytest.fixture
def listener() -> Iterator[DdsParticipant]:
    with DdsParticipant(DOMAIN, localhost=True) as made:
        yield made


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_what_is_on_the_wire_is_in_the_bag(
    storage: str, talker: Talker, listener: DdsParticipant, tmp_path: Path
) -> None:
    out = tmp_path / "run_1"
    end_s = time.monotonic() + 8.0
    with recorder(out, listener, TOPICS, storage=storage) as made:

        def enough() -> bool:
            if talker.images.matched and talker.actions.matched:
                talker.say()
            assert not out.exists(), "a bag appears when it is whole"
            return made.account.messages["/action"] >= 12 or time.monotonic() > end_s

        made.run(enough)
    assert [path.name for path in tmp_path.iterdir()] == ["run_1"]
    suffix = {"mcap": "mcap", "sqlite3": "db3"}[storage]
    assert {path.name for path in out.iterdir()} == {"metadata.yaml", f"run_1.{suffix}"}
    bag = Bag(out)
    assert bag.topics == {"/image": IMAGE, "/action": ACTION, "/jepa/model_info": MODEL_INFO}
    said = list(bag.messages(["/action"]))
    numbers = [int(entry.message.data[0]) for entry in said]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len(numbers) >= 12
    received = [entry.received_ns for entry in said]
    assert received == sorted(received)
    assert abs(received[-1] - time.time_ns()) < 60 * 10**9
    (info,) = bag.messages(["/jepa/model_info"])
    assert info.message.bundle == "pusht.jepa"
    image = next(iter(bag.messages(["/image"]))).message
    assert image.header.stamp.sec == image.data[0]


def test_the_bag_tells_types_and_quality_of_service(
    talker: Talker, listener: DdsParticipant, tmp_path: Path
) -> None:
    end_s = time.monotonic() + 8.0
    with recorder(tmp_path / "bag", listener, None) as made:

        def enough() -> bool:
            talker.say()
            return set(made.account.messages) >= TOPICS or time.monotonic() > end_s

        made.run(enough)
    with Reader(tmp_path / "bag") as reader:
        found = {connection.topic: connection for connection in reader.connections}
    assert found.keys() >= TOPICS
    assert found["/image"].digest == type_hash(typestore(), IMAGE)
    profiles = {topic: found[topic].ext.offered_qos_profiles[0] for topic in TOPICS}  # type: ignore[union-attr]
    assert profiles["/image"].reliability is QosReliability.BEST_EFFORT
    assert profiles["/action"].reliability is QosReliability.RELIABLE
    assert profiles["/jepa/model_info"].durability is QosDurability.TRANSIENT_LOCAL
    deadline = profiles["/jepa/model_info"].deadline
    assert (deadline.sec, deadline.nsec) == (0, 500_000_000)


def test_a_publisher_of_less_is_heard_too(
    talker: Talker, listener: DdsParticipant, tmp_path: Path
) -> None:
    """Where a topic's second publisher is best effort, a reliable reader would not hear it."""
    other: list[Any] = []
    end_s = time.monotonic() + 8.0
    with recorder(tmp_path / "bag", listener, {"/action"}) as made:

        def enough() -> bool:
            if made.account.messages["/action"] >= 3 and not other:
                node = DdsBackend(talker.participant, "second")
                other.append(node)
                other.append(node.publisher("action", ACTION, Qos(reliable=False)))
            if other:
                other[1].publish(talker.make(ACTION, data=np.full(4, -1.0, np.float32)))
            talker.say()
            return made.account.messages["/action"] >= 60 or time.monotonic() > end_s

        made.run(enough)
    other[0].close()
    numbers = {float(e.message.data[0]) for e in Bag(tmp_path / "bag").messages(["/action"])}
    assert -1.0 in numbers
    assert len(numbers) > 3


def test_nothing_recorded_leaves_nothing(listener: DdsParticipant, tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="nothing was recorded"),
        recorder(tmp_path / "bag", listener, {"/silence"}) as made,
    ):
        made.run(lambda: True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "bag").mkdir()
    with (
        pytest.raises(InputError, match="exists already"),
        recorder(tmp_path / "bag", listener, {"/silence"}),
    ):
        pass


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_bag(kind: signal.Signals, talker: Talker, tmp_path: Path) -> None:
    out = tmp_path / "bag"
    arguments = ["record", "dds", "--out", str(out), "--localhost", "--json"]
    code = "from jepa_edge.cli.app import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    over = threading.Event()

    def say() -> None:
        while not over.wait(0.01):
            talker.say()

    saying = threading.Thread(target=say)
    saying.start()
    try:
        end_s = time.monotonic() + 15.0
        while not talker.images.matched and time.monotonic() < end_s:
            time.sleep(0.02)
        time.sleep(0.4)
        process.send_signal(kind)
        stdout, stderr = process.communicate(timeout=15.0)
    finally:
        over.set()
        saying.join()
        process.kill()
    assert process.returncode == 0, stderr
    told = json.loads(stdout)
    bag = Bag(out)
    assert told["messages"]["/image"] == sum(1 for _ in bag.messages(["/image"])) > 5
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_a_full_disk_leaves_what_was_written(
    talker: Talker, listener: DdsParticipant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bag"
    end_s = time.monotonic() + 8.0
    write, count = Writer.write, [0]

    def full(writer: Writer, *arguments: Any) -> None:
        count[0] += 1
        if count[0] > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, *arguments)

    monkeypatch.setattr(Writer, "write", full)

    def until() -> bool:
        talker.say()
        return time.monotonic() > end_s

    with (
        pytest.raises(InputError, match="No space left") as error,
        recorder(out, listener, {"/action"}) as made,
    ):
        made.run(until)
    (kept,) = tmp_path.iterdir()
    assert str(kept) in str(error.value)
    assert "mcap recover" in str(error.value)
    assert (kept / "bag.mcap").is_file()


def test_topics_are_those_of_the_node() -> None:
    names = topics_of("/robot1", "/cam/image_raw", None, None, ("extra",))
    assert {"/cam/image_raw", "/robot1/action", "/robot1/jepa/flag", "/robot1/extra"} <= names
    assert "/parameter_events" in names
    assert "/robot1/image" not in names
    assert "/jepa/flag" in topics_of("/", None, None, None, ())


def test_options_that_nothing_listens_to_are_refused(tmp_path: Path) -> None:
    def told(*arguments: str) -> str:
        result = CliRunner().invoke(record, [*arguments, "--out", str(tmp_path / "x")])
        return str(result.exception)

    assert "--episodes" in told("dds", "--episodes", "3")
    assert "--from" in told("dds", "--from", str(tmp_path))
    assert "--duration" in told("sim:pusht", "--duration", "3")
    assert "expected seconds above 0" in told("dds", "--duration", "-1")


def test_a_failing_receiver_ends_the_recording_and_keeps_the_bag(
    talker: Talker, listener: DdsParticipant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_s = time.monotonic() + 8.0
    take, count = Recorder._take, [0]

    def broken(self: Recorder, topic: str, payload: memoryview) -> None:
        count[0] += 1
        if count[0] > 10:
            raise MemoryError("no room for a message")
        take(self, topic, payload)

    monkeypatch.setattr(Recorder, "_take", broken)

    def until() -> bool:
        talker.say()
        return time.monotonic() > end_s

    with recorder(tmp_path / "bag", listener, {"/action"}) as made:
        made.run(until)
    assert time.monotonic() < end_s
    assert isinstance(made.account.failure, MemoryError)
    assert sum(1 for _ in Bag(tmp_path / "bag").messages(["/action"])) == 10
