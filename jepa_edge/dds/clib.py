# SPDX-License-Identifier: Apache-2.0
"""The functions of Cyclone DDS 11.0.1's C library that we call, through ctypes.

The Python package `cyclonedds` brings the library, but its own classes are left out: their codec
turns arrays into lists (59 ms for a 224 x 224 RGB image), they hold the interpreter's lock while a
write waits, and they announce a made-up XTypes description, which peers that have a real one
refuse to match. Here a topic is a name, a type name and bytes; no type description is announced.

No thread of the C library ever runs Python code, so nothing can be called back after the end.
"""

from __future__ import annotations

import ctypes as ct
import functools
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from jepa_edge.errors import InputError, MissingDependencyError

VERSION = "11.0.1"
INFINITY = 2**63 - 1
PRECONDITION_NOT_MET = -4
ANY_STATE = 0x7F  # every sample, view and instance state
REQUESTED_INCOMPATIBLE_QOS = 1 << 4
OFFERED_INCOMPATIBLE_QOS = 1 << 3
DATA = 2  # SDK_DATA: a whole sample, not a key

entity = ct.c_int32
_handle = ct.c_uint64
_pointer = ct.c_void_p
_i32, _i64, _u32, _size = ct.c_int32, ct.c_int64, ct.c_uint32, ct.c_size_t


class SampleInfo(ct.Structure):
    """dds_sample_info_t."""

    _fields_ = (
        ("sample_state", ct.c_uint),
        ("view_state", ct.c_uint),
        ("instance_state", ct.c_uint),
        ("valid_data", ct.c_bool),
        ("source_timestamp", _i64),
        ("instance_handle", _handle),
        ("publication_handle", _handle),
        ("disposed_generation_count", _u32),
        ("no_writers_generation_count", _u32),
        ("sample_rank", _u32),
        ("generation_rank", _u32),
        ("absolute_generation_rank", _u32),
    )


class IoVec(ct.Structure):
    """ddsrt_iovec_t: a piece of memory."""

    _fields_ = (("base", _pointer), ("length", _size))


class Guid(ct.Structure):
    """dds_guid_t."""

    _fields_ = (("bytes", ct.c_uint8 * 16),)


class Endpoint(ct.Structure):
    """dds_builtintopic_endpoint_t: what discovery says of a remote reader or writer."""

    _fields_ = (
        ("key", Guid),
        ("participant_key", Guid),
        ("participant_instance_handle", _handle),
        ("topic_name", ct.c_char_p),
        ("type_name", ct.c_char_p),
        ("qos", _pointer),
    )


class IncompatibleQos(ct.Structure):
    """dds_requested_incompatible_qos_status_t, and the one of offers."""

    _fields_ = (("total_count", _u32), ("total_count_change", _i32), ("last_policy_id", _u32))


class _TypeMeta(ct.Structure):
    _fields_ = (("data", _pointer), ("size", _u32))


class TopicDescriptor(ct.Structure):
    """dds_topic_descriptor_t, as the IDL compiler writes it."""

    _fields_ = (
        ("size", _u32),
        ("align", _u32),
        ("flagset", _u32),
        ("nkeys", _u32),
        ("typename", ct.c_char_p),
        ("keys", _pointer),
        ("nops", _u32),
        ("ops", ct.POINTER(_u32)),
        ("meta", ct.c_char_p),
        ("type_information", _TypeMeta),
        ("type_mapping", _TypeMeta),
        ("restrict_data_representation", _u32),
    )


# A structure of one octet and no key. The library checks no more of a sample than its type says
# and passes all bytes on, so this one type carries every ROS message: each has one byte at least.
_OPS = (_u32 * 3)((0x01 << 24) | (0x01 << 16), 0, 0)
_XCDR1_ONLY, _RESTRICT = 1 << 0, 1 << 7


def topic_descriptor(type_name: str) -> TopicDescriptor:
    """Return the descriptor of a keyless topic of raw XCDR1 bytes."""
    return TopicDescriptor(
        size=1,
        align=1,
        flagset=_RESTRICT,
        typename=type_name.encode(),
        nops=2,
        ops=_OPS,
        meta=b"",
        restrict_data_representation=_XCDR1_ONLY,
    )


_WAITING: dict[str, tuple[Any, tuple[Any, ...]]] = {
    # name: (result, arguments); these may wait, so the interpreter's lock is given up.
    "dds_create_domain": (entity, (_u32, ct.c_char_p)),
    "dds_create_participant": (entity, (_u32, _pointer, _pointer)),
    "dds_create_topic": (
        entity,
        (entity, ct.POINTER(TopicDescriptor), ct.c_char_p, _pointer, _pointer),
    ),
    "dds_create_writer": (entity, (entity, entity, _pointer, _pointer)),
    "dds_create_reader": (entity, (entity, entity, _pointer, _pointer)),
    "dds_create_waitset": (entity, (entity,)),
    "dds_create_guardcondition": (entity, (entity,)),
    "dds_create_readcondition": (entity, (entity, _u32)),
    "dds_waitset_attach": (_i32, (entity, entity, ct.c_ssize_t)),
    "dds_waitset_wait": (_i32, (entity, ct.POINTER(ct.c_ssize_t), _size, _i64)),
    "dds_delete": (_i32, (entity,)),
    "dds_writecdr": (_i32, (entity, _pointer)),
}
_QUICK: dict[str, tuple[Any, tuple[Any, ...]]] = {
    # These never wait: giving up the lock would cost more than they do.
    "dds_set_guardcondition": (_i32, (entity, ct.c_bool)),
    "dds_take_guardcondition": (_i32, (entity, ct.POINTER(ct.c_bool))),
    "dds_set_status_mask": (_i32, (entity, _u32)),
    "dds_get_guid": (_i32, (entity, ct.POINTER(Guid))),
    "dds_get_instance_handle": (_i32, (entity, ct.POINTER(_handle))),
    "dds_get_entity_sertype": (_i32, (entity, ct.POINTER(_pointer))),
    "dds_takecdr": (
        _i32,
        (entity, ct.POINTER(_pointer), _u32, ct.POINTER(SampleInfo), _u32),
    ),
    "ddsi_serdata_size": (_u32, (_pointer,)),
    "ddsi_serdata_to_ser_ref": (_pointer, (_pointer, _size, _size, ct.POINTER(IoVec))),
    "ddsi_serdata_to_ser_unref": (None, (_pointer, ct.POINTER(IoVec))),
    "ddsi_serdata_unref": (None, (_pointer,)),
    "ddsi_serdata_from_ser_iov": (
        _pointer,
        (_pointer, ct.c_int, _size, ct.POINTER(IoVec), _size),
    ),
    "dds_get_matched_subscriptions": (_i32, (entity, ct.POINTER(_handle), _size)),
    "dds_get_matched_publications": (_i32, (entity, ct.POINTER(_handle), _size)),
    "dds_get_matched_subscription_data": (ct.POINTER(Endpoint), (entity, _handle)),
    "dds_get_matched_publication_data": (ct.POINTER(Endpoint), (entity, _handle)),
    "dds_builtintopic_free_endpoint": (None, (ct.POINTER(Endpoint),)),
    "dds_get_requested_incompatible_qos_status": (_i32, (entity, ct.POINTER(IncompatibleQos))),
    "dds_get_offered_incompatible_qos_status": (_i32, (entity, ct.POINTER(IncompatibleQos))),
    "dds_create_qos": (_pointer, ()),
    "dds_delete_qos": (None, (_pointer,)),
    "dds_qset_userdata": (None, (_pointer, ct.c_char_p, _size)),
    "dds_qget_userdata": (ct.c_bool, (_pointer, ct.POINTER(_pointer), ct.POINTER(_size))),
    "dds_qset_reliability": (None, (_pointer, ct.c_int, _i64)),
    "dds_qset_durability": (None, (_pointer, ct.c_int)),
    "dds_qset_durability_service": (
        None,
        (_pointer, _i64, ct.c_int, _i32, _i32, _i32, _i32),
    ),
    "dds_qset_history": (None, (_pointer, ct.c_int, _i32)),
    "dds_qset_deadline": (None, (_pointer, _i64)),
    "dds_qset_lifespan": (None, (_pointer, _i64)),
    "dds_qset_writer_data_lifecycle": (None, (_pointer, ct.c_bool)),
    "dds_free": (None, (_pointer,)),
    "dds_strretcode": (ct.c_char_p, (_i32,)),
}


def _library_path() -> str:
    """Return the package's library, or one built from source: Linux on ARM has no wheel."""
    try:
        installed = version("cyclonedds")
    except PackageNotFoundError:
        installed = "none"
    if installed == VERSION:
        from cyclonedds.internal import load_cyclonedds

        return str(load_cyclonedds()._name)
    home = os.environ.get("CYCLONEDDS_HOME", "")
    built = (Path(home) / "lib" / "libddsc.so").resolve()
    if home and built.exists() and built.name.endswith(f".so.{VERSION}"):
        return str(built)
    raise MissingDependencyError(
        f"the ROS 2 peer needs cyclonedds {VERSION} and rosbags, got cyclonedds {installed}"
        + (f" and {built} of CYCLONEDDS_HOME" if home else "")
        + "; install them with `pip install 'jepa-edge[dds]'`, or see docs/dds.md for Linux on ARM"
    )


class Library:
    """The C functions as attributes, e.g. `library().dds_delete(handle)`."""

    def __init__(self) -> None:
        path = _library_path()
        waiting, quick = ct.CDLL(path), ct.PyDLL(path)
        for source, functions in ((waiting, _WAITING), (quick, _QUICK)):
            for name, (result, arguments) in functions.items():
                function = getattr(source, name)
                function.restype = result
                function.argtypes = arguments
                setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:  # only for what __init__ did not set
        raise AttributeError(name)


@functools.cache
def library() -> Library:
    """Return the library, loaded once. Raises MissingDependencyError naming the extra."""
    return Library()


def checked(result: int, what: str) -> int:
    """Return a handle or count. Raises InputError with the library's words when it is an error."""
    if result < 0:
        words = library().dds_strretcode(result)
        raise InputError(f"DDS: {what} failed: {words.decode()} ({result})")
    return result


class Sample(NamedTuple):
    """What a reader took. payload: CDR with its 4-byte header, ours alone; source_ns: the writer's
    clock."""

    payload: memoryview
    publication: int
    source_ns: int


def take(reader: int, limit: int = 16) -> list[Sample]:
    """Return the valid samples among the next `limit`.

    A writer that leaves makes a sample without data; those are skipped.
    """
    lib = library()
    buffers = (_pointer * limit)()
    infos = (SampleInfo * limit)()
    count = lib.dds_takecdr(reader, buffers, limit, infos, ANY_STATE)
    samples = []
    vector = IoVec()
    for index in range(count):
        data = buffers[index]
        info = infos[index]
        if info.valid_data:
            size = lib.ddsi_serdata_size(data)
            kept = lib.ddsi_serdata_to_ser_ref(data, 0, size, ct.byref(vector))
            payload = memoryview(ct.string_at(vector.base, vector.length))
            lib.ddsi_serdata_to_ser_unref(kept, ct.byref(vector))
            samples.append(Sample(payload, info.publication_handle, info.source_timestamp))
        lib.ddsi_serdata_unref(data)
    return samples
