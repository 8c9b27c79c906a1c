# SPDX-License-Identifier: Apache-2.0
"""Load a LeWorldModel's checkpoint, in any released layout, and save one in ours.

Ours is a directory with `model.safetensors` and a `config.json` of this form (`CheckpointConfig`):

    {"family": "lewm",
     "model": {fields of LeWMConfig},
     "observation": {"height", "width", "color", "mean", "std", "rate_hz"},
     "action": {"dim", "block", "mean", "std", "low", "high", "units", "names"}}

Released checkpoints say nothing about observations and actions; `default_observation` and
`default_action` document what is then assumed, and a config file overrides it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import safetensors.torch
import torch
from torch import Tensor

from jepa_edge.errors import CheckpointError, InputError
from jepa_edge.export.checkpoint import CONFIG_NAME, check_sections, open_checkpoint
from jepa_edge.export.families.base import Checkpoint
from jepa_edge.export.families.lewm import LeWM, LeWMConfig
from jepa_edge.export.families.lewm_hydra import config_from_hydra
from jepa_edge.export.families.lewm_keys import NOT_IN_SHAPES, canonical_keys, config_from_shapes
from jepa_edge.export.families.loading import fill
from jepa_edge.export.families.pixels import IMAGENET_MEAN, IMAGENET_STD
from jepa_edge.json_text import json_bytes
from jepa_edge.manifest import ActionSpec, ObservationSpec

_log = logging.getLogger(__name__)

FAMILY = "lewm"
WEIGHTS_NAME = "model.safetensors"

RELEASED_BLOCK = 5
"""Environment steps per action block in every released LeWorldModel."""
RELEASED_RATE_HZ = 2.0
"""PushT's: 10 environment steps per second, 5 per block."""

_BATCH_COUNTER = "num_batches_tracked"

_NOTED = {"observation": ("mean", "std", "rate_hz"), "action": ("block", "mean", "std")}
"""Settings without which a model runs but sees or acts wrongly: a default is worth a warning."""

_Spec = TypeVar("_Spec", ObservationSpec, ActionSpec)


class CheckpointConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `config.json` in our layout. model: the fields of LeWMConfig."""

    family: str
    model: dict[str, int | float]
    observation: ObservationSpec
    action: ActionSpec


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointExtras:
    """What a checkpoint says beside its weights.

    weights: the file that the tensors came from. sha256: of that file, for the bundle's provenance.
    assumed: dotted names, such as "action.mean", of what neither the checkpoint nor the config
        file said, so that a default stands in. Empty for our own layout.
    """

    observation: ObservationSpec
    action: ActionSpec
    weights: Path
    sha256: str
    assumed: tuple[str, ...] = ()


def default_observation(config: LeWMConfig) -> ObservationSpec:
    """Return what a released model expects: RGB at its image size, ImageNet statistics, 2 Hz."""
    return ObservationSpec(
        height=config.image_size,
        width=config.image_size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        rate_hz=RELEASED_RATE_HZ,
    )


def default_action(config: LeWMConfig) -> ActionSpec:
    """Return blocks of 5 steps (1 where 5 does not divide A), taken as z-scored already.

    Released checkpoints leave the training set's action mean and standard deviation out, so 0 and
    1 stand in: actions must come z-scored until a config file gives the numbers.
    """
    dim = config.action_dim
    block = RELEASED_BLOCK if dim % RELEASED_BLOCK == 0 else 1
    return ActionSpec(dim=dim, block=block, mean=(0.0,) * dim, std=(1.0,) * dim, units="z-score")


def load_checkpoint(
    path: Path | str, *, config: Path | str | None = None
) -> tuple[LeWM, LeWMConfig, CheckpointExtras]:
    """Load a LeWorldModel from a directory or a weights file; no pickled code is ever run.

    path: a directory with weights and `config.json` (ours, or Hydra's as released), or a
        `.safetensors`, `.pt` or `.ckpt` file; a `config.json` beside it is read too. Without one,
        sizes come from the tensors' shapes. Keys of transformers 4 and 5 are both understood.
    config: JSON or TOML file in our layout, every section and entry optional, that overrides what
        the checkpoint says.
    Returns the model in evaluation mode (float32, CPU), its config, and the rest.
    Raises CheckpointError: unreadable, unsafe, another family, or a tensor that does not fit.
    """
    return read_checkpoint(open_checkpoint(Path(path), None if config is None else Path(config)))


def read_checkpoint(checkpoint: Checkpoint) -> tuple[LeWM, LeWMConfig, CheckpointExtras]:
    """Build a LeWorldModel from an opened checkpoint; returns and raises as `load_checkpoint`."""
    where = str(checkpoint.weights)
    state = canonical_keys(checkpoint.tensors, where)
    found = _sections(checkpoint.config, str(checkpoint.path))
    given = _sections(checkpoint.spec, "the --spec file")
    model_config, assumed = _model_config(state, found, given, where)
    model = _fill(model_config, state, where)
    observation, assumed_o = _complete(
        "observation", default_observation(model_config), found, given
    )
    action, assumed_a = _complete("action", default_action(model_config), found, given)
    assumed += assumed_o + assumed_a
    extras = CheckpointExtras(
        observation=observation,
        action=action,
        weights=checkpoint.weights,
        sha256=checkpoint.sha256,
        assumed=tuple(assumed),
    )
    _check_specs(model_config, extras)
    if assumed:
        _log.info(
            "%s does not say %s: defaults of the released models stand in",
            checkpoint.path,
            ", ".join(assumed),
        )
    return model, model_config, extras


def save_checkpoint(
    directory: Path | str, model: LeWM, *, observation: ObservationSpec, action: ActionSpec
) -> None:
    """Write `model.safetensors` and `config.json` into a directory, each in one step.

    Raises CheckpointError when the observation or the action does not fit the model.
    """
    directory = Path(directory)
    extras = CheckpointExtras(observation=observation, action=action, weights=directory, sha256="")
    _check_specs(model.config, extras)
    config = CheckpointConfig(
        family=FAMILY, model=model.config.to_dict(), observation=observation, action=action
    )
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    directory.mkdir(parents=True, exist_ok=True)
    _replace_file(
        directory / WEIGHTS_NAME, safetensors.torch.save(tensors, metadata={"format": "pt"})
    )
    payload = json_bytes(config)
    _replace_file(directory / CONFIG_NAME, payload)


def _replace_file(path: Path, payload: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        staged = Path(file.name)
        try:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
            staged.chmod(0o644)
            os.replace(staged, path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise


def _sections(config: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Return the sections model, observation, action of a config in our layout or Hydra's."""
    values = dict(config)
    if "_target_" in values or ("encoder" in values and "predictor" in values):
        return {"model": config_from_hydra(values, where).to_dict()}
    family = values.pop("family", FAMILY)
    if family != FAMILY:
        raise CheckpointError(
            f"{where} is for the family {family!r}, expected {FAMILY!r}; pass a LeWorldModel"
        )
    check_sections(values, where, ("model", "observation", "action"))
    return values


def _model_config(
    state: Mapping[str, Tensor],
    found: Mapping[str, dict[str, Any]],
    given: Mapping[str, dict[str, Any]],
    where: str,
) -> tuple[LeWMConfig, list[str]]:
    """Return the model's config and the names of what had to be assumed in it."""
    said = {**found.get("model", {}), **given.get("model", {})}
    complete = {field.name for field in dataclasses.fields(LeWMConfig)} <= said.keys()
    assumed: list[str] = []
    try:
        if not complete and "model" not in found:
            said = {**config_from_shapes(state, where).to_dict(), **said}
            stated = given.get("model", {})
            assumed = [f"model.{name}" for name in NOT_IN_SHAPES if name not in stated]
        return LeWMConfig.from_dict(said), assumed
    except InputError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _fill(config: LeWMConfig, state: Mapping[str, Tensor], where: str) -> LeWM:
    """Build the model and load every tensor."""
    with torch.device("meta"):
        model = LeWM(config)
    # Converters drop the batch counters, and inference does not read them.
    counters = [name for name in model.state_dict() if name.endswith(_BATCH_COUNTER)]
    return fill(model, state, where, counters=counters)


def _complete(
    section: str,
    default: _Spec,
    found: Mapping[str, dict[str, Any]],
    given: Mapping[str, dict[str, Any]],
) -> tuple[_Spec, list[str]]:
    """Lay what was found, then what was given, over the default; name what stayed assumed."""
    said = {**found.get(section, {}), **given.get(section, {})}
    values = {**msgspec.to_builtins(default), **said}
    if section == "action" and "mean" in said and "units" not in said:
        values["units"] = ""  # raw units from here on, whatever they are
    try:
        spec = msgspec.convert(values, type(default))
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"config section {section!r} is not valid: {error}; correct it"
        ) from error
    return spec, [f"{section}.{name}" for name in _NOTED[section] if name not in said]


def _check_specs(config: LeWMConfig, extras: CheckpointExtras) -> None:
    """Raise CheckpointError where the observation or the action contradicts the model."""
    seen, action = extras.observation, extras.action
    if (seen.height, seen.width) != (config.image_size, config.image_size):
        raise CheckpointError(
            f"observation is {seen.height} x {seen.width}, expected the model's image size "
            f"{config.image_size} x {config.image_size}; correct the config"
        )
    if action.dim != config.action_dim:
        raise CheckpointError(
            f"action.dim is {action.dim}, expected the model's action_dim {config.action_dim}; "
            "correct the config (dim counts a whole block, flattened)"
        )
