# SPDX-License-Identifier: Apache-2.0
"""Records live topics from the wire into a rosbag2 directory, with no ROS on the machine."""

from __future__ import annotations

import logging
import queue
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_edge.atomic import staged_directory
from jepa_edge.bags.publications import Publication, Publications
from jepa_edge.dds.dispatcher import Dispatcher, Registration
from jepa_edge.dds.names import topic_name
from jepa_edge.errors import InputError
from jepa_edge.nodes.qos import Qos
from jepa_edge.ros_types import type_hash, typestore

if TYPE_CHECKING:
    from jepa_edge.dds.clib import Sample
    from jepa_edge.dds.participant import DdsParticipant

logger = logging.getLogger(__name__)

NODE_NAME = "jepa_recorder"
STORAGES = ("mcap", "sqlite3")
_DEPTH = 1000
_SCAN_S = 0.1
_MAX_WAITING_BYTES = 512 * 1024**2
_INFINITE_NS = 2**63 - 1


@dataclass(slots=True, kw_only=True)
class Account:
    """What was recorded. messages: per topic. dropped: messages that the disk was too slow for.

    unreadable: topics left out, with the reason. failure: what ended the receiving thread, if
    anything did.
    """

    messages: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    failure: BaseException | None = None


@contextmanager
def recorder(
    out: Path,
    participant: DdsParticipant,
    topics: Collection[str] | None,
    *,
    storage: str = "mcap",
) -> Iterator[Recorder]:
    """Yield a recorder of a bag that appears under its name when it is whole.

    topics: absolute ROS names; None records all. Whatever ends the recording, what came until then
    is kept, unless it is an error. storage: one of STORAGES.
    Raises InputError when out exists, or nothing came in the end: then nothing is left behind; and
    when the disk takes no more: then what it took lies in a directory that the error names.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer

    if out.exists():
        raise InputError(f"{out} exists already; remove it or choose another --out")
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with staged_directory(out) as staging:
        inner = staging / out.name
        with (
            _kept_when_cut_off(inner, out),
            Writer(inner, version=9, storage_plugin=plugin) as writer,
        ):
            made = Recorder(participant, topics, writer)
            try:
                yield made
            finally:
                made.close()
            made.drain()
            if not made.account.messages:
                raise InputError(
                    "nothing was recorded: no publisher of "
                    f"{'any topic' if topics is None else ', '.join(sorted(topics))} sent "
                    "anything; check ROS_DOMAIN_ID, and the names with `ros2 topic list`"
                )
        for file in inner.iterdir():
            file.rename(staging / file.name)
        inner.rmdir()


@contextmanager
def _kept_when_cut_off(inner: Path, out: Path) -> Iterator[None]:
    """Move a bag that could not be finished out of its staging directory, and say where it is."""
    try:
        yield
    except OSError as error:
        kept = Path(tempfile.mkdtemp(prefix=f"{out.name}.incomplete.", dir=out.resolve().parent))
        for file in inner.iterdir():
            file.rename(kept / file.name)
        raise InputError(
            f"the recording stopped, {error}; what was written until then is in {kept}: make room, "
            "then `mcap recover` or `ros2 bag reindex`"
        ) from error


class Recorder:
    """Subscribes to topics as their publishers appear, and writes what they send."""

    def __init__(
        self, participant: DdsParticipant, topics: Collection[str] | None, writer: Any
    ) -> None:
        self.account = Account()
        self._participant = participant
        self._topics = topics
        self._writer = writer
        self._store = typestore()
        self._connections: dict[str, Any] = {}
        self._readers: dict[str, tuple[Qos, str, Registration, bytes]] = {}
        self._waiting: queue.SimpleQueue[tuple[str, int, memoryview]] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        participant.graph.add_node(f"/{NODE_NAME}")
        self._dispatcher = Dispatcher(participant.handle, NODE_NAME)
        self._publications = Publications(participant.handle)

    def run(self, until: Callable[[], bool]) -> None:
        """Record until a function says that it is enough; it is asked about ten times a second.

        An error of the receiving thread ends it too, and is left in the account.
        """
        while not until() and self.account.failure is None:
            self.account.failure = self._dispatcher.failure
            for publication in self._publications.take():
                if self._topics is None or publication.topic in self._topics:
                    self._follow(publication)
            due_s = time.monotonic() + _SCAN_S
            while (left_s := due_s - time.monotonic()) > 0.0:
                self._write_next(left_s)

    def drain(self) -> None:
        """Write what has come so far."""
        while not self._waiting.empty():
            self._write_next(0.0)

    def close(self) -> None:
        """Leave the network; what has come already stays."""
        for _, _, registration, gid in self._readers.values():
            registration.close()
            self._participant.graph.remove(f"/{NODE_NAME}", gid)
        self._dispatcher.close()
        self._publications.close()
        self._participant.graph.remove_node(f"/{NODE_NAME}")

    def _follow(self, publication: Publication) -> None:
        """Subscribe so that this publisher is heard beside those that are heard already."""
        topic, kind = publication.topic, publication.type
        if topic in self.account.unreadable:
            return
        known = self._readers.get(topic)
        why = self._unreadable(publication, None if known is None else known[1])
        if why:
            logger.warning("%s is not recorded: %s", topic, why)
            self.account.unreadable.setdefault(topic, why)
            return
        qos = Qos(
            reliable=publication.reliable,
            transient_local=publication.transient_local,
            depth=_DEPTH,
        )
        if known is None:
            self._connect(publication)
        else:
            before = known[0]
            qos = Qos(
                reliable=qos.reliable and before.reliable,
                transient_local=qos.transient_local and before.transient_local,
                depth=_DEPTH,
            )
            if qos == before:
                return
            known[2].close()
            self._participant.graph.remove(f"/{NODE_NAME}", known[3])
        reader = self._participant.reader(f"/{NODE_NAME}", topic_name(topic), kind, qos)

        def on_sample(sample: Sample) -> None:
            self._take(topic, sample.payload)

        registration = self._dispatcher.on_sample(reader, on_sample)
        self._readers[topic] = (qos, kind, registration, reader.gid)
        logger.info("recording %s (%s), %s", topic, kind, "reliable" if qos.reliable else "best")

    def _unreadable(self, publication: Publication, recorded_as: str | None) -> str:
        """Why a topic cannot be recorded; empty when it can."""
        kind = publication.type
        if recorded_as is not None and recorded_as != kind:
            return f"it is published as {kind} and as {recorded_as}"
        if kind not in self._store.fielddefs:
            return f"the definition of {kind} is not known here; ROS 2's own and jepa_msgs are"
        ours = type_hash(self._store, kind)
        if publication.type_hash and publication.type_hash != ours:
            return f"its {kind} has another definition ({publication.type_hash[:15]}) than here"
        return ""

    def _connect(self, publication: Publication) -> None:
        """Name a topic in the bag, with the quality of service that it was offered with."""
        definition, _ = self._store.generate_msgdef(publication.type, ros_version=2)
        self._connections[publication.topic] = self._writer.add_connection(
            publication.topic,
            publication.type,
            msgdef=definition,
            rihs01=type_hash(self._store, publication.type),
            offered_qos_profiles=[_profile(publication)],
        )

    def _take(self, topic: str, payload: memoryview) -> None:
        """Leave a message for the writing thread; a file is no place to wait for in a callback."""
        with self._lock:
            if self._waiting_bytes + len(payload) > _MAX_WAITING_BYTES:
                self.account.dropped += 1
                return
            self._waiting_bytes += len(payload)
        self._waiting.put((topic, time.time_ns(), payload))

    def _write_next(self, timeout_s: float) -> None:
        try:
            topic, received_ns, payload = self._waiting.get(timeout=max(timeout_s, 1e-3))
        except queue.Empty:
            return
        with self._lock:
            self._waiting_bytes -= len(payload)
        self._writer.write(self._connections[topic], received_ns, payload)
        self.account.messages[topic] += 1


def _profile(publication: Publication) -> Any:
    """A publisher's quality of service as rosbag2 keeps it; `ros2 bag play` offers it again."""
    from rosbags import interfaces as ros

    def span(ns: int) -> Any:
        return ros.QosTime(*divmod(min(ns, _INFINITE_NS), 10**9))

    reliability, durability = ros.QosReliability, ros.QosDurability
    return ros.Qos(
        history=ros.QosHistory.KEEP_LAST,
        depth=max(publication.depth, 1),
        reliability=reliability.RELIABLE if publication.reliable else reliability.BEST_EFFORT,
        durability=(
            durability.TRANSIENT_LOCAL if publication.transient_local else durability.VOLATILE
        ),
        deadline=span(publication.deadline_ns),
        lifespan=span(publication.lifespan_ns),
        liveliness=ros.QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=span(_INFINITE_NS),
        avoid_ros_namespace_conventions=False,
    )
