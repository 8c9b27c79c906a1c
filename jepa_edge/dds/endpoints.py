# SPDX-License-Identifier: Apache-2.0
"""Writers and readers of raw CDR bytes, and their quality of service in DDS."""

from __future__ import annotations

import ctypes as ct
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from jepa_edge.dds import clib
from jepa_edge.errors import InputError
from jepa_edge.nodes.qos import Qos

logger = logging.getLogger(__name__)

_KEEP_LAST, _BEST_EFFORT, _RELIABLE, _TRANSIENT_LOCAL, _UNLIMITED = 0, 0, 1, 1, -1


@contextmanager
def dds_qos(qos: Qos, user_data: str, *, lifespan_s: float | None = None) -> Iterator[int]:
    """Yield a dds_qos_t that lasts as long as the context.

    user_data: what rmw_cyclonedds puts there, e.g. "typehash=RIHS01_...;".
    """
    lib = clib.library()
    made = lib.dds_create_qos()
    try:
        lib.dds_qset_reliability(made, _RELIABLE if qos.reliable else _BEST_EFFORT, 0)
        lib.dds_qset_history(made, _KEEP_LAST, qos.depth)
        if qos.transient_local:
            lib.dds_qset_durability(made, _TRANSIENT_LOCAL)
            lib.dds_qset_durability_service(
                made, 0, _KEEP_LAST, qos.depth, _UNLIMITED, _UNLIMITED, _UNLIMITED
            )
        if qos.deadline_s is not None:
            lib.dds_qset_deadline(made, round(qos.deadline_s * 1e9))
        if lifespan_s is not None:
            lib.dds_qset_lifespan(made, round(lifespan_s * 1e9))
        lib.dds_qset_writer_data_lifecycle(made, False)
        data = user_data.encode()
        lib.dds_qset_userdata(made, data, len(data))
        yield made
    finally:
        lib.dds_delete_qos(made)


def user_data_of(endpoint: Any) -> dict[str, str]:
    """Return the key=value; pairs of a discovered endpoint. endpoint: pointer, may be null."""
    lib = clib.library()
    if not endpoint:
        return {}
    try:
        memory, size = ct.c_void_p(), ct.c_size_t()
        qos = endpoint.contents.qos
        if not qos or not lib.dds_qget_userdata(qos, ct.byref(memory), ct.byref(size)):
            return {}
        text = ct.string_at(memory, size.value).decode(errors="replace") if memory else ""
        lib.dds_free(memory)
    finally:
        lib.dds_builtintopic_free_endpoint(endpoint)
    return dict(pair.split("=", 1) for pair in text.split(";") if "=" in pair)


def guid_of(handle: int) -> bytes:
    """Return an entity's 16-byte GUID, which ROS calls its gid."""
    guid = clib.Guid()
    clib.checked(clib.library().dds_get_guid(handle, ct.byref(guid)), "reading a GUID")
    return bytes(guid.bytes)


class RawWriter:
    """A writer of CDR bytes; any thread may write. Closed, it drops what it is given."""

    def __init__(self, participant: int, topic: int, qos: int, name: str) -> None:
        lib = clib.library()
        self.name = name
        self.handle = clib.checked(
            lib.dds_create_writer(participant, topic, qos, None), "creating a writer"
        )
        self.gid = guid_of(self.handle)
        self._lock = threading.Lock()
        self._open = True
        self._sertype = ct.c_void_p()
        lib.dds_get_entity_sertype(self.handle, ct.byref(self._sertype))

    @property
    def instance(self) -> int:
        """The 64-bit number by which rmw_cyclonedds tells clients apart."""
        number = ct.c_uint64()
        clib.library().dds_get_instance_handle(self.handle, ct.byref(number))
        return number.value

    def write(self, *pieces: bytes | memoryview) -> bool:
        """Send CDR bytes, given in pieces; the first begins with the 4-byte CDR header.

        Never waits: of a reader that is behind, keep-last history lets the oldest go. Returns False
        when it is closed.
        """
        lib = clib.library()
        size = sum(len(piece) for piece in pieces)
        padding = bytes(-size % 4)
        parts = [piece for piece in (*pieces, padding) if len(piece)]
        views = [np.frombuffer(part, np.uint8) for part in parts]
        vectors = (clib.IoVec * len(views))()
        for vector, view in zip(vectors, views, strict=True):
            vector.base = view.__array_interface__["data"][0]
            vector.length = view.nbytes
        with self._lock:
            if not self._open:
                return False
            data = lib.ddsi_serdata_from_ser_iov(
                self._sertype, clib.DATA, len(views), vectors, size + len(padding)
            )
            if not data:
                raise InputError(f"DDS: {size} bytes are no CDR message")
            result = lib.dds_writecdr(self.handle, data)
        clib.checked(result, f"writing to {self.name}")
        return True

    def matched(self) -> int:
        """Return how many readers there are."""
        count: int = clib.library().dds_get_matched_subscriptions(self.handle, None, 0)
        return max(0, count)

    def readers_user_data(self) -> Iterator[dict[str, str]]:
        """Yield what the matched readers say of themselves."""
        lib = clib.library()
        handles = (ct.c_uint64 * 256)()
        count = lib.dds_get_matched_subscriptions(self.handle, handles, len(handles))
        for index in range(max(0, min(count, len(handles)))):
            yield user_data_of(lib.dds_get_matched_subscription_data(self.handle, handles[index]))

    def close(self) -> None:
        """Delete it; twice does no harm."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        clib.library().dds_delete(self.handle)


class RawReader:
    """A reader of CDR bytes."""

    def __init__(self, participant: int, topic: int, qos: int) -> None:
        lib = clib.library()
        self.handle = clib.checked(
            lib.dds_create_reader(participant, topic, qos, None), "creating a reader"
        )
        self.gid = guid_of(self.handle)
        self.condition = clib.checked(
            lib.dds_create_readcondition(self.handle, clib.ANY_STATE), "creating a condition"
        )
        self._lock = threading.Lock()
        self._open = True

    def take(self, limit: int = 16) -> list[clib.Sample]:
        """Return the next valid samples."""
        return clib.take(self.handle, limit)

    def matched(self) -> int:
        """Return how many writers there are."""
        count: int = clib.library().dds_get_matched_publications(self.handle, None, 0)
        return max(0, count)

    def writer_user_data(self, publication: int) -> dict[str, str] | None:
        """Return what a sample's writer says of itself; None when it is gone."""
        endpoint = clib.library().dds_get_matched_publication_data(self.handle, publication)
        return user_data_of(endpoint) if endpoint else None

    def writers_user_data(self) -> Iterator[dict[str, str]]:
        """Yield what the matched writers say of themselves."""
        lib = clib.library()
        handles = (ct.c_uint64 * 256)()
        count = lib.dds_get_matched_publications(self.handle, handles, len(handles))
        for index in range(max(0, min(count, len(handles)))):
            yield self.writer_user_data(handles[index]) or {}

    def close(self) -> None:
        """Delete it; twice does no harm."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        clib.library().dds_delete(self.handle)
