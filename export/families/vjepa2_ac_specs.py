# SPDX-License-Identifier: Apache-2.0
"""What --spec and config.json say of a V-JEPA 2-AC, laid over what the released model takes."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.base import Checkpoint
from jepa_edge.export.families.pixels import IMAGENET_MEAN, IMAGENET_STD
from jepa_edge.export.families.vjepa2_ac_pose import POSE_DIM
from jepa_edge.export.families.vjepa2_ac_predictor import LONGEST
from jepa_edge.manifest import ActionSpec, FitSpec, ObservationSpec, StateSpec

RATE_HZ = 4.0
"""Of the released training, configs/train/vitg16/droid-256px-8f.yaml (`fps`)."""

_AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
_UNITS = "m, rad, gripper 0 open to 1 closed"
# The planner's first distribution and limits upstream, which turns nothing: there the angles are 0.
_ACTION_STD = (0.05, 0.05, 0.05, 0.1, 0.1, 0.1, 1.0)
_ACTION_LIMIT = (0.05, 0.05, 0.05, 0.2, 0.2, 0.2, 0.75)
_NOTED = {"observation": ("rate_hz",), "action": ("std", "low", "high"), "state": ()}

_LARGEST = 4096

_Spec = TypeVar("_Spec", ObservationSpec, ActionSpec, StateSpec)
_Positive = Annotated[int, Meta(gt=0)]


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section [model]: what shapes cannot tell. None: as of released models of this size.

    image_size: side of the pictures, pixels. history: the longest window that the predictor is
    given. encoder: which of the checkpoint's two encoders; they are equal in released files.
    """

    image_size: Annotated[int, Meta(ge=1, le=_LARGEST)] = 256
    history: Annotated[int, Meta(ge=1, le=LONGEST)] = 2
    heads: _Positive | None = None
    predictor_heads: _Positive | None = None
    encoder: Literal["encoder", "target_encoder"] = "encoder"


class Specs:
    """The sections model, observation, action and state; assumed: what none of them says.

    Raises CheckpointError for entries that are unknown or do not fit.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._said: dict[str, dict[str, Any]] = {}
        for name in ("model", "observation", "action", "state"):
            beside = checkpoint.config.get(name)
            found = beside if isinstance(beside, dict) else {}
            self._said[name] = {**found, **checkpoint.spec.get(name, {})}
        self.model = _converted("model", self._said["model"], ModelSettings)
        self.assumed = [] if "image_size" in self._said["model"] else ["model.image_size"]
        size = self.model.image_size
        self.observation = self._complete(
            "observation",
            ObservationSpec(
                height=size,
                width=size,
                mean=IMAGENET_MEAN,
                std=IMAGENET_STD,
                rate_hz=RATE_HZ,
                fit=FitSpec(),
            ),
        )
        self.action = self._complete(
            "action",
            ActionSpec(
                dim=POSE_DIM,
                block=1,
                mean=(0.0,) * POSE_DIM,
                std=_ACTION_STD,
                low=tuple(-limit for limit in _ACTION_LIMIT),
                high=_ACTION_LIMIT,
                units=_UNITS,
                names=tuple(f"d{axis}" for axis in _AXES),
            ),
        )
        self.state = self._complete("state", StateSpec(dim=POSE_DIM, units=_UNITS, names=_AXES))
        self._check()

    def _complete(self, section: str, default: _Spec) -> _Spec:
        said = self._said[section]
        self.assumed += [f"{section}.{name}" for name in _NOTED[section] if name not in said]
        return _converted(section, {**msgspec.to_builtins(default), **said}, type(default))

    def _check(self) -> None:
        size, seen = self.model.image_size, self.observation
        if (seen.height, seen.width) != (size, size) or seen.clip is not None:
            raise CheckpointError(
                f"[observation] asks for {seen.height} x {seen.width}"
                f"{' in clips' if seen.clip else ''}, expected single pictures of {size} x {size}; "
                "give [model] image_size to change it"
            )
        for name, dim in (("action", self.action.dim), ("state", self.state.dim)):
            if dim != POSE_DIM:
                raise CheckpointError(
                    f"{name}.dim is {dim}, expected {POSE_DIM}: x, y, z, three angles and the "
                    "gripper; correct --spec"
                )
        if self.action.block != 1:
            raise CheckpointError(
                f"action.block is {self.action.block}, expected 1: the pose is composed once per "
                "action; correct --spec"
            )
        if any(self.action.mean):
            raise CheckpointError(
                f"action.mean is {self.action.mean}, expected zeros: the predictor reads meters, "
                "radians and the gripper as they are, and was trained without shifting them; "
                "remove it from --spec"
            )
        for name, values in (("observation", seen.std), ("action", self.action.std)):
            if not all(0 < value < math.inf for value in values):
                raise CheckpointError(
                    f"{name}.std is {values}, expected positive numbers; correct --spec"
                )


_Any = TypeVar("_Any")


def _converted(section: str, values: dict[str, Any], kind: type[_Any]) -> _Any:
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"[{section}] is not valid: {error}; correct --spec") from error
