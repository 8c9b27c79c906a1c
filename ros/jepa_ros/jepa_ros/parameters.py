# SPDX-License-Identifier: Apache-2.0
"""Parameters of a node as ROS parameters: descriptors, checks with a reason, a live view."""

from __future__ import annotations

import logging
import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterValueException
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from jepa_edge.errors import InputError
from jepa_edge.nodes.parameters import Parameter, Value

logger = logging.getLogger(__name__)

_INT64 = 2**63 - 1
# What every rclpy node has or may be given beside the declared ones.
_OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides.")


class NodeParameters(Mapping[str, Value]):
    """A node's parameters, declared with it; shows the values as they are now."""

    def __init__(self, node: Node, declared: Iterable[Parameter]) -> None:
        """Raises InputError for an initial value (file, launch, command line) that does not fit."""
        self._declared = {parameter.name: parameter for parameter in declared}
        self._values: dict[str, Value] = {}
        self._frozen = False
        self._way_out = "put it into the parameter file, or behind -p, and start the node anew"
        if isinstance(node, LifecycleNodeMixin):
            name = node.get_fully_qualified_name()
            self._way_out = f"ros2 lifecycle set {name} deactivate, then cleanup, then set it"
        node.add_pre_set_parameters_callback(self._typed)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._keep)
        for parameter in self._declared.values():
            default = parameter.default
            value = list(default) if isinstance(default, tuple) else default
            try:
                declared_one = node.declare_parameter(parameter.name, value, _descriptor(parameter))
            except InvalidParameterValueException as error:
                reason = str(error).partition("Reason: ")[2].removesuffix(f": {parameter.name}")
                raise InputError(reason or str(error)) from error
            typed = self._typed([declared_one])
            if typed[0].type_ is not declared_one.type_:
                node.set_parameters(typed)
        self._warn_of_unknown(node)

    def freeze(self, frozen: bool) -> None:
        """Refuse changes from now on, or take them again."""
        self._frozen = frozen

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _typed(self, given: list[RosParameter]) -> list[RosParameter]:
        """Give parameters the type they were declared with: 1 for 1.0, and [] which has none."""
        return [self._as_declared(parameter) for parameter in given]

    def _as_declared(self, given: RosParameter) -> RosParameter:
        declared = self._declared.get(given.name)
        if declared is None:
            return given
        try:
            value = declared.checked(_plain(given.value, declared))
        except InputError:
            return given  # refused, with the reason, by _check
        if not isinstance(value, tuple):
            return RosParameter(given.name, value=value)
        numbers = declared.numbers or any(isinstance(v, float) for v in value)
        kind = RosParameter.Type.DOUBLE_ARRAY if numbers else RosParameter.Type.STRING_ARRAY
        return RosParameter(given.name, kind, list(value))

    def _check(self, given: list[RosParameter]) -> SetParametersResult:
        for parameter in given:
            declared = self._declared.get(parameter.name)
            if declared is None:
                continue
            if self._frozen:
                return SetParametersResult(
                    successful=False,
                    reason=f"{parameter.name} is fixed while the node runs: {self._way_out}",
                )
            try:
                declared.checked(_plain(parameter.value, declared))
            except InputError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _keep(self, given: list[RosParameter]) -> None:
        for parameter in given:
            if parameter.name in self._declared:
                declared = self._declared[parameter.name]
                self._values[parameter.name] = declared.checked(_plain(parameter.value, declared))

    def _warn_of_unknown(self, node: Node) -> None:
        """A misspelt name in a parameter file would else go unnoticed: rclpy ignores it."""
        overrides = getattr(node, "_parameter_overrides", {})
        unknown = [n for n in overrides if n not in self._declared and not n.startswith(_OF_ROS)]
        if unknown:
            logger.warning(
                "not used, for this node has no such parameters: %s; misspelt, or another node's?",
                ", ".join(sorted(unknown)),
            )


def _plain(value: object, declared: Parameter) -> object:
    """Arrays that came by a service are array.array; rcl's parser makes None of an empty one."""
    if value is None and isinstance(declared.default, tuple):
        return []
    return list(value) if isinstance(value, array) else value


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    """Dynamic in ROS's sense, since types are checked, and converted, here."""
    descriptor = ParameterDescriptor(
        name=parameter.name,
        description=parameter.description,
        read_only=False,
        dynamic_typing=True,
    )
    if parameter.choices:
        descriptor.additional_constraints = "one of " + ", ".join(
            choice or "empty" for choice in parameter.choices
        )
    if math.isinf(parameter.low) and math.isinf(parameter.high):
        return descriptor
    if isinstance(parameter.default, float):
        end = sys.float_info.max
        descriptor.floating_point_range = [
            FloatingPointRange(
                from_value=max(parameter.low, -end), to_value=min(parameter.high, end), step=0.0
            )
        ]
    elif isinstance(parameter.default, int):
        descriptor.integer_range = [
            IntegerRange(
                from_value=int(max(parameter.low, -_INT64)),
                to_value=int(min(parameter.high, _INT64)),
                step=0,
            )
        ]
    return descriptor
