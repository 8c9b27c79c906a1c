# SPDX-License-Identifier: Apache-2.0
"""Runs a recorded session again: same frames, same clock, same latencies, same order.

A flag tells all that a step depends on beside its frame and action: its stamp names the frame,
stamp plus input age is what the clock said, and the latency is what the timer measured. Flags of
the watchdog, begun episodes and released latches stand between them, each to be done again at its
place.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from jepa_edge.bags.clip_starts import clip_starts
from jepa_edge.bags.compare import BUDGET_FIELDS, FIELDS, PART_FIELDS
from jepa_edge.bags.reader import Bag
from jepa_edge.bags.recorded import Made, Recorded, RecordedFlag
from jepa_edge.bags.stream import frames
from jepa_edge.bags.topics import Topics
from jepa_edge.flags import FORCE_UNKNOWN, Reason
from jepa_edge.monitor import Monitor
from jepa_edge.nodes.inputs import Frame, Inputs
from jepa_edge.nodes.messages import seconds
from jepa_edge.session import Flag, Observation, Session, SessionConfig, Update
from jepa_edge.world_model import WorldModel

_INVALID = FORCE_UNKNOWN & ~Reason.WARMING_UP


@dataclass(frozen=True, slots=True, kw_only=True)
class Redone:
    """One flag, recorded and made again.

    run, part: which. flag: None when it cannot be made again: its frame is not in the bag, or the
    session would not have given it. observation, update: of a step. fields: those that must be
    equal; fewer where the bag does not hold all that the others depend on.
    """

    run: int
    part: int
    recorded: RecordedFlag
    flag: Flag | None
    observation: Observation | None
    update: Update | None
    fields: tuple[str, ...]


class FedTime:
    """A clock and a timer that say what they said then."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._latency_s = 0.0
        self._begun = False

    def feed(self, now_s: float, latency_s: float = 0.0) -> None:
        """Set what the next call of the session will be told."""
        self._now_s, self._latency_s, self._begun = now_s, latency_s, False

    def clock(self) -> float:
        """Time on the time base of the stamps, seconds."""
        return self._now_s

    def timer(self) -> float:
        """0 when a step begins, its latency when it ends; seconds."""
        if self._begun:
            return self._latency_s
        self._begun = True
        return 0.0


def clock_s(stamp_ns: int, age_ns: int) -> float:
    """Return what a clock said when it found an input of this stamp to be of this age, seconds.

    Near 1.7e9 s floats lie 238 ns apart, so sums of nanoseconds may miss the very float by one:
    the one that gives the age again is it. Simulated time near 0 is finer than the age is told in;
    there the clock was a whole number of nanoseconds.
    """
    stamp_s = seconds(stamp_ns)
    whole_s = seconds(stamp_ns + age_ns)
    return whole_s if round((whole_s - stamp_s) * 1e9) == age_ns else stamp_s + seconds(age_ns)


class _Part:
    """A session that goes through flags without a gap.

    Where the first of them is not flag 0 the session did not begin with what the recorded one
    knew, and can give the same flags only from where that one began to warm up anew, with nothing
    latched.
    """

    def __init__(self, session: Session, time: FedTime, first: RecordedFlag) -> None:
        self.session = session
        self._time = time
        self._seq = first.seq
        self._episode = self._base = int(first.message.episode)
        self._latched = bool(first.message.latched)
        self._last_ns = first.stamp_ns
        self._joined = self._budget_joined = first.seq == 0
        if first.seq == 0:
            self._episode = self._base = 0
            self._latched = False

    def redo(
        self, recorded: RecordedFlag, observation: Observation | None
    ) -> tuple[Flag | None, Update | None, tuple[str, ...]]:
        """Do again what led to a flag; also return the fields that must be equal."""
        self._requests(recorded)
        latency_s = seconds(recorded.latency_ns)
        self._time.feed(clock_s(recorded.stamp_ns, recorded.age_ns), latency_s)
        update: Update | None = None
        flag: Flag | None = None
        if recorded.made is Made.STEP and observation is not None:
            update = self.session.step(observation)
            flag = update.flag
        elif recorded.made is Made.STALLED:
            flag = self.session.stalled()
        elif recorded.made is Made.POLL:
            flag = self.session.poll()
        self._last_ns = recorded.stamp_ns
        fields = self._comparable(recorded, flag)
        if flag is not None:
            flag = _renumbered(flag, recorded.seq, self._base)
        return flag, update, fields

    def _requests(self, recorded: RecordedFlag) -> None:
        """Release the latch and begin episodes, where the flags show that it was done."""
        message = recorded.message
        if self._latched and not message.latched:
            self._time.feed(seconds(self._last_ns))
            self.session.reset_latch()
        self._latched = bool(message.latched)
        while self._episode < int(message.episode):
            self._episode += 1
            self.session.begin_episode()
            self._budget_joined = True

    def _comparable(self, recorded: RecordedFlag, flag: Flag | None) -> tuple[str, ...]:
        """The fields that depend on nothing before the bag, or the gap."""
        if not self._joined:
            again = bool(recorded.reasons & _INVALID) and flag is not None
            self._joined = again and not recorded.message.latched
            return PART_FIELDS
        if self._budget_joined:
            return FIELDS
        return tuple(name for name in FIELDS if name not in BUDGET_FIELDS)


def rerun(
    bag: Bag,
    topics: Topics,
    recorded: Recorded,
    inputs: Inputs,
    model: WorldModel,
    monitors: Sequence[Monitor | None],
    configs: Sequence[SessionConfig],
) -> Iterator[Redone]:
    """Make every flag of a bag again, in their order.

    monitors: of each run its own, fresh: evidence of drift lives as long as a process. configs: of
    each run its settings.
    Raises InputError when the bag is damaged.
    """
    todo = _Queue(recorded)
    time = FedTime()
    present: tuple[int, int] | None = None
    part: _Part | None = None
    restarts = clip_starts(recorded, model.manifest.observation)
    stream = frames(bag, topics, inputs, todo, restarts)
    for index, number, flag, observation in todo.ready(stream, inputs):
        if flag.made is Made.STEP and observation is None:
            flag, part = dataclasses.replace(flag, made=Made.NO_CLIP), None
            yield Redone(
                run=index,
                part=number,
                recorded=flag,
                flag=None,
                observation=None,
                update=None,
                fields=(),
            )
            continue
        if part is None or present != (index, number):
            session = Session(
                model,
                monitors[index],
                configs[index],
                clock=time.clock if recorded.runs[index].clocked else None,
                timer=time.timer,
            )
            part, present = _Part(session, time, flag), (index, number)
        made, update, fields = part.redo(flag, observation)
        yield Redone(
            run=index,
            part=number,
            recorded=flag,
            flag=made,
            observation=observation,
            update=update,
            fields=fields,
        )


class _Queue:
    """Flags that wait for their frames. Contains the stamps, ns, that are still waited for."""

    def __init__(self, recorded: Recorded) -> None:
        self._flags = [
            (index, number, flag)
            for index, run in enumerate(recorded.runs)
            for number, part in enumerate(run.parts)
            for flag in part
        ]
        steps = [flag for _, _, flag in self._flags if flag.made is Made.STEP]
        self._uses = Counter((flag.stamp_ns, flag.of_stamp) for flag in steps)
        self._stamps = Counter(stamp for stamp, _ in self._uses)
        self._seen: Counter[int] = Counter()
        self._frames: dict[tuple[int, int], Observation | None] = {}

    def __contains__(self, stamp_ns: object) -> bool:
        return stamp_ns in self._stamps

    def ready(
        self, stream: Iterator[Frame], inputs: Inputs
    ) -> Iterator[tuple[int, int, RecordedFlag, Observation | None]]:
        """Yield run, part, flag and, for a step, its observation, as soon as its frame is there.

        None for a step: the bag does not give its clip.
        """
        waiting = iter(self._flags)
        head = next(waiting, None)
        for frame in _and_none(stream):
            if frame is not None:
                which = frame.stamp_ns, self._seen[frame.stamp_ns]
                self._seen[frame.stamp_ns] += 1
                if which in self._uses:
                    whole = frame.clip is not None or not inputs.takes_clips
                    self._frames[which] = inputs.observation(frame) if whole else None
            while head is not None:
                flag = head[2]
                if flag.made is not Made.STEP:
                    yield *head, None
                elif (flag.stamp_ns, flag.of_stamp) in self._frames:
                    yield *head, self._taken(flag)
                else:
                    break
                head = next(waiting, None)

    def _taken(self, flag: RecordedFlag) -> Observation | None:
        """The observation of a step, with the action and state that the session was given then."""
        which = flag.stamp_ns, flag.of_stamp
        observation = self._frames[which]
        self._uses[which] -= 1
        if not self._uses[which]:
            del self._uses[which], self._frames[which]
            self._stamps[flag.stamp_ns] -= 1
            if not self._stamps[flag.stamp_ns]:
                del self._stamps[flag.stamp_ns]
        known = flag.embedding
        if known is None or observation is None:
            return observation
        state = observation.state if known.state is None else known.state
        return dataclasses.replace(observation, action=known.action, state=state)


def _and_none(stream: Iterator[Frame]) -> Iterator[Frame | None]:
    """The stream, and at last None: flags without a frame may be left then."""
    yield from stream
    yield None


def _renumbered(flag: Flag, seq: int, base_episode: int) -> Flag:
    """The flag as the recorded session counted, which may have begun before the bag."""
    return msgspec.structs.replace(flag, seq=seq, episode=flag.episode + base_episode)
