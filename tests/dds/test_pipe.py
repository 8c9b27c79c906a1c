# SPDX-License-Identifier: Apache-2.0
"""Bytes go through DDS unchanged: within a process, and from one process to another."""

from __future__ import annotations

import hashlib
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_edge.dds import clib
from jepa_edge.dds.clib import Sample
from jepa_edge.dds.dispatcher import Dispatcher
from jepa_edge.dds.endpoints import RawReader
from jepa_edge.dds.participant import DdsParticipant
from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.nodes.qos import Qos

STRING = "std_msgs/msg/String"
IMAGE = "sensor_msgs/msg/Image"


def _cdr_string(text: str) -> bytes:
    """CDR by hand: encapsulation, length with the terminator, characters."""
    return b"\x00\x01\x00\x00" + struct.pack("<I", len(text) + 1) + text.encode() + b"\0"


def _take(reader: RawReader) -> list[Sample]:
    end_s = time.monotonic() + 5.0
    found: list[Sample] = []
    while not found and time.monotonic() < end_s:
        found += reader.take()
        time.sleep(0.002)
    return found


@pytest.mark.parametrize("text", ["", "a", "ab", "abc", "abcd", "x" * 70_000])
def test_every_length_arrives_byte_for_byte(participant: DdsParticipant, text: str) -> None:
    reader = participant.reader("/a", "rt/text", STRING, Qos())
    writer = participant.writer("/a", "rt/text", STRING, Qos())

    assert writer.write(_cdr_string(text))

    (sample,) = _take(reader)
    sent = _cdr_string(text)
    assert bytes(sample.payload[: len(sent)]) == sent
    assert len(sample.payload) == len(sent) + -len(sent) % 4  # padded, as RTPS wants it
    assert abs(sample.source_ns - time.time_ns()) < 5e9


def test_pieces_are_joined(participant: DdsParticipant) -> None:
    reader = participant.reader("/a", "rt/text", STRING, Qos())
    writer = participant.writer("/a", "rt/text", STRING, Qos())
    whole = _cdr_string("pieces")

    writer.write(whole[:8], memoryview(whole)[8:])

    assert bytes(_take(reader)[0].payload)[: len(whole)] == whole


def test_bytes_that_are_no_cdr_are_refused(participant: DdsParticipant) -> None:
    writer = participant.writer("/a", "rt/text", STRING, Qos())
    with pytest.raises(InputError, match="no CDR"):
        writer.write(b"\xff\xff\xff\xff1234")
    with pytest.raises(InputError, match="no CDR"):
        writer.write(b"\x00\x01\x00\x00")


def test_a_writer_that_leaves_makes_no_sample(
    participant: DdsParticipant, until: Callable[..., None]
) -> None:
    """A reader is told by a sample without data (shared/facts/ros2.md); it must not be read."""
    with DdsParticipant(40, localhost=True) as other:
        reader = participant.reader("/a", "rt/text", STRING, Qos())
        writer = other.writer("/b", "rt/text", STRING, Qos())
        writer.write(_cdr_string("last words"))
        assert len(_take(reader)) == 1
    until(lambda: not reader.matched())
    for _ in range(20):
        assert reader.take() == []
        time.sleep(0.005)


def test_a_topic_has_one_type_in_a_process(participant: DdsParticipant) -> None:
    participant.writer("/a", "rt/text", STRING, Qos())
    with pytest.raises(InputError, match=STRING):
        participant.reader("/a", "rt/text", IMAGE, Qos())


def test_many_threads_write_at_once_and_nothing_is_lost(participant: DdsParticipant) -> None:
    reader = participant.reader("/a", "rt/text", STRING, Qos(depth=1000))
    writer = participant.writer("/a", "rt/text", STRING, Qos(depth=1000))

    def write(number: int) -> None:
        for index in range(100):
            assert writer.write(_cdr_string(f"{number}-{index}"))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    arrived = []
    while samples := reader.take(256):
        arrived += [bytes(s.payload[8:]).split(b"\0")[0].decode() for s in samples]
    for number in range(8):  # in order, each thread for itself
        assert [a for a in arrived if a.startswith(f"{number}-")] == [
            f"{number}-{i}" for i in range(100)
        ]


_RECEIVER = textwrap.dedent(
    """
    import hashlib, sys, threading
    from jepa_edge.dds.backend import DdsBackend
    from jepa_edge.dds.participant import DdsParticipant
    from jepa_edge.nodes.qos import Qos
    done = threading.Event()
    with DdsParticipant(40, localhost=True) as participant:
        node = DdsBackend(participant, "receiver")
        back = node.publisher("digest", "std_msgs/msg/String", Qos())
        def on_image(image):
            text = f"{image.header.stamp.sec} {image.width}x{image.height} {image.encoding} "
            text += hashlib.sha256(image.data).hexdigest()
            back.publish(node.make("std_msgs/msg/String", data=text))
        node.subscribe("image", "sensor_msgs/msg/Image", Qos(), on_image)
        node.subscribe("stop", "std_msgs/msg/String", Qos(), lambda m: done.set())
        print("ready", flush=True)
        assert done.wait(30)
        node.close()
    """
)


def test_a_camera_frame_goes_to_another_process_and_its_digest_back(
    node: Any, until: Callable[..., None]
) -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    receiver = subprocess.Popen(
        [sys.executable, "-c", _RECEIVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        camera = node("camera")
        images = camera.publisher("image", IMAGE, Qos())
        stop = camera.publisher("stop", STRING, Qos())
        answers: list[str] = []
        camera.subscribe("digest", STRING, Qos(), lambda message: answers.append(message.data))
        until(lambda: images.matched and stop.matched, 20.0)
        message = camera.make(
            IMAGE, height=480, width=640, encoding="rgb8", step=1920, data=frame.reshape(-1)
        )
        for second in range(5):
            message.header.stamp.sec = second
            images.publish(message)
            until(lambda n=second + 1: len(answers) == n)
        digest = hashlib.sha256(frame.tobytes()).hexdigest()
        assert answers == [f"{second} 640x480 rgb8 {digest}" for second in range(5)]
        stop.publish(camera.make(STRING))
        out, errors = receiver.communicate(timeout=20)
    finally:
        receiver.kill()
        receiver.wait()
    assert receiver.returncode == 0, errors
    assert errors == ""
    assert out == "ready\n"


def test_a_frame_costs_far_less_than_a_millisecond_to_read(participant: DdsParticipant) -> None:
    """59 ms is what cyclonedds' own codec takes for a smaller one; ours copies it once."""
    reader = participant.reader("/a", "rt/image", IMAGE, Qos())
    writer = participant.writer("/a", "rt/image", IMAGE, Qos())
    data = np.zeros(480 * 640 * 3, np.uint8)
    payload = participant.serialize(participant.make(IMAGE, height=480, step=1920, data=data))
    best_s = 1.0
    for _ in range(20):
        writer.write(payload)
        time.sleep(0.002)
        begun_s = time.perf_counter()
        (sample,) = _take(reader)[:1]
        participant.store.deserialize_cdr(sample.payload, IMAGE)
        best_s = min(best_s, time.perf_counter() - begun_s)
    assert best_s < 0.003 + 0.002  # _take may sleep once


def test_waiting_costs_no_time_of_the_processor(participant: DdsParticipant) -> None:
    dispatcher = Dispatcher(participant.handle, "idle")
    reader = participant.reader("/a", "rt/text", STRING, Qos())
    dispatcher.on_sample(reader, lambda sample: None)
    begun_s = time.process_time()
    time.sleep(1.0)
    spent_s = time.process_time() - begun_s
    dispatcher.close()
    assert spent_s < 0.05


def test_the_library_is_the_packages_or_one_built_from_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = clib._library_path()
    assert path.endswith(f".so.{clib.VERSION}")

    monkeypatch.setattr(clib, "version", lambda name: "0.10.5")
    monkeypatch.delenv("CYCLONEDDS_HOME", raising=False)
    with pytest.raises(MissingDependencyError, match=r"got cyclonedds 0\.10\.5;.*jepa-edge\[dds\]"):
        clib._library_path()
    built = tmp_path / "lib" / "libddsc.so"
    built.parent.mkdir()
    monkeypatch.setenv("CYCLONEDDS_HOME", str(tmp_path))
    (built.parent / "libddsc.so.0.10.5").touch()
    built.symlink_to("libddsc.so.0.10.5")
    with pytest.raises(MissingDependencyError, match="of CYCLONEDDS_HOME"):
        clib._library_path()
    built.unlink()
    shutil.copy(path, built.parent / "libddsc.so.11.0.1")
    built.symlink_to("libddsc.so.11.0.1")
    assert clib.Library().dds_strretcode(-10).decode() == "Timeout"


def test_a_reader_that_does_not_keep_up_never_makes_the_writer_wait(
    participant: DdsParticipant,
) -> None:
    """A stopped process acknowledges nothing; by keep-last the writer lets the oldest go."""
    stuck = subprocess.Popen(
        [sys.executable, "-c", _RECEIVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        writer = participant.writer("/a", "rt/image", IMAGE, Qos())
        end_s = time.monotonic() + 20.0
        while not writer.matched():
            assert time.monotonic() < end_s
            time.sleep(0.01)
        stuck.send_signal(signal.SIGSTOP)
        data = np.zeros(480 * 640 * 3, np.uint8)
        payload = participant.serialize(participant.make(IMAGE, data=data))
        worst_s = 0.0
        for _ in range(20):
            begun_s = time.perf_counter()
            assert writer.write(payload)
            worst_s = max(worst_s, time.perf_counter() - begun_s)
    finally:
        stuck.kill()
        stuck.communicate()
    assert worst_s < 0.2


def test_a_stopped_listener_does_not_hold_up_the_end() -> None:
    """Cyclone's writers wait for acknowledgements when they end, 1 s each unless told otherwise."""
    stuck = subprocess.Popen(
        [sys.executable, "-c", _RECEIVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        participant = DdsParticipant(40, localhost=True)
        writers = [
            participant.writer("/a", f"rt/{name}", kind, Qos())
            for name, kind in (("image", IMAGE), ("stop", STRING))
        ]
        end_s = time.monotonic() + 20.0
        while not all(writer.matched() for writer in writers):
            assert time.monotonic() < end_s
            time.sleep(0.01)
        stuck.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        for writer in writers:
            writer.write(_cdr_string("never acknowledged"))
        begun_s = time.monotonic()
        participant.close()
        took_s = time.monotonic() - begun_s
    finally:
        stuck.kill()
        stuck.communicate()
    assert took_s < 0.8


def test_timers_keep_their_grid_on_the_steady_clock(participant: DdsParticipant) -> None:
    dispatcher = Dispatcher(participant.handle, "timers")
    ticks: list[float] = []
    timer = dispatcher.timer(0.02, lambda: ticks.append(time.monotonic()))
    time.sleep(0.51)
    timer.close()
    count = len(ticks)
    time.sleep(0.06)
    dispatcher.close()

    assert len(ticks) == count  # none after close
    assert 15 <= count <= 25
    assert np.median(np.diff(ticks)) == pytest.approx(0.02, abs=0.004)
