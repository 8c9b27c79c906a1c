# SPDX-License-Identifier: Apache-2.0
"""Who publishes what on the network, as DDS discovery tells it. Needs the extra `dds`."""

from __future__ import annotations

import ctypes as ct
import functools
from dataclasses import dataclass
from typing import Any

from jepa_edge.dds import clib

_BUILTIN_PUBLICATIONS = 0x7FFF0000 + 3  # DDS_BUILTIN_TOPIC_DCPSPUBLICATION
_ALIVE = 16  # DDS_IST_ALIVE
_AT_ONCE = 64
_PREFIX, _SUFFIX = "rt/", "_"
_PARTS = 4  # pkg, msg, dds_, Type_
_INFINITE_NS = 2**63 - 1

_pointer = ct.c_void_p


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One writer of a ROS topic. type: "package/msg/Type". type_hash: RIHS01, empty if not told.

    Its quality of service as it offers it; times in nanoseconds.
    """

    topic: str
    type: str
    type_hash: str
    reliable: bool
    transient_local: bool
    depth: int
    deadline_ns: int
    lifespan_ns: int


class Publications:
    """The writers of ROS topics that discovery has found since it was asked last."""

    def __init__(self, participant: int) -> None:
        """participant: handle in the C library."""
        self._reader = clib.checked(
            clib.library().dds_create_reader(participant, _BUILTIN_PUBLICATIONS, None, None),
            "reading the list of publishers",
        )

    def take(self) -> list[Publication]:
        """Return the writers that were found, or changed, since the last call."""
        lib = _functions()
        found: list[Publication] = []
        while True:
            samples = (_pointer * _AT_ONCE)()  # null: the library lends its own
            infos = (clib.SampleInfo * _AT_ONCE)()
            count = lib.dds_take(self._reader, samples, infos, _AT_ONCE, _AT_ONCE)
            if clib.checked(count, "reading the list of publishers") == 0:
                return found
            for index in range(count):
                if infos[index].valid_data and infos[index].instance_state == _ALIVE:
                    address = _pointer(samples[index])
                    endpoint = ct.cast(address, ct.POINTER(clib.Endpoint)).contents
                    publication = _publication(lib, endpoint)
                    if publication is not None:
                        found.append(publication)
            lib.dds_return_loan(self._reader, samples, count)

    def close(self) -> None:
        """Stop listening."""
        clib.library().dds_delete(self._reader)


def _publication(lib: Any, endpoint: clib.Endpoint) -> Publication | None:
    """A writer as ROS names it; None for what is no ROS topic."""
    name, kind = endpoint.topic_name.decode(), endpoint.type_name.decode()
    parts = kind.split("::")
    if not name.startswith(_PREFIX) or len(parts) != _PARTS or not kind.endswith(_SUFFIX):
        return None
    qos = endpoint.qos
    reliability, durability = ct.c_int(), ct.c_int()
    history, depth = ct.c_int(), ct.c_int32(0)
    blocking, deadline = ct.c_int64(), ct.c_int64(_INFINITE_NS)
    lifespan = ct.c_int64(_INFINITE_NS)
    lib.dds_qget_reliability(qos, ct.byref(reliability), ct.byref(blocking))
    lib.dds_qget_durability(qos, ct.byref(durability))
    lib.dds_qget_history(qos, ct.byref(history), ct.byref(depth))
    lib.dds_qget_deadline(qos, ct.byref(deadline))
    lib.dds_qget_lifespan(qos, ct.byref(lifespan))
    return Publication(
        topic=name[len(_PREFIX) - 1 :],
        type=f"{parts[0]}/{parts[1]}/{parts[3][: -len(_SUFFIX)]}",
        type_hash=_user_data(lib, qos).get("typehash", ""),
        reliable=reliability.value == 1,
        transient_local=durability.value >= 1,
        depth=depth.value,
        deadline_ns=deadline.value,
        lifespan_ns=lifespan.value,
    )


def _user_data(lib: Any, qos: int) -> dict[str, str]:
    memory, size = _pointer(), ct.c_size_t()
    if not lib.dds_qget_userdata(qos, ct.byref(memory), ct.byref(size)) or not memory:
        return {}
    text = ct.string_at(memory, size.value).decode(errors="replace")
    clib.library().dds_free(memory)
    return dict(pair.split("=", 1) for pair in text.split(";") if "=" in pair)


@functools.cache
def _functions() -> Any:
    """The functions of the C library that only this module calls."""
    clib.library()  # checks the version, or says what to install
    from cyclonedds.internal import load_cyclonedds

    lib = ct.CDLL(load_cyclonedds()._name)
    two = (_pointer, _pointer)
    for name, result, arguments in (
        ("dds_take", ct.c_int32, (clib.entity, _pointer, _pointer, ct.c_size_t, ct.c_uint32)),
        ("dds_return_loan", ct.c_int32, (clib.entity, _pointer, ct.c_int32)),
        ("dds_qget_reliability", ct.c_bool, (*two, _pointer)),
        ("dds_qget_durability", ct.c_bool, two),
        ("dds_qget_history", ct.c_bool, (*two, _pointer)),
        ("dds_qget_deadline", ct.c_bool, two),
        ("dds_qget_lifespan", ct.c_bool, two),
        ("dds_qget_userdata", ct.c_bool, (*two, _pointer)),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib
