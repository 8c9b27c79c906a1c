# SPDX-License-Identifier: Apache-2.0
"""What --spec says of a DINO-WM or JEPA-WM, laid over what released models take.

Neither layout stores statistics or rates: actions and own state are taken as z-scored already
until --spec gives [action] and [state] mean and std.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, TypeVar

import msgspec

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.base import Checkpoint
from jepa_edge.manifest import (
    ActionSpec,
    FitSpec,
    ObservationSpec,
    StateSpec,
    check_numbers,
    check_std,
)

RELEASED_BLOCK = 5
"""Environment steps per action block in every released simulated model (upstream's frameskip)."""
RELEASED_RATES_HZ = {RELEASED_BLOCK: 2.0, 1: 4.0}
"""By block: PushT's 10 environment steps per second, 5 per block; DROID's 4 frames per second."""

_SECTIONS = ("model", "observation", "action", "state")
_Spec = TypeVar("_Spec", ObservationSpec, ActionSpec, StateSpec)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Section [model]: what shapes cannot tell. None leaves it to the convention.

    encoder: directory or file of the image encoder's weights, relative to the checkpoint's
    directory. encoder_heads, heads: attention heads of the encoder and of the predictor.
    positions: whose interpolation of the encoder's positions, "dinov2" (torch.hub's, on which the
    world models were trained) or "transformers". image_size: side of the camera pictures, pixels.
    history: the most frames that the predictor is given. num_action_repeat, num_proprio_repeat: as
    in the training config of upstream's DINO-WM; a JEPA-WM has none.
    """

    encoder: str | None = None
    encoder_heads: int | None = None
    heads: int | None = None
    positions: str = "dinov2"
    image_size: int | None = None
    history: int | None = None
    num_action_repeat: int = 1
    num_proprio_repeat: int = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Of the robot's own state: applied inside the encoder graph."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Sections:
    """config.json's sections with --spec's over them, and the names of what neither says."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.assumed: list[str] = []
        self._said: dict[str, dict[str, Any]] = {}
        for name in _SECTIONS:
            found = checkpoint.config.get(name)
            beside = found if isinstance(found, dict) else {}
            self._said[name] = {**beside, **checkpoint.spec.get(name, {})}

    def model(self, *, without: Collection[str] = ()) -> ModelSettings:
        """Return section [model]. without: entries that this model has no use for.

        Raises CheckpointError for unknown or misfitting entries.
        """
        said = self._said["model"]
        known = {field.name for field in dataclasses.fields(ModelSettings)} - set(without)
        if unknown := sorted(said.keys() - known):
            raise CheckpointError(
                f"--spec, [model] has the unknown key {unknown[0]!r}, expected one of "
                f"{', '.join(sorted(known))}; correct it"
            )
        for name, value in said.items():
            text = name in ("encoder", "positions")
            whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
            if not (isinstance(value, str) if text else whole):
                raise CheckpointError(
                    f"--spec, [model] {name} is {value!r}, expected "
                    f"{'a text' if text else 'a positive whole number'}; correct it"
                )
        settings = ModelSettings(**said)
        if settings.positions not in ("dinov2", "transformers"):
            raise CheckpointError(
                f"--spec, [model] positions is {settings.positions!r}, expected 'dinov2' or "
                "'transformers'; correct it"
            )
        return settings

    def observation(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        fit: FitSpec,
        *,
        action_dim: int,
    ) -> ObservationSpec:
        """Return the observation: RGB, size x size. Raises CheckpointError."""
        default = ObservationSpec(
            height=size,
            width=size,
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
            rate_hz=RELEASED_RATES_HZ[_usual_block(action_dim)],
            fit=fit,
        )
        seen = self._complete("observation", default, ("rate_hz",))
        if (seen.height, seen.width) != (size, size) or seen.clip is not None:
            raise CheckpointError(
                f"--spec, [observation] asks for {seen.height} x {seen.width}"
                f"{' in clips' if seen.clip else ''}, expected single pictures of {size} x {size}; "
                "give [model] image_size to change it"
            )
        return seen

    def action(self, dim: int) -> ActionSpec:
        """Return the action. Statistics of one environment step are repeated over the block."""
        said = self._said["action"]
        usual = _usual_block(dim)
        block = said.get("block", usual)
        if isinstance(block, int) and block > 0:
            for name in ("mean", "std", "low", "high"):
                values = said.get(name)
                if isinstance(values, (list, tuple)) and len(values) * block == dim:
                    said[name] = list(values) * block
        units = "" if "mean" in said else "z-score"
        default = ActionSpec(dim=dim, block=usual, mean=(0.0,) * dim, std=(1.0,) * dim, units=units)
        action = self._complete("action", default, ("block", "mean", "std"))
        if action.dim != dim:
            raise CheckpointError(
                f"action.dim is {action.dim}, expected {dim}: what the action encoder takes, a "
                "whole block flattened; correct --spec"
            )
        return action

    def state(self, dim: int) -> tuple[StateSpec | None, Statistics]:
        """Return the own state, None where dim is 0, and its statistics."""
        said = dict(self._said["state"])
        if not dim:
            if said:
                raise CheckpointError(
                    "--spec has a section 'state', but this model has no proprio_encoder: it sees "
                    "pictures only; remove it"
                )
            return None, Statistics(mean=(), std=())
        numbers = {}
        for name, default, check in (("mean", 0.0, check_numbers), ("std", 1.0, check_std)):
            values = said.pop(name, None)
            if values is None:
                self.assumed.append(f"state.{name}")
                values = [default] * dim
            numbers[name] = _numbers(f"state.{name}", values, dim)
            try:
                check(f"state.{name}", numbers[name])
            except ValueError as error:
                raise CheckpointError(f"--spec: {error}") from error
        self._said["state"] = said
        units = "z-score" if "state.mean" in self.assumed else ""
        spec = self._complete("state", StateSpec(dim=dim, units=units), ())
        if spec.dim != dim:
            raise CheckpointError(
                f"state.dim is {spec.dim}, expected {dim}: what the proprio encoder takes; correct "
                "--spec"
            )
        return spec, Statistics(mean=numbers["mean"], std=numbers["std"])

    def _complete(self, section: str, default: _Spec, noted: tuple[str, ...]) -> _Spec:
        said = self._said[section]
        try:
            values = {**msgspec.to_builtins(default), **said}
            spec = msgspec.convert(values, type(default))
        except msgspec.ValidationError as error:
            raise CheckpointError(
                f"--spec, [{section}] is not valid: {error}; correct it"
            ) from error
        self.assumed += [f"{section}.{name}" for name in noted if name not in said]
        return spec


def _usual_block(action_dim: int) -> int:
    return RELEASED_BLOCK if action_dim % RELEASED_BLOCK == 0 else 1


def _numbers(name: str, values: Any, dim: int) -> tuple[float, ...]:
    plain = isinstance(values, (list, tuple)) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in values
    )
    if not plain or len(values) != dim:
        raise CheckpointError(f"{name} is {values!r}, expected {dim} numbers; correct --spec")
    return tuple(float(v) for v in values)
