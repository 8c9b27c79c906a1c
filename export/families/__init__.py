# SPDX-License-Identifier: Apache-2.0
"""Model families: which there are, and whose a checkpoint is."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from collections.abc import Collection, Mapping
from typing import Any

from jepa_edge.errors import CheckpointError, InputError
from jepa_edge.export.families.base import Family

_SHIPPED = {
    "lewm": "lewm_family:LeWMFamily",
    "vjepa2": "vjepa2:VJepa2Family",
    "vjepa2_ac": "vjepa2_ac:VJepa2ACFamily",
    "ijepa": "ijepa:IJepaFamily",
    "dino_wm": "dino_wm:DinoWMFamily",
    "jepa_wm": "jepa_wm:JepaWMFamily",
}
"""Where each family of ours lives; imported when it is first needed."""

ENTRY_POINTS = "jepa_edge.families"

_log = logging.getLogger(__name__)

_registered: dict[str, Family] = {}
_broken: dict[str, str] = {}
"""Entry points that did not load, and what they said."""
_SHOWN = 5
_LONGEST_NAME = 64


def register_family(family: Family) -> None:
    """Add a family of your own: `jepa-edge export` then knows its checkpoints.

    It has to be registered in the process that exports: call it in a script before `export_bundle`.
    For the command line, let your package declare the family as an entry point of the group
    "jepa_edge.families" (a class without arguments). A family of the same name is replaced.
    Raises InputError when it lacks a name, `matches` or `load`.
    """
    name: Any = getattr(family, "name", None)
    check_family_name(name)
    for method in ("matches", "load"):
        if not callable(getattr(family, method, None)):
            raise InputError(
                f"family {name!r} has no method {method}; see jepa_edge.export.families.base.Family"
            )
    _registered[name] = family


def check_family_name(name: object) -> None:
    """Raise InputError unless a family may be called so: it stands in manifests and file names."""
    if (
        not isinstance(name, str)
        or len(name) > _LONGEST_NAME
        or not name.replace("_", "").replace("-", "").isalnum()
    ):
        shown = name[:_LONGEST_NAME] if isinstance(name, str) else name
        raise InputError(
            f"the family's name is {shown!r}, expected at most {_LONGEST_NAME} letters, digits, "
            "'-' and '_'"
        )


def families() -> dict[str, Family]:
    """Return every family by name: registered ones, installed packages', then our own.

    A package whose family cannot be loaded is left out, and logged once.
    """
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.name in _registered or entry.name in _broken:
            continue
        try:
            register_family(entry.load()())
        except Exception as error:  # somebody else's code: it may raise anything
            package = getattr(getattr(entry, "dist", None), "name", None) or "an unnamed package"
            _broken[entry.name] = f"{package}: {type(error).__name__}: {error}"
            _log.warning("left out the family %r of %s", entry.name, _broken[entry.name])
    shipped = {name: _shipped(where) for name, where in _SHIPPED.items() if name not in _registered}
    return {**_registered, **shipped}


def find_family(
    names: Collection[str], config: Mapping[str, Any], where: str, wanted: str | None = None
) -> Family:
    """Return the family of a checkpoint, by its tensors' names and its config.

    wanted: a family's name, where the user gave it. where: what messages call the checkpoint.
    A "family" in the config that names none of ours may be another tool's key: it is passed over
    where the tensors are of exactly one family, and refused otherwise.
    Raises CheckpointError when it is no family's, or several could take it; InputError for a name
    that there is not.
    """
    known = families()
    if wanted is not None:
        if wanted in _broken and wanted not in known:
            raise InputError(
                f"family {wanted!r} cannot be loaded ({_broken[wanted]}); update or remove that "
                "package"
            )
        if wanted not in known:
            raise InputError(f"family is {wanted!r}, expected one of {', '.join(known)}")
        return known[wanted]
    stated = config.get("family")
    if isinstance(stated, str) and stated in known:
        return known[stated]
    if not names:
        raise CheckpointError(
            f"{where} holds no tensors, expected a model's weights; fetch it again"
        )
    found = [family for family in known.values() if family.matches(names, config)]
    if len(found) == 1:
        return found[0]
    if "family" in config:
        raise CheckpointError(
            f"the config beside {where} says family {stated!r}, expected one of "
            f"{', '.join(known)}; correct it, or pass --family"
        )
    shown = ", ".join(sorted(names)[:_SHOWN])
    if found:
        raise CheckpointError(
            f"{where} could be of the families {', '.join(f.name for f in found)} (its tensors: "
            f"{shown}, ...); pass --family"
        )
    raise CheckpointError(
        f"{where} is of no family that jepa-edge knows ({', '.join(known)}); its tensors: {shown}, "
        "... Pass --family if it is one of these under other names, register your own "
        "(jepa_edge.export.register_family), or bring ONNX files (jepa-edge import-onnx)"
    )


def lookalikes(names: Collection[str], config: Mapping[str, Any], but: Family) -> list[str]:
    """Return the families whose tensors these are; none where `but` is one of them."""
    if but.matches(names, config):
        return []
    return [name for name, one in families().items() if one.matches(names, config)]


def _shipped(where: str) -> Family:
    module, name = where.split(":")
    family: Family = getattr(importlib.import_module(f"{__name__}.{module}"), name)()
    return family
