# SPDX-License-Identifier: Apache-2.0
"""A warning when two sides of a topic do not fit, which DDS otherwise keeps to itself."""

from __future__ import annotations

import ctypes as ct
import logging

from jepa_edge.dds import clib
from jepa_edge.dds.dispatcher import Dispatcher, Registration
from jepa_edge.dds.endpoints import RawReader, RawWriter

logger = logging.getLogger(__name__)

_POLICIES = {2: "durability", 4: "deadline", 8: "liveliness", 11: "reliability"}


def watch_reader(dispatcher: Dispatcher, reader: RawReader, topic: str) -> Registration:
    """Warn when a publisher offers less than this reader asks for."""
    read = clib.library().dds_get_requested_incompatible_qos_status

    def warn() -> None:
        status = clib.IncompatibleQos()
        read(reader.handle, ct.byref(status))
        logger.warning(
            "%s: a publisher offers an incompatible %s; no message of it will arrive",
            topic,
            _POLICIES.get(status.last_policy_id, f"policy {status.last_policy_id}"),
        )

    return dispatcher.on_status(reader.handle, clib.REQUESTED_INCOMPATIBLE_QOS, warn)


def watch_writer(dispatcher: Dispatcher, writer: RawWriter, topic: str) -> Registration:
    """Warn when a subscriber asks for more than this writer offers."""
    read = clib.library().dds_get_offered_incompatible_qos_status

    def warn() -> None:
        status = clib.IncompatibleQos()
        read(writer.handle, ct.byref(status))
        logger.warning(
            "%s: a subscriber asks for an incompatible %s; it will get no message",
            topic,
            _POLICIES.get(status.last_policy_id, f"policy {status.last_policy_id}"),
        )

    return dispatcher.on_status(writer.handle, clib.OFFERED_INCOMPATIBLE_QOS, warn)
