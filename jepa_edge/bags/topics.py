# SPDX-License-Identifier: Apache-2.0
"""Which topics of a bag are what, and how their messages are read."""

from __future__ import annotations

from dataclasses import dataclass

from jepa_edge.bags.reader import Bag, listed
from jepa_edge.errors import InputError
from jepa_edge.image_fit import MODEL_FIT
from jepa_edge.nodes.fields import ACTION_TYPES, ARRAY, full_name
from jepa_edge.nodes.inputs import InputOptions
from jepa_edge.nodes.messages import EMBEDDING, FLAG, IMAGE, MODEL_INFO

PARAMETER_EVENTS = "/parameter_events"

_ARRAY = full_name(ARRAY)
_ACTIONS = tuple(full_name(name) for name in ACTION_TYPES)
_NOT_COMMANDED = ("planned_actions", "cmd_out")
"""Last parts of the names of topics that look like commands and are not what led to a frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BagOptions:
    """How a bag is read. Topics that are None: the only one that fits, if there is one.

    plan_topic: None takes none. action_fields, action_timeout_s, image_fit, min_gap_periods,
    max_gap_periods, max_age_s: as of InputOptions.
    """

    image_topic: str | None = None
    action_topic: str | None = None
    plan_topic: str | None = None
    flag_topic: str | None = None
    action_fields: tuple[str, ...] = ()
    action_timeout_s: float = 0.0
    image_fit: str = MODEL_FIT
    min_gap_periods: float = 0.5
    max_gap_periods: float = 1.75
    max_age_s: float = 0.0

    def inputs(self, action_type: str | None) -> InputOptions:
        """Return how messages become observations. action_type: "package/msg/Type", if any."""
        package, _, kind = (action_type or _ARRAY).split("/")
        return InputOptions(
            action_type=f"{package}/{kind}",
            action_fields=self.action_fields,
            action_timeout_s=self.action_timeout_s,
            image_fit=self.image_fit,
            min_gap_periods=self.min_gap_periods,
            max_gap_periods=self.max_gap_periods,
            max_age_s=self.max_age_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """Topics as a bag has them; None: the bag has none. commands: all that action may be."""

    image: str
    action: str | None
    commands: tuple[str, ...]
    plan: str | None
    flag: str | None
    embedding: str | None
    info: str | None


def find_topics(bag: Bag, options: BagOptions) -> Topics:
    """Return a bag's topics.

    Raises InputError when one is missing, ambiguous, or of a type that none takes; commands may be,
    for not every use needs them.
    """
    plan = options.plan_topic
    if plan is not None:
        bag.pick([_ARRAY], plan, "--plan-topic")
    flag = bag.optional([FLAG], options.flag_topic, "--flag-topic")
    commands = _commands(bag, options)
    return Topics(
        image=bag.pick([IMAGE], options.image_topic, "--image-topic"),
        action=commands[0] if len(commands) == 1 else None,
        commands=commands,
        plan=plan,
        flag=flag,
        embedding=_sibling(bag, flag, EMBEDDING, "embedding"),
        info=_sibling(bag, flag, MODEL_INFO, "model_info"),
    )


def need_actions(bag: Bag, topics: Topics) -> str:
    """Return the topic of the commands. Raises InputError when there is none, or several may be."""
    if topics.action is not None:
        return topics.action
    if topics.commands:
        raise InputError(
            f"{bag.path} has commands on {listed(topics.commands)}; name one with --action-topic"
        )
    raise InputError(
        f"{bag.path} holds no commands: expected a topic of type {' or '.join(_ACTIONS)}; "
        "record it beside the images, or name it with --action-topic"
    )


def _commands(bag: Bag, options: BagOptions) -> tuple[str, ...]:
    """The topic that is named, or all arrays, or all of any type that a command may have."""
    if options.action_topic is not None:
        return (bag.pick(_ACTIONS, options.action_topic, "--action-topic"),)
    for kinds in ((_ARRAY,), _ACTIONS):
        found = sorted(
            topic
            for topic, kind in bag.topics.items()
            if kind in kinds
            and topic != options.plan_topic
            and topic.rpartition("/")[2] not in _NOT_COMMANDED
        )
        if found:
            return tuple(found)
    return ()


def _sibling(bag: Bag, flag: str | None, kind: str, name: str) -> str | None:
    """The topic beside the flags', or, where there are no flags, the only one of its type.

    One that lies elsewhere may be another node's.
    """
    found = [topic for topic, known in bag.topics.items() if known == kind]
    if flag is not None:
        beside = f"{flag.rpartition('/')[0]}/{name}"
        return beside if beside in found else None
    return found[0] if len(found) == 1 else None
