# SPDX-License-Identifier: Apache-2.0
"""Log records to /rosout, where `ros2 topic echo /rosout` and rqt_console look."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from jepa_edge.nodes.qos import Qos

if TYPE_CHECKING:
    from jepa_edge.dds.backend import DdsBackend

_TYPE = "rcl_interfaces/msg/Log"
_QOS = Qos(reliable=True, depth=1000, transient_local=True)
_LIFESPAN_S = 10.0


class RosoutHandler(logging.Handler):
    """Publishes the records of a logger and its children as a node's; a context manager."""

    def __init__(self, backend: DdsBackend, logger: logging.Logger) -> None:
        super().__init__(logging.INFO)
        self._backend = backend
        self._logger = logger
        self._name = backend.name[1:].replace("/", ".")
        self._publisher = backend.publisher_with_lifespan("/rosout", _TYPE, _QOS, _LIFESPAN_S)
        self._here = threading.local()
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Publish a record; what publishing itself logs is left out."""
        if getattr(self._here, "busy", False):
            return
        self._here.busy = True
        try:
            now_ns = self._backend.now_ns()
            make = self._backend.make
            self._publisher.publish(
                make(
                    _TYPE,
                    stamp=make(
                        "builtin_interfaces/msg/Time",
                        sec=now_ns // 10**9,
                        nanosec=now_ns % 10**9,
                    ),
                    level=min(record.levelno, logging.CRITICAL),
                    name=self._name,
                    msg=self.format(record),
                    file=record.pathname,
                    function=record.funcName or "",
                    line=record.lineno,
                )
            )
        except Exception:
            self.handleError(record)
        finally:
            self._here.busy = False

    def __enter__(self) -> RosoutHandler:
        self._logger.addHandler(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._logger.removeHandler(self)
