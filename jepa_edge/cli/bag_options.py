# SPDX-License-Identifier: Apache-2.0
"""Options of the verbs that read bags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jepa_edge.cli.common import refuse_options
from jepa_edge.image_fit import FITS
from jepa_edge.nodes.fields import STATE_TYPES
from jepa_edge.recording import INFO_NAME

if TYPE_CHECKING:
    from jepa_edge.bags.topics import BagOptions
    from jepa_edge.recording import Recording

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--image-topic", help="Bag: image topic, if there are several."),
    click.option("--action-topic", help="Bag: topic of the commands, if there are several."),
    click.option(
        "--action-fields",
        metavar="LIST",
        help="Bag: numbers of a command that make up a step, e.g. linear.x,angular.z.",
    ),
    click.option(
        "--action-timeout",
        type=click.FloatRange(min=0.0),
        help="Bag: seconds that a command is held.  [default: half a period, or a period]",
    ),
    click.option(
        "--state-topic", help="Bag: topic of the robot's own state, for a model that takes it."
    ),
    click.option(
        "--state-type", type=click.Choice(STATE_TYPES), help="Bag: its type, if several may be it."
    ),
    click.option(
        "--state-fields",
        metavar="LIST",
        help="Bag: numbers of a state message, e.g. position[elbow],velocity[elbow].  [default: "
        "all of a Float32MultiArray]",
    ),
    click.option(
        "--state-slop",
        type=click.FloatRange(min=0.0),
        help="Bag: sync_slop_s of the node, how far from the image in time a state may be.  "
        "[default: 0.05]",
    ),
    click.option(
        "--image-fit",
        type=click.Choice(FITS),
        help="Bag: how images of another size become the model's.  [default: as the model was "
        "trained, exact if the bundle does not say how]",
    ),
    click.option(
        "--max-age",
        type=click.FloatRange(min=0.0),
        help="Bag: max_age_s of the node, which bounds how many frames of a fast camera are left "
        "out.  [default: 2 periods]",
    ),
)


BAG_OPTIONS = (
    "image_topic",
    "action_topic",
    "action_fields",
    "action_timeout",
    "state_topic",
    "state_type",
    "state_fields",
    "state_slop",
    "image_fit",
    "max_age",
)
"""Names of these options' arguments."""


def bag_options(command: Command) -> Command:
    """Give a command the options that say how a bag is read; see `read_bag_options`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_bag_options(
    image_topic: str | None,
    action_topic: str | None,
    action_fields: str | None,
    action_timeout: float | None,
    state_topic: str | None,
    state_type: str | None,
    state_fields: str | None,
    state_slop: float | None,
    image_fit: str | None,
    max_age: float | None,
    **others: Any,
) -> BagOptions:
    """Return what the options of `bag_options` say; others: further fields of BagOptions."""
    from jepa_edge.bags.topics import BagOptions

    if state_slop is not None:
        others["sync_slop_s"] = state_slop
    return BagOptions(
        image_topic=image_topic,
        action_topic=action_topic,
        action_fields=fields_of(action_fields),
        action_timeout_s=action_timeout or 0.0,
        state_topic=state_topic,
        state_type=state_type or "",
        state_fields=fields_of(state_fields),
        image_fit=image_fit or "model",
        max_age_s=max_age or 0.0,
        **others,
    )


def fields_of(text: str | None) -> tuple[str, ...]:
    """Paths of a comma list; none of an empty one."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def refuse_for_recording(path: Path) -> None:
    """Raise InputError when an option for bags was given and path is a recording."""
    if (path / INFO_NAME).is_file():
        refuse_options(f"{path}, which is a recording and no bag,", BAG_OPTIONS)


def tell_left_out(recording: Recording) -> None:
    """Say on stderr which parts of bags became no episode."""
    for note in getattr(recording, "notes", ()):
        click.echo(f"note: {note}", err=True)
