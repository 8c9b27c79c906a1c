# SPDX-License-Identifier: Apache-2.0
"""Node cores on rclpy nodes."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from jepa_edge.errors import JepaEdgeError
from jepa_ros.backend import RclpyBackend
from jepa_ros.logs import NodeLogHandler

logger = logging.getLogger(__name__)

Result = TransitionCallbackReturn
Core = Callable[[RclpyBackend], Any]


class Running(Protocol):
    """A node of this process."""

    node: Node

    def start(self) -> bool:
        """Start it; False when that may succeed later. Raises JepaEdgeError when it never will."""

    def close(self) -> None:
        """Stop the work and say a last word on the topics, while they still exist."""


class SimpleNode:
    """A core with start and close."""

    def __init__(self, name: str, core: Core, logs: NodeLogHandler) -> None:
        self.node = Node(name)
        logs.claim(core.__module__, self.node)
        self._core = core(RclpyBackend(self.node))

    def start(self) -> bool:
        """Start the core."""
        self._core.start()
        return True

    def close(self) -> None:
        """Close the core."""
        self._core.close()


class WorldModel(LifecycleNode):
    """The world model's core behind the lifecycle of ROS 2.

    configure loads the bundle, activate begins to look at images. A failed transition leaves the
    state as it was and logs one line; correct the parameter and try again. An error that nobody
    thought of closes the core, whatever it had done by then, and leaves the node unconfigured.
    """

    def __init__(self, name: str, core: Core, logs: NodeLogHandler) -> None:
        super().__init__(name)
        self.node = self
        logs.claim(core.__module__, self)
        self._core = core(RclpyBackend(self))
        self._configured_here = False

    def start(self) -> bool:
        """Configure and activate, unless somebody else has begun to."""
        try:
            if not self._configured_here and self.trigger_configure() != Result.SUCCESS:
                return False
            self._configured_here = True
            activated = self.trigger_activate()
            # An error, unlike a failure, leads back to unconfigured.
            self._configured_here = activated != Result.ERROR
            return bool(activated == Result.SUCCESS)
        except Exception as error:  # rclpy's own error class is private: no such transition now
            logger.debug("not started here: %s", error)
        return True

    def close(self) -> None:
        """Shut down by the transition, so that lifecycle managers see it."""
        try:
            self.trigger_shutdown()
        except Exception as error:  # rclpy's own error class is private: no such transition now
            logger.debug("no shutdown transition: %s", error)
            self._core.close()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle, make publishers and services."""
        return self._try(self._core.configure, lambda: super(WorldModel, self).on_configure(state))

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, start the worker and the watchdog."""
        return self._try(self._core.activate, lambda: super(WorldModel, self).on_activate(state))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop looking at images."""
        return self._try(
            self._core.deactivate, lambda: super(WorldModel, self).on_deactivate(state)
        )

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop the bundle."""
        return self._try(self._core.cleanup, lambda: super(WorldModel, self).on_cleanup(state))

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End from any state."""
        return self._try(self._core.close, lambda: super(WorldModel, self).on_shutdown(state))

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the core, so that it can be configured again as rclpy then says it can."""
        return self._try(self._core.close, lambda: super(WorldModel, self).on_error(state))

    def _try(
        self, step: Callable[[], None], rest: Callable[[], TransitionCallbackReturn]
    ) -> TransitionCallbackReturn:
        try:
            step()
        except JepaEdgeError as error:
            self.get_logger().error(str(error))
            return Result.FAILURE
        except Exception:  # rclpy would go on to on_error without a word
            self.get_logger().error(f"a transition failed:\n{traceback.format_exc()}")
            return Result.ERROR
        return rest()


_KINDS: dict[str, tuple[Callable[[str, Core, NodeLogHandler], Running], str, str, str]] = {
    "world_model": (WorldModel, "jepa_world_model", "world_model", "WorldModelNode"),
    "planner": (SimpleNode, "jepa_planner", "planner", "PlannerNode"),
    "safety_gate": (SimpleNode, "jepa_safety_gate", "safety_gate", "SafetyGateNode"),
    "serial_bridge": (SimpleNode, "jepa_serial_bridge", "serial_bridge", "SerialBridgeNode"),
}


def make_node(kind: str, logs: NodeLogHandler) -> Running:
    """Make a node of that kind; only its own core is imported.

    Raises JepaEdgeError for a parameter that does not fit.
    """
    wrapper, name, module, class_name = _KINDS[kind]
    core = getattr(import_module(f"jepa_edge.nodes.{module}"), class_name)
    return wrapper(name, core, logs)
