# SPDX-License-Identifier: Apache-2.0
"""ROS 2 types through `rosbags`, ours included: messages, services, actions and their hashes.

Needs the extra `mcap` or `dds`; needs no ROS.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.ros_definitions import SERVICES

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

CONFIDENCE_FLAG = "jepa_msgs/msg/ConfidenceFlag"
STATE_EMBEDDING = "jepa_msgs/msg/StateEmbedding"
IMAGE = "sensor_msgs/msg/Image"
ACTION = "std_msgs/msg/Float32MultiArray"

_UUID = "unique_identifier_msgs/UUID goal_id\n"
_SEPARATOR = "---"


@functools.cache
def typestore() -> Typestore:
    """Return ROS 2 Jazzy's types, the common services and all of jepa_msgs, parsed once.

    A service "pkg/srv/Name" is there as Name_Request, Name_Response and Name_Event, and as Name
    itself, whose hash is the service's; an action likewise with its _Goal, _Result, _Feedback,
    _SendGoal_Request and so on. Raises MissingDependencyError without rosbags.
    """
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise MissingDependencyError(
            "ROS 2 messages, MCAP and rosbag2 files need rosbags; install it with "
            "`pip install 'jepa-edge[mcap]'`, or 'jepa-edge[dds]'"
        ) from error
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in {**SERVICES, **_jepa_msgs()}.items():
        for part, definition in _parts(name, text).items():
            store.register(_parse(part, definition))
    return store


def type_hash(store: Typestore, name: str) -> str:
    """Return the RIHS01 hash of a message, service or action. Source: REP-2016."""
    from rosbags.typesys.store import Typestore as Store

    # rosidl turns the .msg word char into uint8 before it hashes; rosbags keeps char.
    shadow = Store()
    for other, (constants, fields) in store.fielddefs.items():
        described = [(field, _char_as_uint8(description)) for field, description in fields]
        shadow.fielddefs[other] = (constants, described)
    return str(shadow.hash_rihs01(name))


Make = Callable[..., Any]
_Fit = Callable[[Any], Any]


def make(store: Typestore) -> Make:
    """Return a function make("pkg/msg/Type", field=value, ...): a message, zero where left out.

    Numeric arrays may also be given as lists, or as arrays of another shape or number type. What is
    too large for a float32 becomes infinite, as with rclpy. The zeros of nested messages and arrays
    are new with every call. Raises InputError for an unknown type or field, and for what is no
    integer, or one out of range, in a field of integers.
    """

    @functools.cache
    def maker(name: str) -> tuple[type, dict[str, Callable[[], Any]], dict[str, _Fit]]:
        from rosbags.typesys.base import normalize_fieldname

        if name not in store.fielddefs:
            raise InputError(f"there is no ROS type {name!r}; expected e.g. {IMAGE}")
        zeros: dict[str, Callable[[], Any]] = {}
        fits: dict[str, _Fit] = {}
        for field, description in store.fielddefs[name][1]:
            key = normalize_fieldname(field)
            zeros[key] = _zero(description, build)
            fits[key] = _fit(description)
        return store.types[name], zeros, fits

    def build(name: str, /, **fields: Any) -> Any:
        kind, zeros, fits = maker(name)
        values: dict[str, Any] = {}
        for field, value in fields.items():
            if field not in zeros:
                raise InputError(f"{name} has no field {field!r}; it has {', '.join(zeros)}")
            try:
                values[field] = fits[field](value)
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(f"{name}.{field} cannot be {value!r:.60}: {error}") from error
        for field, zero in zeros.items():
            if field not in values:
                values[field] = zero()
        return kind(**values)

    return build


def _fit(description: Any) -> _Fit:
    """Return what brings a value into the range of a field; it raises ValueError, TypeError."""
    from rosbags.interfaces import Nodetype

    dtype = _array_dtype(description)
    if dtype is not None:
        return functools.partial(_as_array, dtype=dtype)
    kind, detail = description
    if kind != Nodetype.BASE or detail[0] in ("string", "bool", "float64"):
        return lambda value: value
    if detail[0] == "float32":
        return _as_float32
    fit = functools.partial(_as_integer, limits=np.iinfo(_number_type(detail[0])))
    if detail[0] == "byte":  # ROS's is an octet; rosbags holds and writes a signed one
        return lambda value: (fit(value) + 128) % 256 - 128
    return fit


def _as_float32(value: Any) -> float:
    with np.errstate(over="ignore"):
        infinite = np.isinf(np.float32(value))
    return math.copysign(math.inf, value) if infinite else float(value)


def _as_integer(value: Any, limits: Any) -> int:
    number = int(operator.index(value))
    if not limits.min <= number <= limits.max:
        raise ValueError(f"expected {limits.min} to {limits.max}")
    return number


def _as_array(value: Any, dtype: np.dtype[Any]) -> Any:
    given = np.asarray(value)
    if dtype.kind in "iu" and given.dtype != dtype and given.size:
        limits = np.iinfo(dtype)
        if given.dtype.kind not in "iub":
            raise TypeError("expected integers")
        if given.min() < limits.min or given.max() > limits.max:
            raise ValueError(f"expected {limits.min} to {limits.max}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(given, dtype).reshape(-1)


def _zero(description: Any, build: Make) -> Callable[[], Any]:
    """Return what makes the zero of a field. description: rosbags' (kind, (element, length))."""
    from rosbags.interfaces import Nodetype

    kind, detail = description
    if kind == Nodetype.BASE:
        zero = {"string": "", "bool": False, "float32": 0.0, "float64": 0.0}.get(detail[0], 0)
        return lambda: zero
    if kind == Nodetype.NAME:
        return lambda: build(detail)
    element, length = detail
    count = length if kind == Nodetype.ARRAY else 0
    dtype = _array_dtype(description)
    if dtype is not None:
        return lambda: np.zeros(count, dtype)
    one = _zero(element, build)
    return lambda: [one() for _ in range(count)]


def _array_dtype(description: Any) -> np.dtype[Any] | None:
    from rosbags.interfaces import Nodetype

    kind, detail = description
    if kind not in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        return None
    (element, base), _ = detail
    if element != Nodetype.BASE or base[0] == "string":
        return None
    return _number_type(base[0])


def _number_type(name: str) -> np.dtype[Any]:
    return np.dtype({"byte": "uint8", "char": "uint8"}.get(name, name))


def _char_as_uint8(description: Any) -> Any:
    from rosbags.interfaces import Nodetype

    kind, detail = description
    if kind == Nodetype.BASE and detail[0] == "char":
        return kind, ("uint8", 0)
    if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        element, length = detail
        return kind, (_char_as_uint8(element), length)
    return description


def _jepa_msgs() -> Mapping[str, str]:
    """Return jepa_msgs' definitions by type name; they lie beside the package as plain text."""
    root = files("jepa_edge.jepa_msgs")
    found = {}
    for kind in ("msg", "srv", "action"):
        for file in sorted(root.joinpath(kind).iterdir(), key=lambda entry: entry.name):
            stem, _, suffix = file.name.rpartition(".")
            if suffix == kind:
                found[f"jepa_msgs/{kind}/{stem}"] = file.read_text()
    return found


def _parts(name: str, text: str) -> dict[str, str]:
    package, kind, short = name.split("/")
    if kind == "msg":
        return {name: text}
    sections = [""]
    for line in text.splitlines():
        if line.strip() == _SEPARATOR:
            sections.append("")
        else:
            sections[-1] += line + "\n"
    if len(sections) != {"srv": 2, "action": 3}[kind]:
        raise InputError(f"{name} has {len(sections) - 1} lines `---`; is it a .{kind} file?")
    if kind == "srv":
        return _service(name, *sections)
    goal, result, feedback = sections
    local = f"{package}/{kind}/{short}"
    return {
        f"{name}_Goal": goal,
        f"{name}_Result": result,
        f"{name}_Feedback": feedback,
        **_service(
            f"{name}_SendGoal",
            f"{_UUID}{local}_Goal goal\n",
            "bool accepted\nbuiltin_interfaces/Time stamp\n",
        ),
        **_service(f"{name}_GetResult", _UUID, f"int8 status\n{local}_Result result\n"),
        f"{name}_FeedbackMessage": f"{_UUID}{local}_Feedback feedback\n",
        name: (
            f"{local}_Goal goal\n{local}_Result result\n{local}_Feedback feedback\n"
            f"{local}_SendGoal send_goal_service\n{local}_GetResult get_result_service\n"
            f"{local}_FeedbackMessage feedback_message\n"
        ),
    }


def _service(name: str, request: str, response: str) -> dict[str, str]:
    return {
        f"{name}_Request": request,
        f"{name}_Response": response,
        f"{name}_Event": (
            "service_msgs/ServiceEventInfo info\n"
            f"{name}_Request[<=1] request\n{name}_Response[<=1] response\n"
        ),
        name: (
            f"{name}_Request request_message\n{name}_Response response_message\n"
            f"{name}_Event event_message\n"
        ),
    }


def _parse(name: str, text: str) -> dict[str, Any]:
    """Return rosbags' parse of one message. Its parser knows msg and action folders only, so a
    service's parts pass through it as messages and get their own names back afterwards."""
    from rosbags.typesys import get_types_from_msg

    package, kind, short = name.split("/")
    if kind == "msg":
        return dict(get_types_from_msg(text, name))
    lines = []
    for line in text.splitlines():
        for folder in ("srv", "action"):
            line = line.replace(f"{package}/{folder}/", f"{package}/msg/{folder}_")
        lines.append(line)
    parsed = get_types_from_msg("\n".join(lines), f"{package}/msg/{short}")
    constants, fields = parsed[f"{package}/msg/{short}"]
    return {name: (constants, [(field, _renamed(detail)) for field, detail in fields])}


def _renamed(description: Any) -> Any:
    from rosbags.interfaces import Nodetype

    kind, detail = description
    if kind == Nodetype.NAME:
        for folder in ("srv", "action"):
            detail = detail.replace(f"/msg/{folder}_", f"/{folder}/")
        return kind, detail
    if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        element, length = detail
        return kind, (_renamed(element), length)
    return description
