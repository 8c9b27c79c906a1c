# SPDX-License-Identifier: Apache-2.0
"""Parameters from the command line and from ROS parameter files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepa_edge.errors import InputError, MissingDependencyError

_KEY = "ros__parameters"


def parse_value(text: str) -> object:
    """Return a value written as on ROS's command line: YAML, so `1` is a number, `'1'` a string.

    Raises InputError when it is no YAML.
    """
    return _plain(_yaml(text, f"the value {text!r}"))


def parse_assignment(text: str) -> tuple[str, object]:
    """Return name and value of "NAME=VALUE". Raises InputError when there is no `=`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"got {text!r}, expected NAME=VALUE, e.g. alpha=0.05")
    return name, parse_value(value)


def read_file(path: Path, node: str) -> tuple[dict[str, object], dict[str, object]]:
    """Return what a parameter file sets for a node: (for it by name, through wildcards).

    node: fully qualified name. Of the wildcards' values a node takes those that it declares.
    Source: rcl_yaml_param_parser, `/**`, `/*` and nested namespaces.
    Raises InputError when the file cannot be read or is no parameter file.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    tree = _yaml(text, str(path))
    if not isinstance(tree, Mapping):
        raise InputError(f"{path} is no parameter file; expected NODE: {_KEY}: NAME: VALUE")
    named: dict[str, object] = {}
    wild: dict[str, object] = {}
    for pattern, values in _sections(tree, "", path):
        if _matches(pattern, node):
            (wild if "*" in pattern else named).update(values)
    return named, wild


def _sections(tree: Mapping[Any, Any], prefix: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for key, below in tree.items():
        if not isinstance(below, Mapping):
            raise InputError(
                f"{path}: {prefix}/{key} is {below!r}, expected NODE: {_KEY}: NAME: VALUE"
            )
        if key == _KEY:
            found.append((prefix or "/", _flat(below, "")))
        else:
            part = str(key).strip("/")
            found += _sections(below, f"{prefix}/{part}" if part else prefix, path)
    return found


def _flat(tree: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            values |= _flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = _plain(value)
    return values


def _matches(pattern: str, node: str) -> bool:
    parts = [
        {"**": r"(/[^/]+)*", "*": r"/[^/]+"}.get(part, "/" + re.escape(part))
        for part in pattern[1:].split("/")
    ]
    return re.fullmatch("".join(parts), node) is not None


def _plain(value: Any) -> object:
    """Return plain Python types; ruamel keeps the way a number was written in its own classes."""
    if isinstance(value, list):
        return tuple(_plain(item) for item in value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _yaml(text: str, what: str) -> Any:
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError
    except ImportError as error:
        raise MissingDependencyError(
            "parameters need ruamel.yaml, which comes with `pip install 'jepa-edge[dds]'`"
        ) from error
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise InputError(f"{what} is no YAML: {error}") from error
