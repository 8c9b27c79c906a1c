# SPDX-License-Identifier: Apache-2.0
"""Which topics of a bag are what, and how their messages are read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jepa_edge.bags.reader import Bag, listed
from jepa_edge.errors import InputError
from jepa_edge.image_fit import MODEL_FIT
from jepa_edge.manifest import Manifest
from jepa_edge.nodes.fields import ACTION_TYPES, ARRAY, STATE_TYPES, full_name
from jepa_edge.nodes.inputs import InputOptions
from jepa_edge.nodes.messages import EMBEDDING, FLAG, IMAGE, MODEL_INFO

PARAMETER_EVENTS = "/parameter_events"

_ARRAY = full_name(ARRAY)
_ACTIONS = tuple(full_name(name) for name in ACTION_TYPES)
_STATES = tuple(full_name(name) for name in STATE_TYPES)
_STATE_NAME = "state"
_NOT_COMMANDED = ("planned_actions", "cmd_out", _STATE_NAME)
"""Last parts of the names of topics that look like commands and are not what led to a frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BagOptions:
    """How a bag is read. Topics that are None: the only one that fits, if there is one.

    plan_topic: None takes none. state_type: "package/Type", empty for any that a state may have.
    The others: as of InputOptions.
    """

    image_topic: str | None = None
    action_topic: str | None = None
    state_topic: str | None = None
    plan_topic: str | None = None
    flag_topic: str | None = None
    action_fields: tuple[str, ...] = ()
    action_timeout_s: float = 0.0
    state_type: str = ""
    state_fields: tuple[str, ...] = ()
    sync_slop_s: float = 0.05
    image_fit: str = MODEL_FIT
    min_gap_periods: float = 0.5
    max_gap_periods: float = 1.75
    max_age_s: float = 0.0

    def inputs(self, action_type: str | None, state_type: str | None = None) -> InputOptions:
        """Return how messages become observations. Types: "package/msg/Type", if any."""
        return InputOptions(
            action_type=_short(action_type or _ARRAY),
            action_fields=self.action_fields,
            action_timeout_s=self.action_timeout_s,
            state_type="" if state_type is None else _short(state_type),
            state_fields=self.state_fields,
            sync_slop_s=self.sync_slop_s,
            image_fit=self.image_fit,
            min_gap_periods=self.min_gap_periods,
            max_gap_periods=self.max_gap_periods,
            max_age_s=self.max_age_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """Topics as a bag has them; None: the bag has none, or several that may be.

    commands, states: all that action and state may be.
    """

    image: str
    action: str | None
    commands: tuple[str, ...]
    state: str | None
    states: tuple[str, ...]
    plan: str | None
    flag: str | None
    embedding: str | None
    info: str | None


def find_topics(bag: Bag, options: BagOptions) -> Topics:
    """Return a bag's topics.

    Raises InputError when one is missing, ambiguous, or of a type that none takes; commands and
    states may be, for not every use needs them.
    """
    plan = options.plan_topic
    if plan is not None:
        bag.pick([_ARRAY], plan, "--plan-topic")
    flag = bag.optional([FLAG], options.flag_topic, "--flag-topic")
    commands = _commands(bag, options)
    states = _states(bag, options, commands)
    return Topics(
        image=bag.pick([IMAGE], options.image_topic, "--image-topic"),
        action=commands[0] if len(commands) == 1 else None,
        commands=commands,
        state=states[0] if len(states) == 1 else None,
        states=states,
        plan=plan,
        flag=flag,
        embedding=_sibling(bag, flag, EMBEDDING, "embedding"),
        info=_sibling(bag, flag, MODEL_INFO, "model_info"),
    )


def for_model(
    bag: Bag, topics: Topics, options: BagOptions, manifest: Manifest
) -> tuple[Topics, InputOptions]:
    """Return the topics that a model makes use of, and how they are read.

    Raises InputError when the bag does not hold, or does not tell, what the model takes.
    """
    action_type = state_type = None
    if manifest.action is None:
        topics = replace(topics, action=None, commands=(), plan=None)
    else:
        action_type = bag.topics[_need_actions(bag, topics)]
    if manifest.state is None:
        topics = replace(topics, state=None, states=())
    else:
        state_type = bag.topics[_need_states(bag, topics)]
    return topics, options.inputs(action_type, state_type)


def _need_actions(bag: Bag, topics: Topics) -> str:
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


def _need_states(bag: Bag, topics: Topics) -> str:
    if topics.state is not None:
        return topics.state
    if topics.states:
        raise InputError(
            f"the model takes the robot's state, and {bag.path} may have it on "
            f"{listed(topics.states)}; name one with --state-topic"
        )
    raise InputError(
        f"the model takes the robot's state, and {bag.path} holds none: expected a topic of type "
        f"{' or '.join(_STATES)}; record it beside the images, or name it with --state-topic"
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
            and topic not in (options.plan_topic, options.state_topic)
            and _last_part(topic) not in _NOT_COMMANDED
        )
        if found:
            return tuple(found)
    return ()


def _states(bag: Bag, options: BagOptions, commands: tuple[str, ...]) -> tuple[str, ...]:
    """The topic that is named, or that has the node's name for it, or all that are no command."""
    kinds = (full_name(options.state_type),) if options.state_type else _STATES
    if options.state_topic is not None:
        return (bag.pick(kinds, options.state_topic, "--state-topic"),)
    taken = {options.plan_topic, *(commands if len(commands) == 1 else ())}
    found = sorted(t for t, kind in bag.topics.items() if kind in kinds and t not in taken)
    named = tuple(topic for topic in found if _last_part(topic) == _STATE_NAME)
    return named or tuple(t for t in found if _last_part(t) not in _NOT_COMMANDED)


def _last_part(topic: str) -> str:
    return topic.rpartition("/")[2]


def _short(type_name: str) -> str:
    """ "package/Type" of "package/msg/Type"."""
    package, _, kind = type_name.split("/")
    return f"{package}/{kind}"


def _sibling(bag: Bag, flag: str | None, kind: str, name: str) -> str | None:
    """The topic beside the flags', or, where there are no flags, the only one of its type.

    One that lies elsewhere may be another node's.
    """
    found = [topic for topic, known in bag.topics.items() if known == kind]
    if flag is not None:
        beside = f"{flag.rpartition('/')[0]}/{name}"
        return beside if beside in found else None
    return found[0] if len(found) == 1 else None
