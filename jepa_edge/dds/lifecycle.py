# SPDX-License-Identifier: Apache-2.0
"""A managed node's states, and the services by which `ros2 lifecycle` reads and changes them.

Source: design.ros2.org, "Managed nodes"; rcl_lifecycle.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from jepa_edge.errors import InputError, JepaEdgeError
from jepa_edge.nodes.qos import Qos

if TYPE_CHECKING:
    from jepa_edge.dds.backend import DdsBackend

logger = logging.getLogger(__name__)


class ManagedNode(Protocol):
    """A node with a lifecycle; each step raises JepaEdgeError with one clear line."""

    def configure(self) -> None:
        """Load, make publishers and services."""

    def activate(self) -> None:
        """Begin to work."""

    def deactivate(self) -> None:
        """Stop working."""

    def cleanup(self) -> None:
        """Undo configure."""


@dataclass(frozen=True, slots=True)
class _Transition:
    number: int
    label: str
    start: int
    goal: int
    between: int


# lifecycle_msgs/msg/State and Transition
UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = 1, 2, 3, 4
_STATES = {
    0: "unknown",
    UNCONFIGURED: "unconfigured",
    INACTIVE: "inactive",
    ACTIVE: "active",
    FINALIZED: "finalized",
    10: "configuring",
    11: "cleaningup",
    12: "shuttingdown",
    13: "activating",
    14: "deactivating",
    15: "errorprocessing",
}
_TRANSITIONS = (
    _Transition(1, "configure", UNCONFIGURED, INACTIVE, 10),
    _Transition(2, "cleanup", INACTIVE, UNCONFIGURED, 11),
    _Transition(3, "activate", INACTIVE, ACTIVE, 13),
    _Transition(4, "deactivate", ACTIVE, INACTIVE, 14),
    _Transition(5, "shutdown", UNCONFIGURED, FINALIZED, 12),
    _Transition(6, "shutdown", INACTIVE, FINALIZED, 12),
    _Transition(7, "shutdown", ACTIVE, FINALIZED, 12),
)
# What ends a transition, by the state it passes through: number of on_..._success; failure is +1.
_OUTCOME = {10: 10, 11: 20, 13: 30, 14: 40, 12: 50}


class LifecycleServer:
    """Owns the state of one managed node; transitions run one at a time, off the callbacks."""

    def __init__(self, backend: DdsBackend, node: ManagedNode) -> None:
        self._backend = backend
        self._node = node
        self._state = UNCONFIGURED
        self._changing = threading.Lock()
        self._make = backend.make
        self._events = backend.publisher(
            "~/transition_event", "lifecycle_msgs/msg/TransitionEvent", Qos(depth=10)
        )
        backend.deferred_service(
            "~/change_state", "lifecycle_msgs/srv/ChangeState", self._on_change
        )
        for name, kind, answer in (
            ("get_state", "GetState", self._get_state),
            ("get_available_states", "GetAvailableStates", self._get_states),
            ("get_available_transitions", "GetAvailableTransitions", self._get_available),
            ("get_transition_graph", "GetAvailableTransitions", self._get_graph),
        ):
            backend.service(f"~/{name}", f"lifecycle_msgs/srv/{kind}", answer)

    @property
    def state(self) -> str:
        """The present state, e.g. "active"."""
        return _STATES[self._state]

    def change(self, label: str) -> None:
        """Run a transition, e.g. "configure", in this thread.

        Raises InputError when the state does not allow it, and what the node raises.
        """
        with self._changing:
            chosen = next((t for t in self._available() if t.label == label), None)
            if chosen is None:
                allowed = ", ".join(t.label for t in self._available()) or "nothing"
                raise InputError(
                    f"{self._backend.name} is {self.state}: cannot {label}; possible: {allowed}"
                )
            self._run(chosen)

    def _run(self, chosen: _Transition) -> None:
        self._go(chosen.number, chosen.label, chosen.between)
        outcome = _OUTCOME[chosen.between]
        reached = chosen.start
        try:
            for step, state in self._steps(chosen):
                step()
                reached = state
        except BaseException:
            self._go(outcome + 1, "transition_failure", reached)
            raise
        self._go(outcome, "transition_success", chosen.goal)

    def _steps(self, chosen: _Transition) -> list[tuple[Callable[[], None], int]]:
        """Return what the node has to do, and the state that each step leads to."""
        if chosen.label != "shutdown":
            return [(getattr(self._node, chosen.label), chosen.goal)]
        steps: list[tuple[Callable[[], None], int]] = []
        if chosen.start == ACTIVE:
            steps.append((self._node.deactivate, INACTIVE))
        if chosen.start in (ACTIVE, INACTIVE):
            steps.append((self._node.cleanup, UNCONFIGURED))
        return steps

    def _go(self, number: int, label: str, state: int) -> None:
        before, self._state = self._state, state
        self._events.publish(
            self._make(
                "lifecycle_msgs/msg/TransitionEvent",
                timestamp=time.time_ns(),
                transition=self._transition(number, label),
                start_state=self._state_message(before),
                goal_state=self._state_message(state),
            )
        )

    def _available(self) -> list[_Transition]:
        return [transition for transition in _TRANSITIONS if transition.start == self._state]

    def _on_change(self, request: Any, reply: Callable[[Any], None]) -> None:
        """Loading a bundle takes seconds: that must not hold up the other callbacks."""
        wanted = request.transition
        numbers = {transition.number: transition.label for transition in _TRANSITIONS}
        label = wanted.label or numbers.get(wanted.id, f"transition {wanted.id}")

        def run() -> None:
            try:
                self.change(label)
                success = True
            except JepaEdgeError as error:
                logger.error("%s could not %s: %s", self._backend.name, label, error)
                success = False
            except BaseException as error:
                self._backend.dispatcher.fail(f"{self._backend.name} failed to {label}", error)
                success = False
            reply(self._make("lifecycle_msgs/srv/ChangeState_Response", success=success))

        threading.Thread(target=run, name="lifecycle", daemon=True).start()

    def _get_state(self, request: Any) -> Any:
        return self._make(
            "lifecycle_msgs/srv/GetState_Response", current_state=self._state_message(self._state)
        )

    def _get_states(self, request: Any) -> Any:
        return self._make(
            "lifecycle_msgs/srv/GetAvailableStates_Response",
            available_states=[self._state_message(state) for state in _STATES],
        )

    def _get_available(self, request: Any) -> Any:
        return self._described(self._available())

    def _get_graph(self, request: Any) -> Any:
        return self._described(list(_TRANSITIONS))

    def _described(self, transitions: list[_Transition]) -> Any:
        return self._make(
            "lifecycle_msgs/srv/GetAvailableTransitions_Response",
            available_transitions=[
                self._make(
                    "lifecycle_msgs/msg/TransitionDescription",
                    transition=self._transition(transition.number, transition.label),
                    start_state=self._state_message(transition.start),
                    goal_state=self._state_message(transition.between),
                )
                for transition in transitions
            ],
        )

    def _transition(self, number: int, label: str) -> Any:
        return self._make("lifecycle_msgs/msg/Transition", id=number, label=label)

    def _state_message(self, state: int) -> Any:
        return self._make("lifecycle_msgs/msg/State", id=state, label=_STATES[state])
