# SPDX-License-Identifier: Apache-2.0
"""A DDS participant: this process on the network, with the nodes that live in it."""

from __future__ import annotations

import atexit
import functools
import threading
import weakref
from typing import Any

from jepa_edge.dds import clib, config, names
from jepa_edge.dds.endpoints import RawReader, RawWriter, dds_qos, guid_of
from jepa_edge.dds.graph import Graph
from jepa_edge.errors import InputError
from jepa_edge.nodes.backend import Closable
from jepa_edge.nodes.qos import Qos
from jepa_edge.ros_types import Make, make, type_hash, typestore

_DISCOVERY_TYPE = "rmw_dds_common/msg/ParticipantEntitiesInfo"
_domains: dict[int, tuple[int, int]] = {}  # id to (handle, participants)
_domains_lock = threading.Lock()


class DdsParticipant:
    """Shared by the nodes of one process: `DdsBackend(participant, "jepa_planner")` and so on.

    domain: None takes $ROS_DOMAIN_ID, else 0. localhost: True stays on the loopback interface;
    None follows the environment (docs/dds.md). The first participant of a domain in a process
    decides the configuration for all.
    Raises MissingDependencyError without the extra, InputError when no network can be used.
    """

    def __init__(self, domain: int | None = None, *, localhost: bool | None = None) -> None:
        lib = clib.library()
        self.store, self.make = _types()
        self._domain = config.domain_id(domain)
        _open_domain(self._domain, config.configuration(localhost))
        try:
            with dds_qos(Qos(), "enclave=/;") as qos:
                self._handle = clib.checked(
                    lib.dds_create_participant(self._domain, qos, None),
                    f"joining domain {self._domain}",
                )
        except InputError:
            _close_domain(self._domain)
            raise
        self._topics: dict[str, tuple[int, str]] = {}
        self._nodes: list[Closable] = []
        self._writers: weakref.WeakSet[RawWriter] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._open = True
        self.gid = guid_of(self._handle)
        writer = self._raw_writer(
            "ros_discovery_info",
            _DISCOVERY_TYPE,
            Qos(depth=1, transient_local=True),
            self.hash_data(_DISCOVERY_TYPE),
        )
        self.graph = Graph(self.store, self.make, self.gid, writer)
        _participants.add(self)

    @property
    def handle(self) -> int:
        """The participant's handle in the C library."""
        return self._handle

    @property
    def domain(self) -> int:
        """The DDS domain."""
        return self._domain

    def type_hash(self, type_name: str) -> str:
        """Return a type's RIHS01 hash."""
        return _type_hash(type_name)

    def hash_data(self, type_name: str) -> str:
        """Return the USER_DATA entry that tells peers a type's hash."""
        return f"typehash={_type_hash(type_name)};"

    def serialize(self, message: Any) -> memoryview:
        """Return a message's CDR with its 4-byte header. Raises InputError for a wrong value."""
        try:
            cdr: memoryview = self.store.serialize_cdr(message, message.__msgtype__)
        except Exception as error:  # rosbags raises what the values raise
            raise InputError(f"a {message.__msgtype__} cannot be written: {error!r}") from error
        return cdr

    def writer(
        self,
        node: str,
        dds_name: str,
        type_name: str,
        qos: Qos,
        *,
        extra: str = "",
        lifespan_s: float | None = None,
    ) -> RawWriter:
        """Create a writer that belongs to a node. extra: USER_DATA before the type's hash."""
        data = extra + self.hash_data(type_name)
        made = self._raw_writer(dds_name, type_name, qos, data, lifespan_s)
        self.graph.add_writer(node, made.gid)
        return made

    def reader(
        self, node: str, dds_name: str, type_name: str, qos: Qos, *, extra: str = ""
    ) -> RawReader:
        """Create a reader that belongs to a node."""
        with dds_qos(qos, extra + self.hash_data(type_name)) as made_qos:
            made = RawReader(self._handle, self._topic(dds_name, type_name), made_qos)
        self.graph.add_reader(node, made.gid)
        return made

    def own(self, node: Closable) -> None:
        """Close a node with the participant, if it is still there then."""
        with self._lock:
            self._nodes.append(node)

    def disown(self, node: Closable) -> None:
        """Forget a node that was closed."""
        with self._lock:
            if node in self._nodes:
                self._nodes.remove(node)

    def close(self) -> None:
        """Close the nodes that are left and leave the network. Twice does no harm."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            nodes = list(reversed(self._nodes))
        for node in nodes:
            node.close()
        for writer in list(self._writers):  # a write afterwards is dropped
            writer.close()
        clib.library().dds_delete(self._handle)
        _close_domain(self._domain)
        _participants.discard(self)

    def __enter__(self) -> DdsParticipant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _raw_writer(
        self, dds_name: str, type_name: str, qos: Qos, data: str, lifespan_s: float | None = None
    ) -> RawWriter:
        with dds_qos(qos, data, lifespan_s=lifespan_s) as made_qos:
            made = RawWriter(self._handle, self._topic(dds_name, type_name), made_qos, dds_name)
        self._writers.add(made)
        return made

    def _topic(self, dds_name: str, type_name: str) -> int:
        with self._lock:
            if not self._open:
                raise InputError("the DDS participant is closed")
            if dds_name not in self._topics:
                descriptor = clib.topic_descriptor(names.dds_type(type_name))
                handle = clib.library().dds_create_topic(
                    self._handle, descriptor, dds_name.encode(), None, None
                )
                clib.checked(handle, f"creating topic {dds_name} of {type_name}")
                self._topics[dds_name] = (handle, type_name)
            handle, known = self._topics[dds_name]
        if known != type_name:
            raise InputError(f"{dds_name} carries {known} in this process, asked for {type_name}")
        return handle


@functools.cache
def _types() -> tuple[Any, Make]:
    """The types are the same for all participants; reading them takes 0.2 s."""
    store = typestore()
    return store, make(store)


@functools.cache
def _type_hash(type_name: str) -> str:
    return type_hash(_types()[0], type_name)


_participants: weakref.WeakSet[DdsParticipant] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for participant in list(_participants):
        participant.close()


def _open_domain(domain: int, configuration: str) -> None:
    with _domains_lock:
        handle, users = _domains.get(domain, (0, 0))
        if not users:
            handle = clib.library().dds_create_domain(domain, configuration.encode())
            if handle != clib.PRECONDITION_NOT_MET:  # else another library of the process made it
                clib.checked(handle, f"setting up domain {domain} with {configuration!r}")
        _domains[domain] = (handle, users + 1)


def _close_domain(domain: int) -> None:
    with _domains_lock:
        handle, users = _domains[domain]
        if users == 1:
            if handle > 0:
                clib.library().dds_delete(handle)
            del _domains[domain]
        else:
            _domains[domain] = (handle, users - 1)
