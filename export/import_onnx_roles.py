# SPDX-License-Identifier: Apache-2.0
"""Which input of a foreign graph is which of the run time's: by name, by the spec, by shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from jepa_edge.errors import ExportError, printable
from jepa_edge.export.import_onnx_file import GraphFile, Port

FLOATS = ("float32", "float16", "float64")
OUTPUTS = {"encoder": "latents", "predictor": "prediction", "mask_predictor": "predicted"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """An input that the run time knows. told: what it looks like, for messages."""

    name: str
    told: str
    fits: Callable[[Port], bool]


def _is_picture(port: Port) -> bool:
    if port.dtype not in ("uint8", *FLOATS):
        return False
    return port.rank is None or (port.rank in (4, 5) and channel_axis(port) is not None)


def channel_axis(port: Port) -> int | None:
    """Where the colors are: None where no axis can hold three.

    Last in uint8 and first after the batch in float, if both could; a dynamic axis counts only
    where no axis is 3.
    """
    assert port.shape is not None
    last = len(port.shape) - 1
    places = [last, 1, 2] if port.dtype == "uint8" else [1, 2, last]
    places = [axis for axis in places if axis < 3 - (last == 3) or axis == last]
    for axis in places:
        if port.fixed(axis) == 3:
            return axis
    return next((axis for axis in places if port.fixed(axis) is None), None)


def _has_rank(
    dtypes: Sequence[str], *ranks: int, last: int | None = None
) -> Callable[[Port], bool]:
    def fits(port: Port) -> bool:
        if port.dtype not in dtypes or port.rank not in (None, *ranks):
            return False
        length = None if port.rank is None else port.fixed(port.rank - 1)
        return last is None or length is None or length == last

    return fits


def encoder_roles(*, states: int | None, masks: bool) -> list[Role]:
    """What an encoder takes. states: S of the spec's [state], None without one."""
    roles = [
        Role(
            name="frames",
            told="uint8 (B, H, W, 3), or float pixels (B, 3, H, W)",
            fits=_is_picture,
        )
    ]
    if states is not None:
        told = f"float32 (B, {states or 'S'})"
        roles.append(Role(name="states", told=told, fits=_has_rank(FLOATS, 2, last=states or None)))
    if masks:
        roles.append(Role(name="visible", told="int64 (V,)", fits=_has_rank(("int64", "int32"), 1)))
    return roles


def predictor_roles(
    *, tokens: int, dim: int, action: int | None, history: int | None, noise: bool
) -> list[Role]:
    """What a predictor takes, given the encoder's (N, D) and what the spec says of T and A."""

    def is_history(port: Port) -> bool:
        if port.dtype not in FLOATS or port.rank not in (None, 2, 3, 4):
            return False
        last = None if port.rank is None else port.fixed(port.rank - 1)
        if port.rank == 2 and last is not None:
            return last % (tokens * dim) == 0
        return last in (None, dim)

    def is_action(port: Port) -> bool:
        if port.dtype not in FLOATS or port.rank not in (None, 2, 3):
            return False
        last = None if port.rank is None else port.fixed(port.rank - 1)
        widths = (action, (action or 0) * (history or 1)) if port.rank == 2 else (action,)
        return action is None or last is None or last in widths

    roles = [
        Role(name="history", told=f"float32 (B, T, {tokens}, {dim})", fits=is_history),
        Role(name="actions", told=f"float32 (B, T, {action or 'A'})", fits=is_action),
    ]
    if noise:
        roles.append(Role(name="z", told="float32 (B, Z)", fits=_has_rank(FLOATS, 2)))
    return roles


def mask_predictor_roles(dim: int) -> list[Role]:
    """What a mask predictor takes."""
    index = _has_rank(("int64", "int32"), 1)
    return [
        Role(name="context", told=f"float32 (B, V, {dim})", fits=_has_rank(FLOATS, 3, last=dim)),
        Role(name="visible", told="int64 (V,)", fits=index),
        Role(name="hidden", told="int64 (M,)", fits=index),
    ]


def match(
    file: GraphFile, roles: Sequence[Role], rename: Mapping[str, str]
) -> tuple[dict[str, Port], Port]:
    """Return the graph's input of every role by run-time name, and its output.

    rename: run-time name to the graph's. Raises ExportError with what is there and what is wanted.
    """
    output_name = OUTPUTS[file.part]
    ports = {port.name: port for port in file.inputs}
    outputs = {port.name: port for port in file.outputs}
    for ours, theirs in rename.items():
        there = outputs if ours == output_name else ports
        known = [*(role.name for role in roles), output_name]
        if ours not in known or theirs not in there:
            raise ExportError(
                f"[rename.{file.part}] {ours} = {theirs!r} does not fit: {file.told()}; the run "
                f"time knows {', '.join(known)}"
            )
    chosen = rename.get(output_name, output_name)
    if chosen not in outputs and len(outputs) > 1:
        raise ExportError(
            f"{file.path} has {len(outputs)} outputs, "
            f"{', '.join(port.told() for port in file.outputs)}, expected one, {output_name}; say "
            f"which with [rename.{file.part}] {output_name} = {file.outputs[0].name!r}, the others "
            "are left out"
        )
    output = outputs.get(chosen, file.outputs[0])
    matched = {
        role.name: ports[rename.get(role.name, role.name)]
        for role in roles
        if rename.get(role.name, role.name) in ports
    }
    for role in roles:
        port = matched.get(role.name)
        if port is not None and not role.fits(port):
            raise ExportError(
                f"{file.path}: {role.name} is {port.told()}, expected {role.told}; "
                f"{_advice(role, port, file.part)}"
            )
    used = {port.name for port in matched.values()}
    free_ports = [port for port in file.inputs if port.name not in used]
    free_roles = [role for role in roles if role.name not in matched]
    if len(free_ports) != len(free_roles):
        raise ExportError(_does_not_match(file, roles))
    fitting = [
        order
        for order in permutations(free_ports)
        if all(role.fits(port) for role, port in zip(free_roles, order, strict=True))
    ]
    if len(fitting) != 1:
        raise ExportError(_does_not_match(file, roles, ambiguous=len(fitting) > 1))
    matched |= {role.name: port for role, port in zip(free_roles, fitting[0], strict=True)}
    return matched, output


def _does_not_match(file: GraphFile, roles: Sequence[Role], ambiguous: bool = False) -> str:
    wanted = "; ".join(f"{role.name} {role.told}" for role in roles)
    there = "; ".join(port.told() for port in file.inputs)
    if ambiguous:
        return (
            f"{file.path} takes {there}, and more than one of them could be each of {wanted}; name "
            f"them in the spec: [rename.{file.part}] {roles[0].name} = "
            f"{printable(file.inputs[0].name)!r} and so on"
        )
    advice = f"name them in [rename.{file.part}] if only the names differ"
    if len(file.inputs) > len(roles):
        advice = (
            "make what is always the same a constant when you export; the robot's own state needs "
            "a [state] section, and a latent variable of the model's own is named z"
        )
    return f"{file.path} takes {there}, expected {wanted}; {advice}"


def _advice(role: Role, port: Port, part: str) -> str:
    if role.name in ("visible", "hidden"):
        return "export token indices as int64 with one dynamic axis"
    if port.dtype not in (*FLOATS, "uint8"):
        return f"export it with {role.name} as {'uint8' if role.name == 'frames' else 'float32'}"
    if role.name in ("history", "actions"):
        return (
            "the latent's size is what the encoder gives and the action's what the spec says; "
            f"pass the {part} that belongs to this encoder, or correct the spec"
        )
    return "export it with the axes in this order, batch first"
