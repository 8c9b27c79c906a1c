# SPDX-License-Identifier: Apache-2.0
"""`DdsBackend`: one node's middleware over DDS, as jepa_edge/nodes/backend.py asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jepa_edge.dds import names
from jepa_edge.dds.actions import ActionServer
from jepa_edge.dds.clib import Sample
from jepa_edge.dds.dispatcher import Dispatcher, Registration
from jepa_edge.dds.endpoints import RawWriter
from jepa_edge.dds.inbox import Inbox
from jepa_edge.dds.incompatible import watch_reader, watch_writer
from jepa_edge.dds.names import NodeName
from jepa_edge.dds.parameter_server import USE_SIM_TIME, ParameterServer
from jepa_edge.dds.participant import DdsParticipant
from jepa_edge.dds.services import SERVICE_QOS, Reply, ServiceClient, ServiceServer
from jepa_edge.errors import InputError
from jepa_edge.nodes.backend import Closable, Goal
from jepa_edge.nodes.parameters import Parameter, Value
from jepa_edge.nodes.qos import Qos

_CLOCK_TYPE = "rosgraph_msgs/msg/Clock"


class DdsPublisher:
    """A topic's writer; any thread may publish. Closed, it drops what it is given."""

    def __init__(
        self, backend: DdsBackend, writer: RawWriter, type_name: str, watcher: Registration
    ) -> None:
        self._backend = backend
        self._writer = writer
        self._type_name = type_name
        self._watcher = watcher

    def publish(self, message: Any) -> None:
        """Send a message; never waits for a reader.

        Raises InputError for another type, and for values that their fields cannot hold.
        """
        if message.__msgtype__ != self._type_name:
            raise InputError(f"got a {message.__msgtype__} to publish, expected {self._type_name}")
        self._writer.write(self._backend.participant.serialize(message))

    @property
    def matched(self) -> int:
        """How many readers there are."""
        return self._writer.matched()

    def close(self) -> None:
        """Delete the writer; twice does no harm."""
        self._watcher.close()
        self._writer.close()
        self._backend.forget(self, self._writer.gid)


class _Owned:
    """What a backend closes with itself: a registration and the reader's place in the graph."""

    def __init__(self, backend: DdsBackend, parts: tuple[Closable, ...], gid: bytes) -> None:
        self._backend = backend
        self._parts = parts
        self._gid = gid

    def close(self) -> None:
        for part in self._parts:
            part.close()
        self._backend.forget(self, self._gid)


class DdsBackend:
    """One node of a participant.

    name, namespace: the node's own. remaps: ROS names, as after `-r`. values: parameters that were
    given, by name. It is closed with the participant at the latest.
    Raises InputError for names that ROS does not allow.
    """

    def __init__(
        self,
        participant: DdsParticipant,
        name: str,
        *,
        namespace: str = "/",
        remaps: Mapping[str, str] | None = None,
        values: Mapping[str, object] | None = None,
    ) -> None:
        self.names = NodeName(node=name, namespace=namespace, remaps=remaps or {})
        self.participant = participant
        self._given = dict(values or {})
        self._lock = threading.Lock()
        self._owned: list[Closable] = []
        self._closed = False
        self._simulated_ns: int | None = None
        self._clock: Closable | None = None
        self._parameters: ParameterServer | None = None
        participant.graph.add_node(self.names.full)
        self.dispatcher = Dispatcher(participant.handle, name)
        participant.own(self)

    @property
    def name(self) -> str:
        """Fully qualified node name, e.g. "/robot1/jepa_world_model"."""
        return self.names.full

    @property
    def failure(self) -> BaseException | None:
        """The first error that a callback raised, or None."""
        return self.dispatcher.failure

    def parameters(self, declared: Iterable[Parameter]) -> Mapping[str, Value]:
        """Declare parameters, offer them to `ros2 param`; return their live values.

        Raises InputError for given values that are not declared or do not fit.
        """
        if self._parameters is not None:
            raise InputError(f"{self.name} declared its parameters before; once is expected")
        known = tuple(declared)
        if all(parameter.name != USE_SIM_TIME.name for parameter in known):
            known += (USE_SIM_TIME,)
        server = ParameterServer(self, known, self._given)
        self._parameters = server
        self.use_simulated_time(bool(server.values[USE_SIM_TIME.name]))
        return server.values

    def freeze_parameters(self, frozen: bool) -> None:
        """Refuse to set parameters from now on, with a reason, or allow it again."""
        if self._parameters is not None:
            self._parameters.frozen = frozen

    def use_simulated_time(self, wanted: bool) -> None:
        """Take the time from /clock, or from the system again."""
        if wanted and self._clock is None:
            self._simulated_ns = 0
            self._clock = self.subscribe(
                "/clock", _CLOCK_TYPE, Qos(reliable=False, depth=1), self._on_clock
            )
        elif not wanted and self._clock is not None:
            self._clock.close()
            self._clock = self._simulated_ns = None

    def make(self, type_name: str, **fields: Any) -> Any:
        """Return a message; fields left out are zero. Raises InputError for unknown names."""
        return self.participant.make(type_name, **fields)

    def publisher(self, topic: str, type_name: str, qos: Qos) -> DdsPublisher:
        """Advertise a topic. Raises InputError for a bad name or an unknown type."""
        return self.publisher_with_lifespan(topic, type_name, qos, None)

    def publisher_with_lifespan(
        self, topic: str, type_name: str, qos: Qos, lifespan_s: float | None
    ) -> DdsPublisher:
        """Advertise a topic; what is older than lifespan_s is given to no late subscriber."""
        absolute = self.names.resolve(topic)
        self._warm(type_name)
        writer = self.participant.writer(
            self.name, names.topic_name(absolute), type_name, qos, lifespan_s=lifespan_s
        )
        watcher = watch_writer(self.dispatcher, writer, absolute)
        made = DdsPublisher(self, writer, type_name, watcher)
        self._keep(made)
        return made

    def subscribe(
        self, topic: str, type_name: str, qos: Qos, callback: Callable[[Any], None]
    ) -> Closable:
        """Call back with every message. Raises InputError for a bad name or an unknown type.

        What cannot be read as that type is dropped with a warning.
        """
        absolute = self.names.resolve(topic)
        self._warm(type_name)
        reader = self.participant.reader(self.name, names.topic_name(absolute), type_name, qos)
        inbox = Inbox(self.participant, reader, type_name, f"{absolute}: a message")

        def on_sample(sample: Sample) -> None:
            message = inbox.read(sample.publication, sample.payload)
            if message is not None:
                callback(message)

        watcher = watch_reader(self.dispatcher, reader, absolute)
        owned = _Owned(self, (watcher, self.dispatcher.on_sample(reader, on_sample)), reader.gid)
        self._keep(owned)
        return owned

    def service(
        self,
        name: str,
        type_name: str,
        callback: Callable[[Any], Any],
        qos: Qos = SERVICE_QOS,
    ) -> Closable:
        """Answer requests: callback takes "Type_Request" and returns "Type_Response"."""

        def answer(request: Any, reply: Reply) -> None:
            reply(callback(request))

        return self.deferred_service(name, type_name, answer, qos)

    def deferred_service(
        self,
        name: str,
        type_name: str,
        on_request: Callable[[Any, Reply], None],
        qos: Qos = SERVICE_QOS,
    ) -> Closable:
        """Answer requests later: on_request(request, reply) keeps reply and calls it once."""
        made = ServiceServer(self, name, type_name, on_request, qos)
        self._keep(made)
        return made

    def client(self, name: str, type_name: str) -> ServiceClient:
        """Return a client of a service."""
        made = ServiceClient(self, name, type_name)
        self._keep(made)
        return made

    def action(self, name: str, type_name: str, execute: Callable[[Goal], Any]) -> Closable:
        """Serve an action: execute returns "Type_Result", in a thread of its own."""
        made = ActionServer(self, name, type_name, execute)
        self._keep(made)
        return made

    def timer(self, period_s: float, callback: Callable[[], None]) -> Registration:
        """Call back every period of the steady clock; periods that were missed are skipped."""
        if not period_s > 0.0:
            raise InputError(f"a timer's period is {period_s} s, expected above 0")
        return self.dispatcher.timer(period_s, callback)

    def now_ns(self) -> int:
        """Time on the time base of the stamps, nanoseconds; simulated time if use_sim_time."""
        simulated_ns = self._simulated_ns
        return time.time_ns() if simulated_ns is None else simulated_ns

    def close(self) -> None:
        """Leave the graph; no callback begins after this returns. Twice does no harm."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            owned = list(reversed(self._owned))
        self.dispatcher.close()
        for part in owned:
            part.close()
        self.participant.graph.remove_node(self.name)
        self.participant.disown(self)

    def forget(self, part: Closable, *gids: bytes) -> None:
        """Drop something that closed itself, and its readers and writers from the graph."""
        with self._lock:
            if part in self._owned:
                self._owned.remove(part)
        for gid in gids:
            self.participant.graph.remove(self.name, gid)

    def _keep(self, part: Closable) -> None:
        with self._lock:
            if not self._closed:
                self._owned.append(part)
                return
        part.close()
        raise InputError(f"{self.name} is closed; nothing can be added to it")

    def _warm(self, type_name: str) -> None:
        """Have the (de)serializer made now: it takes milliseconds, which the loop has not."""
        if type_name not in self.participant.store.fielddefs:
            raise InputError(f"there is no ROS type {type_name!r}")
        self.participant.store.get_msgdef(type_name)

    def _on_clock(self, message: Any) -> None:
        if self._simulated_ns is not None:
            self._simulated_ns = message.clock.sec * 10**9 + message.clock.nanosec
