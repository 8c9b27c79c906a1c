# SPDX-License-Identifier: Apache-2.0
"""Python logging into the node's logger: console, log file, /rosout, and ros2's log level."""

from __future__ import annotations

import logging

from rclpy.node import Node

_ROOTS = ("jepa_edge", "jepa_ros")


class NodeLogHandler(logging.Handler):
    """Hands records on to the logger of the node whose module they come from, else of the first.

    Several nodes can share a process: `claim` says which module is whose.
    """

    def __init__(self) -> None:
        super().__init__()
        self._nodes: dict[str, Node] = {}

    def claim(self, module: str, node: Node) -> None:
        """Records of this module, and of those below it, go to node."""
        self._nodes[module] = node
        level = min(n.get_logger().get_effective_level() for n in self._nodes.values())
        for root in _ROOTS:
            logging.getLogger(root).setLevel(int(level))
            if self not in logging.getLogger(root).handlers:
                logging.getLogger(root).addHandler(self)

    def detach(self) -> None:
        """Hand nothing on any more."""
        for root in _ROOTS:
            logging.getLogger(root).removeHandler(self)
        self._nodes.clear()

    def emit(self, record: logging.LogRecord) -> None:
        """Log it. One line of code per level: rclpy ties a level to the line that logs."""
        if not self._nodes:
            return
        node = next(
            (n for module, n in self._nodes.items() if record.name.startswith(module)),
            next(iter(self._nodes.values())),
        )
        to, text = node.get_logger(), self.format(record)
        if record.levelno >= logging.CRITICAL:
            to.fatal(text)
        elif record.levelno >= logging.ERROR:
            to.error(text)
        elif record.levelno >= logging.WARNING:
            to.warning(text)
        elif record.levelno >= logging.INFO:
            to.info(text)
        else:
            to.debug(text)
