# SPDX-License-Identifier: Apache-2.0
"""The TOML file beside the ONNX files: what no graph tells. Unknown keys are refused."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from jepa_edge.errors import InputError
from jepa_edge.export.families import check_family_name
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

    def check_used(self, where: Path, *, predictor: bool, masks: bool) -> None:
        """Raise InputError where the file says something that no given graph has a use for."""
        model = self.model
        checks = (
            (predictor, "[action]", bool(self.action), "--predictor"),
            (predictor, "[wrap]", self.wrap != WrapSection(), "--predictor"),
            (predictor, "[model] history", model.history is not None, "--predictor"),
            (predictor, "[model] min_history", model.min_history is not None, "--predictor"),
            (masks, "[masks]", self.masks != MaskSection(), "--mask-predictor"),
        )
        for there, what, said, option in checks:
            if said and not there:
                raise InputError(
                    f"{where} has {what}, but no {option[2:].replace('-', ' ')} was given; pass "
                    f"{option}, or leave it out"
                )
        given = {"encoder": True, "predictor": predictor, "mask_predictor": masks}
        for part in self.rename:
            if not given[part]:
                raise InputError(
                    f"{where} has [rename.{part}], but no such graph was given; pass "
                    f"--{part.replace('_', '-')}, or leave it out"
                )

    def __post_init__(self) -> None:
        try:
            check_family_name(self.model.family)
        except InputError as error:
            raise ValueError(str(error)) from error
        unknown = sorted(set(self.rename) - set(PARTS))
        if unknown:
            raise ValueError(
                f"[rename] has {', '.join(unknown)}, expected some of {', '.join(PARTS)}"
            )


def read_spec(path: Path) -> ImportSpec:
    """Read a spec. Raises InputError when it is missing, no TOML, or holds what nobody reads."""
    try:
        # Some editors put a byte order mark in front.
        payload = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        return msgspec.toml.decode(payload, type=ImportSpec)
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; `jepa-edge import-onnx ... --write-spec {path}` writes one "
            "to fill in"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot read the import spec {path} ({error.strerror}); pass a TOML file"
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
                f"{where} says {name} = {given[name]!r}, the graph has {value!r}; correct "
                "the spec, or pass the graph that belongs to it"
            )
    try:
        return msgspec.convert({**found, **given}, kind)
    except msgspec.ValidationError as error:
        missing = next((hint for name, hint in _HINTS.items() if f"`{name}`" in str(error)), "")
        raise InputError(f"{where}: {error}{missing and '; ' + missing}") from error
