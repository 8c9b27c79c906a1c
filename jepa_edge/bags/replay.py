# SPDX-License-Identifier: Apache-2.0
"""A bag through a bundle: the recorded flags made again and compared, or flags where none are."""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from jepa_edge.bags.clip_starts import first_whole_ns
from jepa_edge.bags.compare import FIELDS, PART_FIELDS, FieldDifference, FlagDifference, differing
from jepa_edge.bags.identity import Identity, compare_identity, disarmed_reason, was_uncalibrated
from jepa_edge.bags.reader import Bag, listed
from jepa_edge.bags.recorded import Made, Recorded, RecordedFlag, Run, check_images, latent_sha256
from jepa_edge.bags.rerun import Redone, rerun
from jepa_edge.bags.settings import with_told_limits
from jepa_edge.bags.stream import frames
from jepa_edge.bags.topics import BagOptions, Topics
from jepa_edge.clip import by_camera_frame
from jepa_edge.errors import CalibrationError, printable
from jepa_edge.manifest import Manifest
from jepa_edge.monitor import Monitor
from jepa_edge.nodes.inputs import Inputs
from jepa_edge.nodes.messages import flag_message
from jepa_edge.ros_types import ACTION, make, typestore
from jepa_edge.session import SessionConfig
from jepa_edge.sources.bag import check_image
from jepa_edge.world_model import WorldModel


class Verdict(enum.Enum):
    """What a replay shows."""

    SAME = "same"
    DIFFERS = "differs"
    NOT_SHOWN = "not shown"


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of making a bag's flags again.

    flags: how many the bag holds. compared: in every field, but for the counts since the episode
    began where the bag does not hold its beginning; partly: only in the fields that depend on
    nothing before the bag, or before a gap in it. identical: of both, in all that was compared.
    not_made: flags whose frame or clip the bag does not hold, or that the session did not give
    here. lost: numbers missing between flags. left_out: flags at the beginning of the bag whose
    frames, or a part of whose clips, came before it. embeddings, embeddings_identical: latents,
    bit by bit. fields: how many flags differ in each field. differences: the first of them.
    identities: one per run of the node.
    """

    bag: str
    bag_sha256: str
    bundle: str
    variant: str
    flags: int
    compared: int
    partly: int
    identical: int
    not_made: int
    lost: int
    left_out: int
    embeddings: int
    embeddings_identical: int
    fields: dict[str, int]
    differences: tuple[FlagDifference, ...]
    identities: tuple[Identity, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """NOT_SHOWN: nothing differs, but not every flag of the run could be compared in full."""
        if (
            self.not_made
            or self.identical < self.compared + self.partly
            or self.embeddings_identical < self.embeddings
        ):
            return Verdict.DIFFERS
        if self.partly or self.lost or self.left_out or not self.compared:
            return Verdict.NOT_SHOWN
        return Verdict.SAME

    @property
    def same(self) -> bool:
        """Whether every flag was compared in full and came out again."""
        return self.verdict is Verdict.SAME


MOST_DIFFERENCES = 20
"""Differences told one by one."""


@dataclass(slots=True, kw_only=True)
class _Counts:
    compared: int = 0
    partly: int = 0
    identical: int = 0
    not_made: int = 0
    missing: int = 0
    no_clip: int = 0
    left_out: int = 0
    embeddings: int = 0
    embeddings_identical: int = 0


def replay(
    bag: Bag,
    topics: Topics,
    recorded: Recorded,
    model: WorldModel,
    options: BagOptions,
    config_of: Callable[[Run], SessionConfig],
    *,
    state: Path | None = None,
    on_step: Callable[[Redone], None] = lambda redone: None,
    on_identity: Callable[[Identity], None] = lambda identity: None,
) -> ReplayReport:
    """Make the flags of a bag again and compare them, field by field and bit by bit.

    config_of: a run's settings; the age limit is taken from the flags. state: where
    `jepa-edge selftest` left its result. on_identity: called with each run before it is made again;
    on_step: with each flag. Raises InputError when the bag is damaged or its images are on another
    topic, CalibrationError when the model has no calibration and the flags had one.
    """
    check_images(recorded, bag, topics)
    maker = make(typestore())
    monitors, configs, identities, notes = [], [], [], []
    for run in recorded.runs:
        monitors.append(_monitor(model, run, state))
        config, note = with_told_limits(config_of(run), run, model.manifest.observation.rate_hz)
        configs.append(config)
        notes += [note] if note else []
        identities.append(compare_identity(maker, run, model, monitors[-1]))
        on_identity(identities[-1])
    counts, fields, found = _Counts(), Counter[str](), []
    topics, unread = _readable(bag, topics, options, model.manifest)
    notes += unread
    action_type = None if topics.action is None else bag.topics[topics.action]
    # Inputs of a model that takes a state want a type for it, though none may come.
    state_type = ACTION if topics.state is None else bag.topics[topics.state]
    steps = {
        flag.stamp_ns
        for run in recorded.runs
        for flag in run.flags.values()
        if flag.made is Made.STEP
    }
    if topics.state is None:
        options = dataclasses.replace(options, state_fields=())
    inputs = Inputs(model.manifest, options.inputs(action_type, state_type), clip_ends=steps)
    _check_pictures(bag, topics, recorded, model, options)
    first_ns = first_whole_ns(recorded, model.manifest.observation)
    for redone in rerun(bag, topics, recorded, inputs, model, monitors, configs):
        on_step(redone)
        early = redone.run == 0 and redone.recorded.stamp_ns < first_ns
        if early and redone.recorded.made is Made.NO_CLIP:
            counts.left_out += 1
            continue
        difference = _difference(redone, counts, maker)
        if difference is not None:
            fields.update(field.field for field in difference.fields)
            found.append(difference)
    notes += _notes(recorded, counts)
    return ReplayReport(
        bag=str(bag.path),
        bag_sha256=bag.sha256,
        bundle=str(model.bundle.path),
        variant=model.variant,
        flags=sum(len(run.flags) for run in recorded.runs) - counts.left_out,
        compared=counts.compared,
        partly=counts.partly,
        identical=counts.identical,
        not_made=counts.not_made,
        lost=sum(run.lost for run in recorded.runs),
        left_out=counts.left_out + sum(run.left_out for run in recorded.runs),
        embeddings=counts.embeddings,
        embeddings_identical=counts.embeddings_identical,
        fields=dict(fields),
        differences=tuple(found[:MOST_DIFFERENCES]),
        identities=tuple(identities),
        notes=tuple(notes),
    )


def _readable(
    bag: Bag, topics: Topics, options: BagOptions, manifest: Manifest
) -> tuple[Topics, list[str]]:
    """Leave out what the model does not take, and what nobody said how to read, with a note of it:
    most flags come with their action and state."""
    notes = []
    if manifest.action is None:
        topics = dataclasses.replace(topics, action=None, commands=(), plan=None)
    elif why := _unreadable(bag, "action", topics.action, topics.commands, options.action_fields):
        topics = dataclasses.replace(topics, action=None)
        notes.append(f"{why}: actions are known only where an embedding was published")
    if manifest.state is None:
        topics = dataclasses.replace(topics, state=None, states=())
    elif why := _unreadable(bag, "state", topics.state, topics.states, options.state_fields):
        topics = dataclasses.replace(topics, state=None)
        notes.append(f"{why}: states are known only where an embedding was published")
    return topics, notes


def _unreadable(
    bag: Bag, what: str, topic: str | None, several: tuple[str, ...], fields: tuple[str, ...]
) -> str:
    """Why a topic of commands or states cannot be read; empty when it can, or there is none."""
    if topic is None:
        found = "commands are" if what == "action" else "states may be"
        return f"{found} on {listed(several)} and --{what}-topic names none" if several else ""
    kind = bag.topics[topic]
    if fields or kind == ACTION:
        return ""
    return f"{printable(topic)} is {printable(kind)} and --{what}-fields names no numbers of it"


def _check_pictures(
    bag: Bag, topics: Topics, recorded: Recorded, model: WorldModel, options: BagOptions
) -> None:
    """Raise InputError when no picture fits the model though the recorded session took some."""
    taken = {flag.stamp_ns for flag in recorded.flags if flag.embedding is not None}
    pictures = msgspec.structs.replace(by_camera_frame(model.manifest), state=None)
    inputs = Inputs(pictures, options.inputs(None))
    names = dataclasses.replace(topics, action=None, state=None, plan=None)
    frame = next(frames(bag, names, inputs, taken), None) if taken else None
    if frame is not None:
        check_image(frame, model.manifest, options.image_fit, f"{bag.path}: {topics.image!r}")


def _monitor(model: WorldModel, run: Run, state: Path | None) -> Monitor | None:
    """The monitor of a run, armed if the run's machine was."""
    if was_uncalibrated(run):
        return None
    try:
        monitor = Monitor.load(model, state=state)
    except CalibrationError as error:
        raise CalibrationError(f"{error}; the recorded flags had a calibration") from error
    monitor.arm_as(disarmed_reason(run))
    return monitor


def _difference(
    redone: Redone, counts: _Counts, maker: Callable[..., object]
) -> FlagDifference | None:
    """Count a flag, and return what differs in it."""
    recorded = redone.recorded
    if redone.flag is None:
        counts.not_made += 1
        counts.no_clip += recorded.made is Made.NO_CLIP
        counts.missing += recorded.made is Made.MISSING
        return _told(redone, (_absent(recorded.made),))
    if redone.fields == PART_FIELDS:
        counts.partly += 1
    else:
        counts.compared += 1
    made = flag_message(maker, redone.flag, recorded.message.header)
    fields = differing(recorded.message, made, redone.fields)
    twice = _contradictions(recorded)
    fields = (*twice, *(f for f in fields if f.field not in {other.field for other in twice}))
    latent = _latent_difference(redone, counts)
    if not fields:
        counts.identical += 1
    return _told(redone, (*fields, *latent)) if fields or latent else None


def _contradictions(recorded: RecordedFlag) -> tuple[FieldDifference, ...]:
    """What the bag says of one flag in two ways: on two topics, or twice on one."""
    found = {
        field.field: FieldDifference(
            field=field.field,
            recorded=f"{field.recorded}, and elsewhere in the bag {field.replayed}",
            replayed="one of them at most",
        )
        for other in recorded.others
        for field in differing(recorded.message, other, FIELDS)
    }
    return tuple(found.values())


def _latent_difference(redone: Redone, counts: _Counts) -> tuple[FieldDifference, ...]:
    """Compare the latent of a step whose embedding the bag holds."""
    kept = redone.recorded.embedding
    if kept is None:
        return ()
    counts.embeddings += 1
    latent = None if redone.update is None else redone.update.embedding
    digest = None if latent is None else latent_sha256(latent)
    if digest == kept.latent_sha256:
        counts.embeddings_identical += 1
        return ()
    return (
        FieldDifference(
            field="latent",
            recorded=f"sha256 {kept.latent_sha256.hex()[:16]}",
            replayed="none" if digest is None else f"sha256 {digest.hex()[:16]}",
        ),
    )


def _absent(made: Made) -> FieldDifference:
    if made is Made.MISSING:
        return FieldDifference(
            field="frame", recorded="judged", replayed="not in the bag: the recorder missed it"
        )
    if made is Made.NO_CLIP:
        return FieldDifference(
            field="clip", recorded="judged", replayed="not to be had from the bag's frames"
        )
    return FieldDifference(field="watchdog", recorded="stale", replayed="not stale")


def _told(redone: Redone, fields: tuple[FieldDifference, ...]) -> FlagDifference:
    recorded = redone.recorded
    return FlagDifference(
        run=redone.run, seq=recorded.seq, stamp_ns=recorded.stamp_ns, fields=fields
    )


def _notes(recorded: Recorded, counts: _Counts) -> list[str]:
    """What the bag does not hold."""
    notes = []
    for index, run in enumerate(recorded.runs):
        first = min(run.flags)
        if first:
            notes.append(
                f"run {index} begins with flag {first}: what the session knew by then is not in "
                "the bag, so its flags are compared in full only from where it began to warm up "
                "anew with nothing latched"
            )
        if run.left_out:
            notes.append(
                f"run {index}: {run.left_out} flags before that are left out, for their frames "
                "came before the bag"
            )
        if run.lost:
            notes.append(
                f"run {index}: {run.lost} flags are missing in the bag; what follows a gap is "
                "compared in full only from the next warm-up"
            )
        if run.info is None:
            notes.append(
                f"run {index}: the bag holds no ModelInfo, so whether this is the bundle that "
                "judged then is not known"
            )
    if counts.missing:
        notes.append(
            f"{counts.missing} frames that were judged are not in the bag; record images on a "
            "reliable topic or on the robot itself"
        )
    if counts.left_out:
        notes.append(
            f"run 0: {counts.left_out} flags are left out, for their clips begin before the bag"
        )
    if counts.no_clip:
        notes.append(
            f"{counts.no_clip} clips that were judged cannot be put together: camera frames of "
            "them are not in the bag, or the camera is faster than the model's and the node took "
            "others of its frames, which no bag tells"
        )
    if counts.partly and not counts.compared:
        notes.append("no flag could be compared in full; record from before the node starts")
    return notes
