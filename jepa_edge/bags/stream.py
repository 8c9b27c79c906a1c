# SPDX-License-Identifier: Apache-2.0
"""A bag's messages put through the node's own inputs, in the order in which they were recorded."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from jepa_edge.bags.reader import Bag
from jepa_edge.bags.topics import Topics
from jepa_edge.nodes.inputs import Frame, Inputs
from jepa_edge.nodes.messages import stamp_ns


def frames(
    bag: Bag,
    topics: Topics,
    inputs: Inputs,
    wanted: Container[int] | None = None,
    restarts: Container[int] = (),
) -> Iterator[Frame]:
    """Yield the frames that the model gets; `inputs.observation` tells what led to each.

    wanted: stamps, ns, of the frames that a node is known to have taken; None: the inputs choose.
    Inputs of a model of clips are to be told the same as their clip_ends; of those, a frame without
    a clip is one whose clip could not be put together. restarts: stamps, ns, of images before which
    the inputs are restarted.
    Raises InputError when the bag is damaged.
    """
    heard = (topics.image, topics.action, topics.state, topics.plan)
    names = [topic for topic in heard if topic is not None]
    for entry in bag.messages(names):
        message, received_ns = entry.message, entry.received_ns
        if entry.topic == topics.action:
            inputs.on_action(message, received_ns)
        elif entry.topic == topics.state:
            inputs.on_state(message, received_ns)
        elif entry.topic == topics.plan:
            inputs.on_plan(message, received_ns)
        elif wanted is None or inputs.takes_clips:
            if stamp_ns(message.header) in restarts:
                inputs.restart()
            frame = inputs.on_image(message, received_ns)
            if wanted is not None and stamp_ns(message.header) in wanted:
                frame = frame or _plain(message, received_ns)
            elif wanted is not None:
                continue
            if frame is not None:
                yield frame
        elif stamp_ns(message.header) in wanted:
            yield _plain(message, received_ns)


def _plain(message: Any, received_ns: int) -> Frame:
    return Frame(message=message, stamp_ns=stamp_ns(message.header), received_ns=received_ns)
