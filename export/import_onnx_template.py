# SPDX-License-Identifier: Apache-2.0
"""A spec to fill in, from what the graphs tell."""

from __future__ import annotations

from collections.abc import Sequence

from jepa_edge.errors import printable
from jepa_edge.export.import_onnx_file import GraphFile, Port
from jepa_edge.export.import_onnx_roles import (
    OUTPUTS,
    channel_axis,
    encoder_roles,
    mask_predictor_roles,
    predictor_roles,
)

_MODEL = """\
# What the ONNX files do not tell. Lines with a # before them are optional.
# docs/import_onnx.md explains every entry; unknown ones are refused.

[model]
family = "custom"            # what the bundle calls the model
{history}

[observation]
rate_hz = 0.0                # FILL IN: model steps per second of the training data
color = "rgb"                # or "bgr": what the model was trained on
{size}
{pixels}
"""

_ACTION = """
[action]
{dim}
block = 1                    # environment steps per action
mean = [{zeros}]  # FILL IN: of the raw actions in the training data
std = [{ones}]
# low = [...]                # limits in raw units, if any
# high = [...]
# units = "m"
# names = ["x", "y"]         # one per number

[wrap]
normalize_actions = false    # true: the predictor expects (action - mean) / std
last_step = false            # true: it gives a latent per step, the last is the prediction
"""

_REST = """
# [state]                    # only if the encoder takes the robot's own state
# dim = 7
# names = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]

# [latent]                   # tokens and dim are read from the encoder
# grid = [1, 16, 16]         # time, rows, columns, where tokens are patches
# distance = "l2"            # or "l1", as the model was trained
"""


def template(files: Sequence[GraphFile]) -> str:
    """Return a commented spec for these graphs; what has to be filled in says so."""
    by_part = {file.part: file for file in files}
    lines = [_observation(by_part["encoder"], by_part.get("predictor"))]
    predictor = by_part.get("predictor")
    if predictor is not None:
        lines.append(_action(predictor))
    lines.append(_REST)
    lines.extend(_rename(file) for file in files)
    return "".join(lines)


def _observation(encoder: GraphFile, predictor: GraphFile | None) -> str:
    role = encoder_roles(states=None, masks=False)[0]
    port = next((port for port in encoder.inputs if role.fits(port)), None)
    size, clip = ["# height = 224", "# width = 224"], ""
    pixels = "# mean, std: not needed, the graph takes uint8 pixels"
    if port is not None and port.shape is not None:
        axis = channel_axis(port)
        places = [a for a in range(1, len(port.shape)) if a != axis]
        for index, (name, place) in enumerate(zip(("height", "width"), places[-2:], strict=True)):
            fixed = port.fixed(place)
            size[index] = f"{name} = {fixed}" if fixed else f"{name} = 0   # FILL IN: pixels"
        if len(places) == 3:
            frames = port.fixed(places[0]) or 2
            clip = (
                f"\n[observation.clip]\nframes = {frames}\ntubelet = 1   # pictures per token\n"
                "stride = 1    # camera frames between pictures\n"
                "hop = 1       # camera frames between model steps"
            )
        if port.dtype != "uint8":
            pixels = (
                "mean = [0.485, 0.456, 0.406]  # FILL IN: these are ImageNet's; the graph takes\n"
                "std = [0.229, 0.224, 0.225]   # (pixel / 255 - mean) / std"
            )
    return _MODEL.format(
        history=_history(predictor), size="\n".join(size), pixels=f"{pixels}{clip}"
    )


def _history(predictor: GraphFile | None) -> str:
    if predictor is None:
        return "# history = 1               # latents that a predictor sees"
    port = _likely(predictor, "history", 0)
    fixed = port.fixed(1) if port.rank in (3, 4) else None
    return f"# history = {fixed or 1}               # latents that the predictor sees"


def _action(predictor: GraphFile) -> str:
    port = _likely(predictor, "actions", 1)
    width = None if port.rank is None else port.fixed(port.rank - 1)
    count = width or 1
    return _ACTION.format(
        dim=f"dim = {width}" if width else "dim = 0    # FILL IN: numbers per action",
        zeros=", ".join(["0.0"] * count),
        ones=", ".join(["1.0"] * count),
    )


def _likely(file: GraphFile, name: str, position: int) -> Port:
    named = [port for port in file.inputs if port.name == name]
    return (named or list(file.inputs[position : position + 1]) or list(file.inputs))[0]


def _rename(file: GraphFile) -> str:
    roles = {
        "encoder": encoder_roles(states=None, masks=False),
        "predictor": predictor_roles(tokens=1, dim=1, action=None, history=None, noise=False),
        "mask_predictor": mask_predictor_roles(1),
    }[file.part]
    told = [f"\n# [rename.{file.part}]          # only where names and shapes do not tell\n"]
    told += [f"# it takes: {port.told()}\n" for port in file.inputs]
    told += [f"# it gives: {port.told()}\n" for port in file.outputs]
    for role, port in zip(roles, file.inputs, strict=False):
        told.append(f'# {role.name} = "{printable(port.name)}"\n')
    told.append(f'# {OUTPUTS[file.part]} = "{printable(file.outputs[0].name)}"\n')
    return "".join(told)
