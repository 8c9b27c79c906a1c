# SPDX-License-Identifier: Apache-2.0
"""A bag's messages put through the node's own inputs, in the order in which they were recorded."""

from __future__ import annotations

from collections.abc import Container, Iterator

from jepa_edge.bags.reader import Bag
from jepa_edge.bags.topics import Topics
from jepa_edge.nodes.inputs import Frame, Inputs
from jepa_edge.nodes.messages import stamp_ns


def frames(
    bag: Bag, topics: Topics, inputs: Inputs, wanted: Container[int] | None = None
) -> Iterator[Frame]:
    """Yield the frames that the model gets; `inputs.observation` tells what led to each.

    wanted: stamps, ns, of the frames that a node is known to have taken; None: the inputs choose.
    Inputs of a model of clips are to be told the same as their clip_ends.
    Raises InputError when the bag is damaged.
    """
    names = [topic for topic in (topics.image, topics.action, topics.plan) if topic is not None]
    for entry in bag.messages(names):
        message, received_ns = entry.message, entry.received_ns
        if entry.topic == topics.action:
            inputs.on_action(message, received_ns)
        elif entry.topic == topics.plan:
            inputs.on_plan(message, received_ns)
        elif wanted is None or inputs.takes_clips:
            frame = inputs.on_image(message, received_ns)
            if frame is not None and (wanted is None or frame.stamp_ns in wanted):
                yield frame
        elif stamp_ns(message.header) in wanted:
            yield Frame(message=message, stamp_ns=stamp_ns(message.header), received_ns=received_ns)
