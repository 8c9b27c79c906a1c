# SPDX-License-Identifier: Apache-2.0
"""The flags of a bag: put in order, cut where one is missing, each with what it stood for."""

from __future__ import annotations

import enum
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.bags.reader import Bag
from jepa_edge.bags.topics import PARAMETER_EVENTS, Topics
from jepa_edge.errors import InputError
from jepa_edge.flags import Reason
from jepa_edge.nodes.messages import stamp_ns

_SWAPPED = 2
"""Two threads publish flags, so neighbours may be recorded in the wrong order, but no others."""

_SECOND_NS = 1_000_000_000


class Made(enum.Enum):
    """What a flag was made by. MISSING: a frame that the bag does not hold."""

    STEP = "step"
    POLL = "poll"
    STALLED = "stalled"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEmbedding:
    """What is kept of a StateEmbedding: the digest of its latent, (N, D) float32, and the action.

    action: (A,) float32 that the session was given; None: it was given none.
    """

    latent_sha256: bytes
    action: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFlag:
    """One flag. message: ConfidenceFlag. embedding: of the same frame, if one was published.

    stamp_ns: of its frame, or the time of a flag without one. of_stamp: a step's frame is that
    image of its stamp, counted from 0: two images may have one stamp.
    """

    message: Any
    embedding: RecordedEmbedding | None
    stamp_ns: int
    made: Made = Made.STEP
    of_stamp: int = 0

    @property
    def seq(self) -> int:
        """Number of the flag within its run."""
        return int(self.message.seq)

    @property
    def reasons(self) -> Reason:
        """The bits."""
        return Reason(int(self.message.reasons))

    @property
    def age_ns(self) -> int:
        """Age of the input when its processing began."""
        return duration_ns(self.message.input_age)

    @property
    def latency_ns(self) -> int:
        """Time from there to the flag."""
        return duration_ns(self.message.latency)


@dataclass(slots=True, kw_only=True)
class Run:
    """From one start of the node to the next, as far as the bag holds it.

    info: ModelInfo, the newest before the first flag, or the first after it. parts: flags without a
    gap in their numbers; only a part that begins with flag 0 begins with all that it depends on.
    """

    info: Any | None = None
    flags: dict[int, RecordedFlag] = field(default_factory=dict)

    @property
    def parts(self) -> list[list[RecordedFlag]]:
        """The flags, cut at every gap and after every frame that is not in the bag."""
        found: list[list[RecordedFlag]] = []
        before: RecordedFlag | None = None
        for seq in sorted(self.flags):
            flag = self.flags[seq]
            if before is None or before.seq + 1 != seq or before.made is Made.MISSING:
                found.append([])
            found[-1].append(flag)
            before = flag
        return found

    @property
    def clocked(self) -> bool:
        """Whether the session had a clock: then no input is exactly as new as its stamp, always."""
        return any(flag.age_ns or flag.made is not Made.STEP for flag in self.flags.values())

    @property
    def lost(self) -> int:
        """Flags that are missing between the first and the last."""
        return max(self.flags) - min(self.flags) + 1 - len(self.flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """All that a first pass over a bag finds. images: how many there are of each stamp, ns.

    parameters: the values that nodes told on /parameter_events, by node name.
    """

    runs: list[Run]
    images: Counter[int]
    parameters: dict[str, dict[str, Any]]

    @property
    def flags(self) -> Iterator[RecordedFlag]:
        """Every flag of every run, in order."""
        return (run.flags[seq] for run in self.runs for seq in sorted(run.flags))


def read_recorded(bag: Bag, topics: Topics) -> Recorded:
    """Go through a bag once and put its flags in order.

    Raises InputError when the bag is damaged.
    """
    wanted = {topics.image, topics.flag, topics.embedding, topics.info}
    if PARAMETER_EVENTS in bag.topics and bag.knows(bag.topics[PARAMETER_EVENTS]):
        wanted.add(PARAMETER_EVENTS)
    images: Counter[int] = Counter()
    parameters: dict[str, dict[str, Any]] = {}
    runs: list[Run] = []
    newest_info: Any | None = None
    for entry in bag.messages([topic for topic in wanted if topic is not None]):
        message = entry.message
        if entry.topic == topics.image:
            images[stamp_ns(message.header)] += 1
        elif entry.topic == topics.info:
            _take_info(runs, message, newest_info)
            newest_info = message
        elif entry.topic == PARAMETER_EVENTS:
            _take_parameters(parameters, message)
        else:
            _take_flag(runs, message, newest_info, embedding=entry.topic == topics.embedding)
    for run in runs:
        _classify(run, images)
        _drop_head(run)
    runs = [run for run in runs if run.flags]
    return Recorded(runs=runs, images=images, parameters=parameters)


def duration_ns(message: Any) -> int:
    """A builtin_interfaces/Duration in nanoseconds."""
    return int(message.sec) * _SECOND_NS + int(message.nanosec)


def _take_info(runs: list[Run], info: Any, before: Any | None) -> None:
    """Begin a run with a new ModelInfo; one that came behind its first flags is theirs."""
    if before is not None and _told(before) == _told(info):
        return
    first = min((flag.stamp_ns for flag in runs[-1].flags.values()), default=0) if runs else 0
    if runs and (runs[-1].info is None or stamp_ns(info.header) <= first):
        runs[-1].info = info
    else:
        runs.append(Run(info=info))


def _told(info: Any) -> tuple[int, str]:
    """When a node was configured, and for what: another one is another run."""
    return stamp_ns(info.header), str(info.manifest_sha256)


def _take_flag(runs: list[Run], message: Any, info: Any | None, *, embedding: bool) -> None:
    """Put a flag, or an embedding with its flag, into the run that it belongs to."""
    flag = message.flag if embedding else message
    seq = int(flag.seq)
    if not runs:
        runs.append(Run(info=info))
    known = runs[-1].flags
    if known and not _continues(known, seq, flag):
        runs.append(Run(info=info))
        known = runs[-1].flags
    there = known.get(seq)
    kept = _embedding(message) if embedding else None if there is None else there.embedding
    known[seq] = RecordedFlag(
        message=flag,
        embedding=kept,
        stamp_ns=stamp_ns(flag.header),
    )


def latent_sha256(latent: NDArray[np.float32]) -> bytes:
    """Digest of a latent's numbers, bit by bit."""
    return hashlib.sha256(np.ascontiguousarray(latent, np.float32).tobytes()).digest()


def _embedding(message: Any) -> RecordedEmbedding:
    action = np.asarray(message.action, np.float32)
    return RecordedEmbedding(
        latent_sha256=latent_sha256(message.latent), action=action if action.size else None
    )


def _continues(known: dict[int, RecordedFlag], seq: int, flag: Any) -> bool:
    """Whether a flag is of the run that the known ones are of."""
    there = known.get(seq)
    if there is not None:
        return there.stamp_ns == stamp_ns(flag.header)
    return seq > max(known) - _SWAPPED


def _classify(run: Run, images: Counter[int]) -> None:
    """Say what each flag of a run was made by.

    A flag names its frame by the stamp. A watchdog's flag has the time at which it was made, which
    under simulated time may be an image's stamp too: where more flags than images have a stamp, the
    watchdog's are those that are stale at age 0.
    """
    by_stamp: dict[int, list[int]] = {}
    for seq in sorted(run.flags):
        by_stamp.setdefault(run.flags[seq].stamp_ns, []).append(seq)
    for stamp, seqs in by_stamp.items():
        surplus = len(seqs) - images[stamp]
        steps = 0
        for seq in seqs:
            flag = run.flags[seq]
            alone = Reason.STALE in flag.reasons and flag.age_ns == 0
            if images[stamp] and not (alone and surplus > 0):
                run.flags[seq] = _as(flag, Made.STEP, min(steps, images[stamp] - 1))
                steps += 1
                continue
            surplus -= 1
            if not alone:
                made = Made.MISSING
            elif _is_stalled(flag):
                made = Made.STALLED
            else:
                made = Made.POLL
            run.flags[seq] = _as(flag, made, 0)


def _drop_head(run: Run) -> None:
    """Leave out the first flags of a bag that begins within a run: their frames came before it."""
    for seq in sorted(run.flags):
        if seq == 0 or run.flags[seq].made is not Made.MISSING:
            return
        del run.flags[seq]


def _is_stalled(flag: RecordedFlag) -> bool:
    """Whether `Session.stalled` made it: it takes no time, and leaves the warm-up as it is."""
    return (
        Reason.OVERLOAD in flag.reasons
        and flag.latency_ns == 0
        and Reason.WARMING_UP not in flag.reasons
    )


def _as(flag: RecordedFlag, made: Made, of_stamp: int) -> RecordedFlag:
    return RecordedFlag(
        message=flag.message,
        embedding=flag.embedding,
        stamp_ns=flag.stamp_ns,
        made=made,
        of_stamp=of_stamp,
    )


def _take_parameters(parameters: dict[str, dict[str, Any]], event: Any) -> None:
    """Remember what a node's parameters were set to."""
    values = parameters.setdefault(str(event.node), {})
    for parameter in [*event.new_parameters, *event.changed_parameters]:
        value = _parameter_value(parameter.value)
        if value is not None:
            values[str(parameter.name)] = value


def _parameter_value(value: Any) -> Any:
    """A ParameterValue as a Python value; None for kinds that no node of ours has."""
    fields = {
        1: "bool_value",
        2: "integer_value",
        3: "double_value",
        4: "string_value",
        8: "double_array_value",
        9: "string_array_value",
    }
    name = fields.get(int(value.type))
    if name is None:
        return None
    got = getattr(value, name)
    if isinstance(got, np.ndarray):
        return tuple(float(number) for number in got)
    return tuple(got) if isinstance(got, list) else got


def check_images(recorded: Recorded, bag: Bag, topics: Topics) -> None:
    """Raise InputError when the flags' frames are on another topic than the one named."""
    steps = [flag for flag in recorded.flags if flag.made in (Made.STEP, Made.MISSING)]
    if steps and all(flag.made is Made.MISSING for flag in steps):
        raise InputError(
            f"{bag.path}: none of the {len(steps)} frames that the flags on {topics.flag} name is "
            f"on {topics.image}; name the topic that the node had with --image-topic"
        )
