# SPDX-License-Identifier: Apache-2.0
"""A middleware in one process: what a node asks of ROS 2, over rosbags' message classes.

Every message passes through CDR, so that a field of a wrong type fails as it would on a wire, and
no two nodes share memory. Callbacks of one backend take turns in a thread of its own, as the
protocol says. An error in a callback is kept and raised by `LocalBus.close`.

    with LocalBus() as bus:
        node = SomeNode(bus.backend("jepa_planner", parameters={"horizon": 5}))
        flags = bus.record("jepa/flag", "jepa_msgs/msg/ConfidenceFlag")
        bus.publish("image", "sensor_msgs/msg/Image", height=8, ...)
        bus.wait_for(lambda: len(flags) == 1)
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from importlib.resources import files
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from jepa_edge.errors import InputError
from jepa_edge.nodes.parameters import Parameter, Value, resolve
from jepa_edge.nodes.qos import Qos

_TRIGGER = ("", "bool success\nstring message\n")


@functools.cache
def store() -> Typestore:
    """Jazzy's types, jepa_msgs, and the parts of services and actions under their ROS names."""
    types = get_typestore(Stores.ROS2_JAZZY)
    found: dict[str, Any] = {}

    def add(name: str, text: str) -> None:
        package, _, kind = name.split("/")
        found[name] = get_types_from_msg(text, f"{package}/msg/{kind}")[f"{package}/msg/{kind}"]

    root = files("jepa_edge.jepa_msgs")
    for folder, parts in (
        ("msg", ("",)),
        ("srv", ("_Request", "_Response")),
        ("action", ("_Goal", "_Result", "_Feedback")),
    ):
        for file in root.joinpath(folder).iterdir():
            kind, _, suffix = file.name.partition(".")
            if suffix != folder:
                continue
            texts = [t.strip("-") for t in file.read_text().split("\n---\n")]
            for part, text in zip(parts, texts, strict=True):
                add(f"jepa_msgs/{folder}/{kind}{part}", text)
    for part, text in zip(("_Request", "_Response"), _TRIGGER, strict=True):
        add(f"std_srvs/srv/Trigger{part}", text or "uint8 structure_needs_at_least_one_member\n")
    types.register(found)
    return types


def make(type_name: str, **fields: Any) -> Any:
    """Return a message; fields left out are zero. Raises AssertionError for an unknown field."""
    definition = dict(store().fielddefs[type_name][1])
    unknown = fields.keys() - definition.keys()
    assert not unknown, f"{type_name} has no field {', '.join(unknown)}"
    values = {n: fields[n] if n in fields else _zero(kind) for n, kind in definition.items()}
    return store().types[type_name](**values)


def _zero(kind: Any) -> Any:
    node, detail = kind
    if node is Nodetype.BASE:
        return {"string": "", "bool": False}.get(detail[0], 0.0 if "float" in detail[0] else 0)
    if node is Nodetype.NAME:
        return make(detail)
    element, length = detail
    count = length if node is Nodetype.ARRAY else 0
    if element[0] is Nodetype.BASE and element[1][0] != "string":
        name = {"byte": "uint8", "char": "uint8"}.get(element[1][0], element[1][0])
        return np.zeros(count, name)
    return [_zero(element) for _ in range(count)]


def copied(message: Any, type_name: str) -> Any:
    """The message as a reader gets it: through CDR and back."""
    assert message.__msgtype__ == store().types[type_name].__msgtype__, (
        f"{message.__msgtype__} was published, expected {type_name}"
    )
    return store().deserialize_cdr(store().serialize_cdr(message, type_name), type_name)


class _Handle:
    """What lasts until it is closed."""

    def __init__(self, on_close: Callable[[], None] = lambda: None) -> None:
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._on_close = on_close

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
        self._on_close()

    def begins(self) -> bool:
        """Whether a callback may begin."""
        with self._lock:
            return not self._closed.is_set()


class _Topic:
    def __init__(self, type_name: str) -> None:
        self.type_name = type_name
        self.readers: list[Callable[[Any], None]] = []
        self.retained: deque[Any] = deque(maxlen=1)
        self.offered: list[Qos] = []


class LocalBus:
    """All nodes of one test. clock: nanoseconds on the time base of the stamps."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._topics: dict[str, _Topic] = {}
        self._services: dict[str, tuple[str, Callable[[Any], Future[Any]]]] = {}
        self._actions: dict[str, tuple[str, Callable[[GoalHandle], None]]] = {}
        self._backends: list[LocalBackend] = []
        self.errors: list[BaseException] = []
        self._peer = self.backend("test_peer")
        self._writers: dict[str, Any] = {}

    def __enter__(self) -> LocalBus:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(quiet=kind is not None)

    def backend(
        self,
        name: str,
        *,
        namespace: str = "",
        parameters: Mapping[str, object] | None = None,
        remap: Mapping[str, str] | None = None,
    ) -> LocalBackend:
        """A node's backend. remap: name as the node asks for it, to another name."""
        backend = LocalBackend(self, name, namespace, parameters or {}, remap or {})
        self._backends.append(backend)
        return backend

    def now_ns(self) -> int:
        return self._clock()

    def set_time(self, now_ns: int) -> None:
        """Fix the time of the stamps, as simulated time does. The steady clock goes on."""
        self._clock = lambda: now_ns

    def set_clock(self, clock: Callable[[], int]) -> None:
        """Take the time of the stamps from a clock again, or from another one."""
        self._clock = clock

    def publish(self, topic: str, type_name: str, /, **fields: Any) -> None:
        """Publish from outside any node. topic: relative ones are taken from the root."""
        if topic not in self._writers:
            self._writers[topic] = self._peer.publisher(topic, type_name, Qos())
        self._writers[topic].publish(make(type_name, **fields))

    def record(self, topic: str, type_name: str) -> list[Any]:
        """Return a list that grows by every message on a topic."""
        messages: list[Any] = []
        self._peer.subscribe(topic, type_name, Qos(depth=1000), messages.append)
        return messages

    def offered(self, topic: str) -> list[Qos]:
        """The QoS of every publisher that a topic has or had."""
        with self._lock:
            found = self._topics.get(self._peer.resolved(topic))
            return [] if found is None else list(found.offered)

    def call(self, service: str, request: Any = None, *, timeout_s: float = 10.0) -> Any:
        """Call a service and wait for the answer. request: None for a Trigger."""
        with self._lock:
            entry = self._services.get(self._peer.resolved(service))
        assert entry is not None, f"no service {service}"
        kind, serve = entry
        request = make(f"{kind}_Request") if request is None else request
        return copied(
            serve(copied(request, f"{kind}_Request")).result(timeout_s), f"{kind}_Response"
        )

    def services(self) -> dict[str, str]:
        """Names and types of all services."""
        with self._lock:
            return {name: kind for name, (kind, _) in self._services.items()}

    def send_goal(self, action: str, goal: Any) -> GoalHandle:
        """Send a goal to an action server."""
        with self._lock:
            entry = self._actions.get(self._peer.resolved(action))
        assert entry is not None, f"no action {action}"
        kind, accept = entry
        handle = GoalHandle(kind, copied(goal, f"{kind}_Goal"))
        accept(handle)
        return handle

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait until a condition holds. Raises AssertionError when it does not in time."""
        due_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < due_s, f"did not happen within {timeout_s} s"
            time.sleep(0.001)

    def settle(self) -> None:
        """Wait until every callback of every backend, and those they caused, have run."""
        for _ in range(3):
            for backend in list(self._backends):
                backend.drain()

    def close(self, *, quiet: bool = False) -> None:
        """End all backends; raise the first error that a callback raised, unless quiet."""
        for backend in self._backends:
            backend.shut_down()
        if self.errors and not quiet:
            raise AssertionError("a callback failed") from self.errors[0]

    def topic(self, name: str, type_name: str) -> _Topic:
        with self._lock:
            topic = self._topics.setdefault(name, _Topic(type_name))
        assert topic.type_name == type_name, f"{name} is {topic.type_name}, not {type_name}"
        return topic


class LocalBackend:
    """`jepa_edge.nodes.backend.Backend` over a LocalBus."""

    def __init__(
        self,
        bus: LocalBus,
        name: str,
        namespace: str,
        parameters: Mapping[str, object],
        remap: Mapping[str, str],
    ) -> None:
        self.bus = bus
        self._namespace = "/" + namespace.strip("/") if namespace.strip("/") else ""
        self._node = name
        self._given = parameters
        self._remap = remap
        self._declared: dict[str, Parameter] = {}
        self._values: dict[str, Value] = {}
        self._frozen = False
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._dispatch, name=f"bus {name}", daemon=True)
        self._thread.start()
        self._handles: list[_Handle] = []

    @property
    def name(self) -> str:
        return f"{self._namespace}/{self._node}"

    def resolved(self, name: str) -> str:
        """The full name of a topic or service, after remapping."""
        name = self._remap.get(name, name)
        if name.startswith("~/"):
            return f"{self.name}{name[1:]}"
        return name if name.startswith("/") else f"{self._namespace}/{name}"

    def parameters(self, declared: Iterable[Parameter]) -> Mapping[str, Value]:
        assert not self._declared, "parameters are declared once"
        self._declared = {parameter.name: parameter for parameter in declared}
        self._values.update(resolve(self._declared.values(), self._given))
        return self._values

    def set_parameter(self, name: str, value: object) -> None:
        """As `ros2 param set`. Raises InputError when refused."""
        if self._frozen:
            raise InputError(f"{name} cannot be set while {self.name} is active")
        self._values[name] = self._declared[name].checked(value)

    def freeze_parameters(self, frozen: bool) -> None:
        self._frozen = frozen

    def make(self, type_name: str, /, **fields: Any) -> Any:
        return make(type_name, **fields)

    def publisher(self, topic: str, type_name: str, qos: Qos) -> LocalPublisher:
        entry = self.bus.topic(self.resolved(topic), type_name)
        entry.offered.append(qos)
        publisher = LocalPublisher(self.bus, entry, qos)
        self._handles.append(publisher)
        return publisher

    def subscribe(
        self, topic: str, type_name: str, qos: Qos, callback: Callable[[Any], None]
    ) -> _Handle:
        entry = self.bus.topic(self.resolved(topic), type_name)

        def deliver(message: Any) -> None:
            self.post(lambda: callback(message) if handle.begins() else None)

        def leave() -> None:
            with self.bus._lock:
                entry.readers.remove(deliver)

        handle = self._keep(_Handle(leave))
        with self.bus._lock:
            entry.readers.append(deliver)
            retained = list(entry.retained) if qos.transient_local else []
        for message in retained:
            deliver(copied(message, type_name))
        return handle

    def service(self, name: str, type_name: str, callback: Callable[[Any], Any]) -> _Handle:
        def serve(request: Any) -> Future[Any]:
            answer: Future[Any] = Future()

            def run() -> None:
                try:
                    answer.set_result(callback(request))
                except BaseException as error:
                    answer.set_exception(error)

            self.post(run)
            return answer

        return self._register(self.bus._services, name, (type_name, serve))

    def action(self, name: str, type_name: str, execute: Callable[[GoalHandle], Any]) -> _Handle:
        """One thread at a time executes goals; a newer one cancels the one at work."""
        turn = threading.Lock()
        present: list[GoalHandle] = []

        def work(goal: GoalHandle) -> None:
            with turn:
                try:
                    goal.finish(execute(goal))
                except BaseException as error:
                    self.bus.errors.append(error)
                    goal.fail(error)

        def accept(goal: GoalHandle) -> None:
            for older in present:
                older.cancel()
            present.append(goal)
            threading.Thread(target=work, args=(goal,), daemon=True).start()

        return self._register(self.bus._actions, name, (type_name, accept))

    def timer(self, period_s: float, callback: Callable[[], None]) -> _Handle:
        handle = self._keep(_Handle())
        pending = threading.Event()

        def run() -> None:
            pending.clear()
            if handle.begins():
                callback()

        def tick() -> None:
            due_s = time.monotonic() + period_s
            while not handle._closed.wait(max(0.0, due_s - time.monotonic())):
                due_s = max(due_s + period_s, time.monotonic())
                if not pending.is_set():
                    pending.set()
                    self.post(run)

        threading.Thread(target=tick, name="bus timer", daemon=True).start()
        return handle

    def now_ns(self) -> int:
        return self.bus.now_ns()

    def post(self, job: Callable[[], None]) -> None:
        """Have the dispatcher's thread do something."""
        self._jobs.put(job)

    def drain(self) -> None:
        """Wait until everything posted so far is done."""
        done = threading.Event()
        self.post(done.set)
        if threading.current_thread() is not self._thread:
            assert done.wait(10.0), f"{self.name} hangs in a callback"

    def shut_down(self) -> None:
        for handle in self._handles:
            handle.close()
        self._jobs.put(None)
        self._thread.join(10.0)

    def _keep(self, handle: _Handle) -> _Handle:
        self._handles.append(handle)
        return handle

    def _register(self, table: dict[str, Any], name: str, entry: Any) -> _Handle:
        full = self.resolved(name)
        with self.bus._lock:
            assert full not in table, f"{full} is served already"
            table[full] = entry

        def leave() -> None:
            with self.bus._lock:
                table.pop(full, None)

        return self._keep(_Handle(leave))

    def _dispatch(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._run(job)

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self.bus.errors.append(error)


class LocalPublisher(_Handle):
    """A topic's writer."""

    def __init__(self, bus: LocalBus, topic: _Topic, qos: Qos) -> None:
        super().__init__()
        self._bus, self._topic, self._qos = bus, topic, qos

    def publish(self, message: Any) -> None:
        assert not self.closed, "published on a closed publisher"
        topic = self._topic
        with self._bus._lock:
            readers = list(topic.readers)
            if self._qos.transient_local:
                if topic.retained.maxlen != self._qos.depth:
                    topic.retained = deque(topic.retained, self._qos.depth)
                topic.retained.append(copied(message, topic.type_name))
            for reader in readers or [lambda _: None]:
                reader(copied(message, topic.type_name))


class GoalHandle:
    """A goal, seen from both sides."""

    def __init__(self, kind: str, request: Any) -> None:
        self._kind = kind
        self._request = request
        self._cancelled = threading.Event()
        self._result: Future[Any] = Future()
        self.feedbacks: list[Any] = []
        self.succeeded = False

    @property
    def request(self) -> Any:
        return self._request

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def feedback(self, message: Any) -> None:
        self.feedbacks.append(copied(message, f"{self._kind}_Feedback"))

    def succeed(self) -> None:
        self.succeeded = True

    def cancel(self) -> None:
        """What a client does."""
        self._cancelled.set()

    def result(self, timeout_s: float = 10.0) -> Any:
        """Wait for the result."""
        return self._result.result(timeout_s)

    def finish(self, result: Any) -> None:
        self._result.set_result(copied(result, f"{self._kind}_Result"))

    def fail(self, error: BaseException) -> None:
        with contextlib.suppress(Exception):
            self._result.set_exception(error)
