# SPDX-License-Identifier: Apache-2.0
"""The flags of a bag: put in order, cut where one is missing, each with what it stood for."""

from __future__ import annotations

import enum
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.bags.compare import FIELDS, differing
from jepa_edge.bags.reader import Bag
from jepa_edge.bags.topics import PARAMETER_EVENTS, Topics
from jepa_edge.errors import InputError
from jepa_edge.flags import Reason
from jepa_edge.nodes.messages import stamp_ns, time_ns

_LATE = 8
"""Flags may be recorded a few places late: two threads publish them, and one may be sent again."""


class Made(enum.Enum):
    """What a flag was made by. MISSING: a frame that the bag does not hold. NO_CLIP: a clip that
    cannot be put together from the bag, though its newest frame is there."""

    STEP = "step"
    POLL = "poll"
    STALLED = "stalled"
    MISSING = "missing"
    NO_CLIP = "no clip"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEmbedding:
    """What is kept of a StateEmbedding: the digest of its latent, (N, D) float32, and the inputs.

    action: (A,) float32 that the session was given; state: (S,) float32, the robot's own. None: it
    was given none.
    """

    latent_sha256: bytes
    action: NDArray[np.float32] | None
    state: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFlag:
    """One flag. message: ConfidenceFlag. embedding: of the same frame, if one was published.

    others: what else the bag says that this flag was, which no honest bag does. stamp_ns: of its
    frame, or the time of a flag without one. of_stamp: a step's frame is that image of its stamp,
    counted from 0: two images may have one stamp.
    """

    message: Any
    embedding: RecordedEmbedding | None
    stamp_ns: int
    others: tuple[Any, ...] = ()
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
        return time_ns(self.message.input_age)

    @property
    def latency_ns(self) -> int:
        """Time from there to the flag."""
        return time_ns(self.message.latency)


@dataclass(slots=True, kw_only=True)
class Run:
    """From one start of the node to the next, as far as the bag holds it.

    info: ModelInfo, the newest before the first flag, or the first after it; own_info: whether it
    came for this run. first_image: place among all images of the bag from which on they may be this
    run's. parts: flags without a gap in their numbers; only a part that begins with flag 0 begins
    with all that it depends on. left_out: first flags whose frames came before the bag.
    """

    info: Any | None = None
    own_info: bool = False
    first_image: int = 0
    flags: dict[int, RecordedFlag] = field(default_factory=dict)
    left_out: int = 0

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
        """Whether the session had a clock.

        Without one no input has an age and nothing is stale. With one whose ticks are the stamps,
        as simulated time may be, every age is 0 too; as long as nothing was stale that clock said
        nothing, and a session without one gives the same flags.
        """
        return any(flag.age_ns or Reason.STALE in flag.reasons for flag in self.flags.values())

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
    heard = _Heard()
    parameters: dict[str, dict[str, Any]] = {}
    for entry in bag.messages([topic for topic in wanted if topic is not None]):
        message = entry.message
        if entry.topic == topics.image:
            heard.images.append(stamp_ns(message.header))
        elif entry.topic == topics.info:
            heard.take_info(message)
        elif entry.topic == PARAMETER_EVENTS:
            _take_parameters(parameters, message)
        elif entry.topic == topics.embedding:
            heard.take_flag(message.flag, _embedding(message))
        else:
            heard.take_flag(message, None)
    return Recorded(runs=heard.classified(), images=Counter(heard.images), parameters=parameters)


class _Heard:
    """What was heard so far, in the order of the recording. images: their stamps, ns."""

    def __init__(self) -> None:
        self.images: list[int] = []
        self._runs: list[Run] = []
        self._info: Any | None = None
        self._zeros: set[bool] = set()  # who told flag 0 of the newest run: jepa/embedding or not
        self._images_then = 0  # images heard when the newest flag came

    def take_info(self, info: Any) -> None:
        """Begin a run with a new ModelInfo; one that came behind its first flags is theirs."""
        before, self._info = self._info, info
        if before is not None and _told(before) == _told(info):
            return
        run = self._runs[-1] if self._runs else None
        if run is not None and not run.own_info:
            first_ns = min(flag.stamp_ns for flag in run.flags.values())
            if len(run.flags) <= _LATE or (run.info is None and stamp_ns(info.header) <= first_ns):
                run.info, run.own_info = info, True
                return
        if run is None or run.flags:
            self._begin(own_info=True)
        else:
            run.info = info

    def take_flag(self, message: Any, embedding: RecordedEmbedding | None) -> None:
        """Put a flag, or an embedding with its flag, into the run that it belongs to."""
        seq, stamp = int(message.seq), stamp_ns(message.header)
        if not self._runs or not self._continues(seq, stamp, embedding is not None):
            self._begin()
        run = self._runs[-1]
        if seq == 0:
            self._zeros.add(embedding is not None)
        there = run.flags.get(seq)
        self._images_then = len(self.images)
        if there is None:
            run.flags[seq] = RecordedFlag(message=message, embedding=embedding, stamp_ns=stamp)
            return
        known = (there.message, *there.others)
        new = all(differing(one, message, FIELDS) for one in known)
        run.flags[seq] = replace(
            there,
            embedding=embedding or there.embedding,
            others=(*there.others, message) if new else there.others,
        )

    def classified(self) -> list[Run]:
        """Return the runs that have flags, and say of each flag what it was made by."""
        runs = [run for run in self._runs if run.flags]
        ends = [run.first_image for run in runs[1:]] + [len(self.images)]
        for run, end in zip(runs, ends, strict=True):
            before = Counter(self.images[: run.first_image])
            _classify(run, Counter(self.images[run.first_image : end]), before)
        if runs:
            _drop_head(runs[0], self.images[: ends[0]])
        return [run for run in runs if run.flags]

    def _begin(self, *, own_info: bool = False) -> None:
        self._runs.append(Run(info=self._info, own_info=own_info, first_image=self._images_then))
        self._zeros.clear()

    def _continues(self, seq: int, stamp: int, by_embedding: bool) -> bool:
        """Whether a flag is of the run that the known ones are of.

        A node numbers its flags from 0: another 0 is another start of it. Other numbers that come
        late are of the same run where their stamp fits.
        """
        known = self._runs[-1].flags
        if not known or seq > max(known):
            return True
        there = known.get(seq)
        if there is not None:
            again = seq == 0 and by_embedding in self._zeros and len(known) > 1
            return there.stamp_ns == stamp and not again
        stamps = [flag.stamp_ns for flag in known.values()]
        late = seq > max(known) - _LATE
        return stamp <= max(stamps) and (late or (seq > 0 and stamp >= min(stamps)))


def _told(info: Any) -> tuple[int, str]:
    """When a node was configured, and for what: another one is another run."""
    return stamp_ns(info.header), str(info.manifest_sha256)


def latent_sha256(latent: NDArray[np.float32]) -> bytes:
    """Digest of a latent's numbers, bit by bit."""
    return hashlib.sha256(np.ascontiguousarray(latent, np.float32).tobytes()).digest()


def _embedding(message: Any) -> RecordedEmbedding:
    action, state = (np.asarray(v, np.float32) for v in (message.action, message.state))
    return RecordedEmbedding(
        latent_sha256=latent_sha256(message.latent),
        action=action if action.size else None,
        state=state if state.size else None,
    )


def _classify(run: Run, images: Counter[int], before: Counter[int]) -> None:
    """Say what each flag of a run was made by. images: of the run; before: of those before it.

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
                run.flags[seq] = replace(
                    flag,
                    made=Made.STEP,
                    of_stamp=before[stamp] + min(steps, images[stamp] - 1),
                )
                steps += 1
                continue
            surplus -= 1
            if not alone:
                made = Made.MISSING
            elif _is_stalled(flag):
                made = Made.STALLED
            else:
                made = Made.POLL
            run.flags[seq] = replace(flag, made=made)


def _drop_head(run: Run, images: list[int]) -> None:
    """Leave out the first flags of a bag that begins within a run: their frames came before it."""
    first_ns = min(images, default=0)
    for seq in sorted(run.flags):
        flag = run.flags[seq]
        if seq == 0 or flag.made is not Made.MISSING or flag.stamp_ns >= first_ns:
            return
        del run.flags[seq]
        run.left_out += 1


def _is_stalled(flag: RecordedFlag) -> bool:
    """Whether `Session.stalled` made it: it takes no time, and leaves the warm-up as it is."""
    return (
        Reason.OVERLOAD in flag.reasons
        and flag.latency_ns == 0
        and Reason.WARMING_UP not in flag.reasons
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
            f"{bag.path}: none of the {len(steps)} frames that the flags on {topics.flag!r} name "
            f"is on {topics.image!r}; name the topic that the node had with --image-topic"
        )
