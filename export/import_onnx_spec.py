# SPDX-License-Identifier: Apache-2.0
"""The TOML file beside the ONNX files: what no graph tells. Unknown keys are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from jepa_edge.errors import InputError
from jepa_edge.manifest import (
    ActionSpec,
    LatentSpec,
    ObservationSpec,
    Positive,
    StateSpec,
)

PARTS = ("encoder", "predictor", "mask_predictor")

_Spec = TypeVar("_Spec", ObservationSpec, ActionSpec, StateSpec, LatentSpec)
_HINTS = {
    "rate_hz": "rate_hz is how many model steps per second the training data had",
    "mean": "mean and std are those of the training data",
    "std": "mean and std are those of the training data",
    "height": "the graph leaves the size open: say what the model was trained on",
    "width": "the graph leaves the size open: say what the model was trained on",
}


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections: immutable, unknown keys refused."""


class ModelSection(_Strict, frozen=True, kw_only=True):
    """family: what the manifest calls the model. history, min_history: as in the manifest."""

    family: str = "custom"
    history: Positive | None = None
    min_history: Positive | None = None


class WrapSection(_Strict, frozen=True, kw_only=True):
    """What is put around the predictor.

    normalize_actions: it expects (action - mean) / std. last_step: it gives one latent per step of
    the history, of which the last is the prediction.
    """

    normalize_actions: bool = False
    last_step: bool = False


class MaskSection(_Strict, frozen=True, kw_only=True):
    """As in the manifest's masks."""

    target_norm: bool = True
    distance: Literal["l1", "l2", "smooth_l1"] = "l1"


class ImportSpec(_Strict, frozen=True, kw_only=True):
    """All of the file. rename: by part, run-time name to the graph's own name.

    observation, action, state, latent: fields of the manifest; those that a graph tells may be left
    out, and contradict it never.
    """

    model: ModelSection = ModelSection()
    observation: dict[str, Any] = {}
    action: dict[str, Any] = {}
    state: dict[str, Any] = {}
    latent: dict[str, Any] = {}
    masks: MaskSection = MaskSection()
    wrap: WrapSection = WrapSection()
    rename: dict[str, dict[str, str]] = {}

    def __post_init__(self) -> None:
        unknown = sorted(set(self.rename) - set(PARTS))
        if unknown:
            raise ValueError(
                f"[rename] has {', '.join(unknown)}, expected some of {', '.join(PARTS)}"
            )


def read_spec(path: Path) -> ImportSpec:
    """Read a spec. Raises InputError when it is missing, no TOML, or holds what nobody reads."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=ImportSpec)
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; `jepa-edge import-onnx ... --write-spec {path}` writes one "
            "to fill in"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is no import spec ({error}); --write-spec writes one to compare with"
        ) from error


def complete(
    given: Mapping[str, Any], found: Mapping[str, Any], kind: type[_Spec], where: str
) -> _Spec:
    """Make a manifest record from what the spec gives and what the graphs tell.

    where: file and section, for messages. Raises InputError where both contradict each other, a
    field is missing, or one is not known.
    """
    for name, value in found.items():
        if name in given and given[name] != value:
            raise InputError(
                f"{where} says {name} = {given[name]}, the graph has {value}; correct the spec, or "
                "pass the graph that belongs to it"
            )
    try:
        spec = msgspec.convert({**found, **given}, kind)
    except msgspec.ValidationError as error:
        missing = next((hint for name, hint in _HINTS.items() if f"`{name}`" in str(error)), "")
        raise InputError(f"{where}: {error}{missing and '; ' + missing}") from error
    for field in msgspec.structs.fields(kind):
        value = getattr(spec, field.name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(n, float) and not math.isfinite(n) for n in numbers):
            raise InputError(f"{where}: {field.name} holds NaN or infinity; give finite numbers")
    if any(std <= 0.0 for std in getattr(spec, "std", ())):
        raise InputError(f"{where}: std holds numbers that are not positive; it divides")
    return spec
