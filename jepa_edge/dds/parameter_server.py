# SPDX-License-Identifier: Apache-2.0
"""A node's parameters and the services by which `ros2 param` reads and sets them."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jepa_edge.dds.services import PARAMETERS_QOS
from jepa_edge.errors import InputError
from jepa_edge.nodes.parameters import Parameter, Value, resolve

if TYPE_CHECKING:
    from jepa_edge.dds.backend import DdsBackend

logger = logging.getLogger(__name__)

USE_SIM_TIME = Parameter(
    name="use_sim_time",
    default=False,
    description="Take the time from /clock instead of the system.",
)
# rcl_interfaces/msg/ParameterType
_NOT_SET, _BOOL, _INTEGER, _DOUBLE, _STRING, _DOUBLES, _STRINGS = 0, 1, 2, 3, 4, 8, 9
_FIELDS = {
    _BOOL: "bool_value",
    _INTEGER: "integer_value",
    _DOUBLE: "double_value",
    _STRING: "string_value",
    5: "byte_array_value",
    6: "bool_array_value",
    7: "integer_array_value",
    _DOUBLES: "double_array_value",
    _STRINGS: "string_array_value",
}
_FROZEN = "it is read when the node is configured; deactivate and clean the node up first"


class ParameterServer:
    """Holds the values; `values` is live."""

    def __init__(
        self, backend: DdsBackend, declared: Sequence[Parameter], given: Mapping[str, object]
    ) -> None:
        self.frozen = False
        self._backend = backend
        self._declared = {parameter.name: parameter for parameter in declared}
        self._values = resolve(declared, given)
        self._lock = threading.Lock()
        self._make = backend.participant.make
        self._events = backend.publisher(
            "/parameter_events", "rcl_interfaces/msg/ParameterEvent", PARAMETERS_QOS
        )
        answers = {
            "get_parameters": ("GetParameters", self._get),
            "get_parameter_types": ("GetParameterTypes", self._get_types),
            "set_parameters": ("SetParameters", self._set),
            "set_parameters_atomically": ("SetParametersAtomically", self._set_atomically),
            "list_parameters": ("ListParameters", self._list),
            "describe_parameters": ("DescribeParameters", self._describe),
        }
        for name, (kind, answer) in answers.items():
            backend.service(f"~/{name}", f"rcl_interfaces/srv/{kind}", answer, PARAMETERS_QOS)
        self._announce("new_parameters", self._values)

    @property
    def values(self) -> Mapping[str, Value]:
        """The present values; the mapping is live."""
        return MappingProxyType(self._values)

    def set(self, given: Mapping[str, object]) -> None:
        """Set all or none. Raises InputError with the reason when one is refused."""
        with self._lock:
            checked: dict[str, Value] = {}
            for name, value in given.items():
                parameter = self._declared.get(name)
                if parameter is None:
                    raise InputError(
                        f"parameter {name!r} is not known; there are {', '.join(self._declared)}"
                    )
                if self.frozen and name != USE_SIM_TIME.name:
                    raise InputError(f"parameter {name} cannot be set now: {_FROZEN}")
                checked[name] = parameter.checked(value)
            self._values.update(checked)
        if USE_SIM_TIME.name in checked:
            self._backend.use_simulated_time(bool(checked[USE_SIM_TIME.name]))
        self._announce("changed_parameters", checked)

    def _announce(self, kind: str, values: Mapping[str, Value]) -> None:
        now_ns = self._backend.now_ns()
        event = self._make(
            "rcl_interfaces/msg/ParameterEvent",
            stamp=self._make(
                "builtin_interfaces/msg/Time", sec=now_ns // 10**9, nanosec=now_ns % 10**9
            ),
            node=self._backend.name,
            **{
                kind: [
                    self._make(
                        "rcl_interfaces/msg/Parameter",
                        name=name,
                        value=self._message(self._declared[name], value),
                    )
                    for name, value in values.items()
                ]
            },
        )
        self._events.publish(event)

    def _message(self, parameter: Parameter, value: Value) -> Any:
        kind = _kind(parameter)
        content = list(value) if isinstance(value, tuple) else value
        return self._make(
            "rcl_interfaces/msg/ParameterValue", type=kind, **{_FIELDS[kind]: content}
        )

    def _get(self, request: Any) -> Any:
        values = [
            self._message(self._declared[name], self._values[name])
            if name in self._declared
            else self._make("rcl_interfaces/msg/ParameterValue")
            for name in request.names
        ]
        return self._make("rcl_interfaces/srv/GetParameters_Response", values=values)

    def _get_types(self, request: Any) -> Any:
        kinds = [
            _kind(self._declared[name]) if name in self._declared else _NOT_SET
            for name in request.names
        ]
        return self._make("rcl_interfaces/srv/GetParameterTypes_Response", types=kinds)

    def _try(self, parameters: Sequence[Any]) -> Any:
        try:
            self.set({parameter.name: _plain(parameter.value) for parameter in parameters})
        except InputError as error:
            return self._make(
                "rcl_interfaces/msg/SetParametersResult", successful=False, reason=str(error)
            )
        return self._make("rcl_interfaces/msg/SetParametersResult", successful=True)

    def _set(self, request: Any) -> Any:
        return self._make(
            "rcl_interfaces/srv/SetParameters_Response",
            results=[self._try([parameter]) for parameter in request.parameters],
        )

    def _set_atomically(self, request: Any) -> Any:
        return self._make(
            "rcl_interfaces/srv/SetParametersAtomically_Response",
            result=self._try(request.parameters),
        )

    def _list(self, request: Any) -> Any:
        names = [
            name
            for name in sorted(self._declared)
            if not request.prefixes
            or any(name == prefix or name.startswith(f"{prefix}.") for prefix in request.prefixes)
        ]
        if request.depth:
            names = [name for name in names if name.count(".") < request.depth]
        prefixes = sorted({name.rpartition(".")[0] for name in names if "." in name})
        result = self._make(
            "rcl_interfaces/msg/ListParametersResult", names=names, prefixes=prefixes
        )
        return self._make("rcl_interfaces/srv/ListParameters_Response", result=result)

    def _describe(self, request: Any) -> Any:
        descriptors = [
            self._descriptor(self._declared[name])
            if name in self._declared
            else self._make("rcl_interfaces/msg/ParameterDescriptor", name=name)
            for name in request.names
        ]
        return self._make("rcl_interfaces/srv/DescribeParameters_Response", descriptors=descriptors)

    def _descriptor(self, parameter: Parameter) -> Any:
        kind = _kind(parameter)
        ranges: dict[str, Any] = {}
        if math.isfinite(parameter.low) or math.isfinite(parameter.high):
            if kind == _DOUBLE:
                ranges["floating_point_range"] = [
                    self._make(
                        "rcl_interfaces/msg/FloatingPointRange",
                        from_value=parameter.low,
                        to_value=parameter.high,
                    )
                ]
            elif kind == _INTEGER:
                low, high = max(parameter.low, -(2.0**62)), min(parameter.high, 2.0**62)
                ranges["integer_range"] = [
                    self._make(
                        "rcl_interfaces/msg/IntegerRange",
                        from_value=int(low),
                        to_value=int(high),
                        step=1,
                    )
                ]
        constraint = f"one of {', '.join(parameter.choices)}" if parameter.choices else ""
        return self._make(
            "rcl_interfaces/msg/ParameterDescriptor",
            name=parameter.name,
            type=kind,
            description=parameter.description,
            additional_constraints=constraint,
            **ranges,
        )


def _kind(parameter: Parameter) -> int:
    default = parameter.default
    if isinstance(default, tuple):
        numbers = parameter.numbers or any(isinstance(item, float) for item in default)
        return _DOUBLES if numbers else _STRINGS
    return {bool: _BOOL, int: _INTEGER, float: _DOUBLE, str: _STRING}[type(default)]


def _plain(value: Any) -> object:
    """Return a ParameterValue message as a Python value; None when it is not set."""
    field = _FIELDS.get(value.type)
    if field is None:
        return None
    content = getattr(value, field)
    return (
        content
        if isinstance(content, bool | int | float | str)
        else tuple(item if isinstance(item, str) else item.item() for item in content)
    )
