# SPDX-License-Identifier: Apache-2.0
"""A level is acted on only while it is known to be fresh; every other frame is counted as what it
is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jepa_edge.flags import Level
from jepa_edge.serial.frames import MAX_PAYLOAD, FlagFrame, Refusal, encode
from jepa_edge.serial.receiver import FORGET_MS, SETTLE_MS, Decoder, Receiver

from .lines import flag_frame

PERIOD_MS = 50


class Stream:
    """A sender of one flag per period and the receiver that it talks to, on made-up clocks."""

    def __init__(self, *, sender_ms: int = 1_000, receiver_ms: int = 77_000) -> None:
        self.receiver = Receiver()
        self.sender_ms, self.now_ms, self.seq = sender_ms, receiver_ms, 0

    def frame(self, level: Level = Level.NOMINAL, valid_for_ms: int = 200) -> FlagFrame:
        self.seq += 1
        return flag_frame(
            seq=self.seq, time_ms=self.sender_ms, level=level, valid_for_ms=valid_for_ms
        )

    def wait(self, ms: int, *, receiver_ms: int | None = None) -> None:
        self.sender_ms += ms
        self.now_ms += ms if receiver_ms is None else receiver_ms

    def take(self, frame: FlagFrame) -> int:
        """Give a frame to the receiver; return how many were accepted."""
        return len(self.receiver.push(encode(frame), self.now_ms))

    def settle(self) -> None:
        for _ in range(SETTLE_MS // PERIOD_MS + 1):
            self.take(self.frame())
            self.wait(PERIOD_MS)
        assert self.level is Level.NOMINAL

    @property
    def level(self) -> Level:
        return self.receiver.level(self.now_ms)


def test_a_level_is_believed_once_the_delay_is_known() -> None:
    stream = Stream()
    believed_ms = []
    for _ in range(20):
        stream.take(stream.frame())
        if stream.level is Level.NOMINAL:
            believed_ms.append(stream.now_ms - 77_000)
        stream.wait(PERIOD_MS)
    assert believed_ms[0] == SETTLE_MS


def test_a_level_ends_with_its_time_to_the_millisecond() -> None:
    stream = Stream()
    stream.settle()
    stream.take(stream.frame(valid_for_ms=200))
    stream.wait(199)
    assert stream.level is Level.NOMINAL
    stream.wait(1)
    assert stream.level is Level.UNKNOWN


@pytest.mark.parametrize("level", Level)
def test_every_level_is_passed_on(level: Level) -> None:
    stream = Stream()
    stream.settle()
    stream.take(stream.frame(level))
    assert stream.level is level


def test_a_flag_without_time_is_unknown_and_not_late() -> None:
    stream = Stream()
    stream.settle()
    stream.take(stream.frame(Level.REJECT, valid_for_ms=0))
    assert stream.level is Level.UNKNOWN
    assert stream.receiver.counts.late == 0


def test_a_replayed_frame_is_refused_and_prolongs_nothing() -> None:
    stream = Stream()
    stream.settle()
    frame = stream.frame(valid_for_ms=200)
    older = flag_frame(seq=frame.seq - 1, time_ms=stream.sender_ms, valid_for_ms=60_000)
    assert stream.take(frame) == 1
    stream.wait(190)
    assert stream.take(frame) == stream.take(older) == 0
    stream.wait(10)
    assert stream.level is Level.UNKNOWN
    assert stream.receiver.counts.repeated == 2


def test_lost_frames_are_counted_across_the_wrap_of_the_number() -> None:
    receiver = Receiver()
    for seq in (2**32 - 2, 1):
        assert len(receiver.push(encode(flag_frame(seq=seq)), 0)) == 1
    assert receiver.counts.lost == 2


def test_a_restarted_sender_has_to_be_trusted_anew() -> None:
    stream = Stream()
    stream.settle()
    fresh = flag_frame(session=8, seq=0, time_ms=0, valid_for_ms=60_000)
    assert stream.take(fresh) == 1
    assert stream.level is Level.UNKNOWN
    assert stream.receiver.counts.restarts == 1
    assert stream.receiver.counts.lost == 0


def test_frames_that_waited_are_worth_what_is_left_of_them() -> None:
    stream = Stream()
    stream.settle()
    late, too_late = stream.frame(valid_for_ms=300), stream.frame(valid_for_ms=90)
    stream.wait(100)
    assert stream.take(late) == 1
    assert stream.level is Level.NOMINAL
    stream.wait(195)
    assert stream.level is Level.NOMINAL
    stream.wait(10)  # 305 ms after it was sent; the clocks may have drifted by 3 ms
    assert stream.level is Level.UNKNOWN
    stream.settle()
    assert stream.receiver.counts.late == 0
    frame = stream.frame(valid_for_ms=90)
    stream.wait(100)
    stream.take(frame)
    assert stream.level is Level.UNKNOWN
    assert stream.receiver.counts.late == 1
    assert stream.take(too_late) == 0  # by then overtaken


@pytest.mark.parametrize("drain_ms", [0, 10, 40])
def test_a_backlog_at_the_start_is_not_believed(drain_ms: int) -> None:
    """The firmware starts while 5 s of frames wait; it reads one every drain_ms, 0 for at once."""
    stream, waiting, believed = Stream(), [], []
    for step in range(3500):
        if step % 5 == 0:
            waiting.append(stream.frame(valid_for_ms=400))
        stream.wait(10)
        if step < 500:
            continue
        reads = len(waiting) if drain_ms == 0 else int(step * 10 % drain_ms == 0)
        for _ in range(min(reads, len(waiting))):
            frame = waiting.pop(0)
            stream.take(frame)
            if stream.level is not Level.UNKNOWN:
                believed.append(stream.sender_ms - frame.time_ms)
    assert believed
    assert max(believed) < 400
    assert min(believed) < 50 + drain_ms


@pytest.mark.parametrize("pause_ms", [0, 600, 1900])
@pytest.mark.parametrize("settled", [False, True])
def test_a_backlog_after_a_pause_is_not_believed(settled: bool, pause_ms: int) -> None:
    """The firmware begins to read, or goes on, 6 s late: one frame, a pause, then one every 5 ms.
    The sender says REJECT by now."""
    stream, believed = Stream(), []
    waiting = []
    for step in range(400):
        stream.wait(PERIOD_MS)
        frame = stream.frame(Level.REJECT if step >= 40 else Level.NOMINAL, valid_for_ms=500)
        if settled and step < 20:
            stream.take(frame)
        else:
            waiting.append(frame)
        if step == 140:
            break
    assert stream.level is Level.UNKNOWN
    stream.take(waiting.pop(0))
    for ms in range(0, 6000, 5):
        stream.wait(5)
        if ms % PERIOD_MS == 0:
            waiting.append(stream.frame(Level.REJECT, valid_for_ms=500))
        if ms >= pause_ms and waiting:
            frame = waiting.pop(0)
            stream.take(frame)
            if stream.level is not Level.UNKNOWN:
                believed.append((stream.level, stream.sender_ms - frame.time_ms))
    assert {level for level, _ in believed} == {Level.REJECT}
    assert max(age_ms for _, age_ms in believed) < 50


def test_a_fall_of_the_delay_takes_the_belief_back() -> None:
    """A bridge delivers late without a break, which cannot be seen; then it catches up."""
    stream, levels = Stream(), []
    stream.settle()
    for _ in range(40):
        stream.take(stream.frame())
        levels.append(stream.level)
        stream.wait(PERIOD_MS, receiver_ms=PERIOD_MS - 30)
    assert set(levels[:4]) == {Level.NOMINAL}
    assert set(levels[4:]) == {Level.UNKNOWN}


@pytest.mark.parametrize("loop_ms", [20, 40, 70])
def test_a_slow_loop_settles_and_stays_so(loop_ms: int) -> None:
    """It looks at what came every loop_ms, at a time that shifts slowly against the sender's."""
    stream, waiting, levels = Stream(), [], []
    for ms in range(120_000):
        stream.wait(1, receiver_ms=0 if ms % 5_000 == 0 else 1)  # 200 ppm
        if ms % PERIOD_MS == 0:
            waiting.append(stream.frame(valid_for_ms=400))
        if (stream.now_ms - 77_000) % loop_ms == 0:
            while waiting:
                stream.take(waiting.pop(0))
            levels.append(stream.level)
    assert set(levels[2_000 // loop_ms :]) == {Level.NOMINAL}


def test_a_level_that_is_already_over_is_not_believed() -> None:
    stream = Stream()
    stream.settle()
    stream.take(replace(stream.frame(), expired=True))
    assert stream.level is Level.UNKNOWN
    assert stream.receiver.counts.late == 0


def test_a_delay_that_grows_by_more_than_clocks_drift_is_seen() -> None:
    """By 0.5 %, for ten minutes: believed while not much older than its time, then no more."""
    stream = Stream()
    stream.settle()
    start_ms, oldest_ms = stream.sender_ms, 0.0
    for _ in range(20 * 600):
        stream.take(stream.frame(valid_for_ms=400))
        delay_ms = 0.005 * (stream.sender_ms - start_ms)
        if stream.level is Level.NOMINAL:
            oldest_ms = max(oldest_ms, delay_ms)
        stream.sender_ms += PERIOD_MS
        stream.now_ms = 77_000 + int((stream.sender_ms - 1_000) + delay_ms)
    assert 300 < oldest_ms < 550
    assert stream.level is Level.UNKNOWN


@pytest.mark.parametrize("ppm", [-900, -100, 0, 100, 900])
def test_clocks_that_drift_apart_do_no_harm(ppm: int) -> None:
    stream = Stream(sender_ms=2**32 - 10_000)  # wraps on the way
    stream.settle()
    exact = float(stream.now_ms)
    for _ in range(20 * 60 * 5):
        stream.take(stream.frame(valid_for_ms=100))
        assert stream.level is Level.NOMINAL
        exact += PERIOD_MS * (1 + ppm * 1e-6)
        stream.wait(PERIOD_MS, receiver_ms=int(exact) - stream.now_ms)
    assert stream.receiver.counts.late == 0


def test_after_a_long_silence_the_clock_is_learned_anew() -> None:
    stream = Stream()
    stream.settle()
    stream.wait(PERIOD_MS, receiver_ms=FORGET_MS + 1)  # the sender's clock stood still
    stream.take(stream.frame())
    assert stream.level is Level.UNKNOWN
    stream.settle()
    assert stream.receiver.counts.late == 0


def test_the_decoder_holds_no_more_than_a_frame() -> None:
    decoder = Decoder()
    for _ in range(1000):
        assert decoder.push(b"\x55" * 1000) == []
    assert len(decoder._stuffed) <= MAX_PAYLOAD + 1
    frame = flag_frame()
    assert decoder.push(encode(frame)) == [Refusal.CORRUPT, frame]


def test_frames_may_come_in_pieces() -> None:
    decoder, frame = Decoder(), flag_frame(seq=3)
    found = [item for byte in encode(frame) * 2 for item in decoder.push(bytes([byte]))]
    assert found == [frame, frame]
