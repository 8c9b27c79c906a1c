# SPDX-License-Identifier: Apache-2.0
"""What a node asks of the middleware: RclpyBackend (ros/jepa_ros) or DdsBackend (jepa_edge.dds).

Names are as in ROS 2: "image" is relative to the node's namespace, "~/flag" private, "/flag"
absolute; types are "package/msg/Type", "package/srv/Type", "package/action/Type". A message is an
object with the type's fields as attributes. Numeric arrays are put in as numpy arrays of the
field's dtype; read one with `np.asarray(message.data)`, which copies nothing.

Callbacks of one backend are never called at the same time, but from a thread of the backend's own;
what takes longer than a millisecond belongs into the node's own thread. All methods, and the
publishers, may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from jepa_edge.nodes.parameters import Parameter, Value
from jepa_edge.nodes.qos import Qos


class Closable(Protocol):
    """A subscription, timer or server: it lasts until it is closed."""

    def close(self) -> None:
        """End it; no callback begins after this returns. Twice does no harm."""


class Publisher(Closable, Protocol):
    """A topic's writer."""

    def publish(self, message: Any) -> None:
        """Send a message; never waits for a reader."""


class Goal(Protocol):
    """A goal that an action server works on."""

    @property
    def request(self) -> Any:
        """The goal's message."""

    @property
    def cancelled(self) -> bool:
        """Whether a client asked to cancel it, or a newer goal took its place."""

    def feedback(self, message: Any) -> None:
        """Publish "package/action/Type_Feedback"."""

    def succeed(self) -> None:
        """Mark it as succeeded; without a mark it counts as aborted, or cancelled if it was."""


class Backend(Protocol):
    """The middleware of one node."""

    @property
    def name(self) -> str:
        """Fully qualified node name, e.g. "/robot1/jepa_world_model"."""

    def parameters(self, declared: Iterable[Parameter]) -> Mapping[str, Value]:
        """Declare parameters; return their present values, already checked.

        Called once, when the node is made. The mapping is live: it shows what was set since.
        """

    def freeze_parameters(self, frozen: bool) -> None:
        """Refuse to set parameters from now on, with a reason, or allow it again."""

    def make(self, type_name: str, **fields: Any) -> Any:
        """Return a message; fields left out are zero. "package/srv/Type_Response" and
        "package/action/Type_Result" or "_Feedback" are types too."""

    def publisher(self, topic: str, type_name: str, qos: Qos) -> Publisher:
        """Advertise a topic."""

    def subscribe(
        self, topic: str, type_name: str, qos: Qos, callback: Callable[[Any], None]
    ) -> Closable:
        """Call back with every message."""

    def service(self, name: str, type_name: str, callback: Callable[[Any], Any]) -> Closable:
        """Answer requests: callback takes "Type_Request" and returns "Type_Response"."""

    def action(self, name: str, type_name: str, execute: Callable[[Goal], Any]) -> Closable:
        """Serve an action: execute returns "Type_Result". It runs in a thread of its own, one goal
        at a time; a newer goal cancels the one at work."""

    def timer(self, period_s: float, callback: Callable[[], None]) -> Closable:
        """Call back every period of the steady clock."""

    def now_ns(self) -> int:
        """Time on the time base of the stamps: system time, or simulated time if the node's
        parameter use_sim_time says so (0 before the first /clock message). Nanoseconds."""
