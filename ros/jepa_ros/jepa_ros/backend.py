# SPDX-License-Identifier: Apache-2.0
"""jepa_edge.nodes.backend.Backend over an rclpy node, which may be a LifecycleNode."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from jepa_edge.nodes.backend import Goal
from jepa_edge.nodes.parameters import Parameter, Value
from jepa_edge.nodes.qos import Qos
from jepa_ros.goals import GoalServer
from jepa_ros.interfaces import interface, make
from jepa_ros.parameters import NodeParameters


class RclpyBackend:
    """Carries one node core's messages. Needs an executor with threads to spare for actions.

    All callbacks share one mutually exclusive group, so that no two of them ever run at the same
    time; parameters and lifecycle services are the node's default group and do not wait for them.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self._group = MutuallyExclusiveCallbackGroup()
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._parameters: NodeParameters | None = None

    @property
    def name(self) -> str:
        """Fully qualified node name."""
        return str(self.node.get_fully_qualified_name())

    def parameters(self, declared: Iterable[Parameter]) -> Mapping[str, Value]:
        """Declare them; the mapping shows what is set later. Raises InputError for a bad value."""
        self._parameters = NodeParameters(self.node, declared)
        return self._parameters

    def freeze_parameters(self, frozen: bool) -> None:
        """Refuse to set the declared parameters, or allow it again."""
        if self._parameters is not None:
            self._parameters.freeze(frozen)

    def make(self, type_name: str, /, **fields: Any) -> Any:
        """Return a message; ndarrays become array.array. Raises InputError for a bad value."""
        return make(type_name, **fields)

    def publisher(self, topic: str, type_name: str, qos: Qos) -> RclpyPublisher:
        """Advertise a topic."""
        return RclpyPublisher(self.node, topic, type_name, qos)

    def subscribe(
        self, topic: str, type_name: str, qos: Qos, callback: Callable[[Any], None]
    ) -> Entity:
        """Call back with every message."""
        entity = Entity(self.node.destroy_subscription)
        entity.hold(
            self.node.create_subscription(
                interface(type_name),
                topic,
                entity.guarded(callback),
                _profile(qos),
                callback_group=self._group,
            )
        )
        return entity

    def service(self, name: str, type_name: str, callback: Callable[[Any], Any]) -> Entity:
        """Answer requests."""
        entity = Entity(self.node.destroy_service)
        entity.hold(
            self.node.create_service(
                interface(type_name),
                name,
                entity.answering(callback),
                callback_group=self._group,
            )
        )
        return entity

    def action(self, name: str, type_name: str, execute: Callable[[Goal], Any]) -> GoalServer:
        """Serve an action; a newer goal cancels the one at work."""
        return GoalServer(self.node, name, interface(type_name), execute)

    def timer(self, period_s: float, callback: Callable[[], None]) -> Entity:
        """Call back every period of the steady clock, whatever use_sim_time says."""
        entity = Entity(self.node.destroy_timer)
        entity.hold(
            self.node.create_timer(
                period_s,
                entity.guarded(callback),
                callback_group=self._group,
                clock=self._steady,
            )
        )
        return entity

    def now_ns(self) -> int:
        """Nanoseconds of the node's clock, which follows use_sim_time."""
        return int(self.node.get_clock().now().nanoseconds)


class Entity:
    """A subscription, service or timer, which any thread may close."""

    def __init__(self, destroy: Callable[[Any], bool]) -> None:
        self._destroy = destroy
        self._held: Any = None
        self._closed = False
        self._running = threading.RLock()
        """Held by a callback while it runs: close waits for it, but from the callback itself."""

    def hold(self, made: Any) -> None:
        """Take over what rclpy made."""
        self._held = made

    def guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Return the callback; it does nothing once this is closed.

        rclpy may have taken a message, and queued its callback, before the subscription went.
        """

        def call(*arguments: Any) -> None:
            with self._running:
                if not self._closed:
                    callback(*arguments)

        return call

    def answering(self, callback: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        """As `guarded`, for a service: once this is closed, the answer is all zeros."""

        def call(request: Any, response: Any) -> Any:
            with self._running:
                return response if self._closed else callback(request)

        return call

    def close(self) -> None:
        """End it. A callback at work is waited for, unless this is called from it."""
        with self._running:
            if self._closed:
                return
            self._closed = True
        self._destroy(self._held)


class RclpyPublisher:
    """A topic's writer. Messages after the close are dropped: a worker may finish late."""

    def __init__(self, node: Node, topic: str, type_name: str, qos: Qos) -> None:
        self._node = node
        self._publisher = node.create_publisher(interface(type_name), topic, _profile(qos))
        self._closed = False
        self._sending = threading.Lock()

    def publish(self, message: Any) -> None:
        """Send a message."""
        with self._sending:
            if not self._closed:
                self._publisher.publish(message)

    def close(self) -> None:
        """Withdraw the topic."""
        with self._sending:
            if self._closed:
                return
            self._closed = True
        self._node.destroy_publisher(self._publisher)


def _profile(qos: Qos) -> QoSProfile:
    deadline_ns = 0 if qos.deadline_s is None else round(qos.deadline_s * 1e9)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=qos.depth,
        reliability=ReliabilityPolicy.RELIABLE if qos.reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=(
            DurabilityPolicy.TRANSIENT_LOCAL if qos.transient_local else DurabilityPolicy.VOLATILE
        ),
        deadline=Duration(nanoseconds=deadline_ns),  # 0: none
    )
