# SPDX-License-Identifier: Apache-2.0
"""Parameters of a node: declared once, with type, range and description, for every backend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jepa_edge.errors import InputError

Value = bool | int | float | str | tuple[str, ...] | tuple[float, ...]
"""What a parameter may be: bool, integer, double, string, string array or double array in ROS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter. Its type is that of its default.

    low, high: inclusive range of a number; infinite where there is none. choices: of a string.
    An empty tuple as default is an array of strings unless `numbers` is set.
    """

    name: str
    default: Value
    description: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    numbers: bool = False

    def checked(self, value: object) -> Value:
        """Return value as this parameter's type. Raises InputError when it is another or outside.

        An integer is taken for a float; nothing else is converted.
        """
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is tuple and isinstance(value, list | tuple):
            return self._checked_array(tuple(value))
        if type(value) is not kind or not isinstance(value, bool | int | float | str):
            raise InputError(
                f"parameter {self.name} is {value!r} ({type(value).__name__}), expected "
                f"{kind.__name__}: {self.description}"
            )
        if self.choices and value not in self.choices:
            raise InputError(
                f"parameter {self.name} is {value!r}, expected one of {', '.join(self.choices)}"
            )
        if isinstance(value, int | float) and not self.low <= value <= self.high:
            raise InputError(
                f"parameter {self.name} is {value}, expected {self.low:g} to {self.high:g}: "
                f"{self.description}"
            )
        return value

    def _checked_array(self, values: tuple[object, ...]) -> Value:
        if self.numbers or any(isinstance(default, float) for default in _items(self.default)):
            numbers = tuple(float(v) for v in values if isinstance(v, int | float))
            if len(numbers) == len(values) and all(map(math.isfinite, numbers)):
                return numbers
            raise InputError(f"parameter {self.name} is {values!r}, expected finite numbers")
        strings = tuple(v for v in values if isinstance(v, str))
        if len(strings) == len(values):
            return strings
        raise InputError(f"parameter {self.name} is {values!r}, expected strings")


def _items(value: Value) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else ()


def resolve(parameters: Iterable[Parameter], given: Mapping[str, object]) -> dict[str, Value]:
    """Return every parameter's value: the given one, checked, or its default.

    Raises InputError for a name that is not declared, and for a value that does not fit.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for name in given:
        if name not in known:
            raise InputError(f"parameter {name!r} is not known; there are {', '.join(known)}")
    return {
        name: parameter.checked(given[name]) if name in given else parameter.default
        for name, parameter in known.items()
    }
