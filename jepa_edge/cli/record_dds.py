# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge record dds`: live topics from the wire into a bag."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from jepa_edge.cli import stop
from jepa_edge.cli.common import needs_extra, print_json
from jepa_edge.errors import InputError

_NODE_TOPICS = (
    "image",
    "action",
    "state",
    "planned_actions",
    "jepa/flag",
    "jepa/embedding",
    "jepa/prediction",
    "jepa/model_info",
)
"""Topics of the world model node, relative to its namespace."""

_ALWAYS = ("/parameter_events",)


def topics_of(
    namespace: str,
    image_topic: str | None,
    action_topic: str | None,
    state_topic: str | None,
    others: tuple[str, ...],
) -> set[str]:
    """Return the absolute names of what a replay needs, and of what else is asked for.

    A topic that is named takes the place of the node's own name for it.
    """
    root = "/" + namespace.strip("/") + "/" if namespace.strip("/") else "/"
    renamed = {"image": image_topic, "action": action_topic, "state": state_topic}
    names = {renamed.get(name) or name for name in _NODE_TOPICS}
    absolute = {name if name.startswith("/") else root + name for name in (*names, *others)}
    return absolute | set(_ALWAYS)


def record_dds(
    out: Path,
    topics: set[str] | None,
    *,
    storage: str,
    duration_s: float | None,
    domain: int | None,
    localhost: bool,
    as_json: bool,
) -> None:
    """Record until SIGINT, SIGTERM or the time is over; topics: None records all."""
    with needs_extra("dds"):
        from jepa_edge.bags.recorder import recorder
        from jepa_edge.dds.participant import DdsParticipant

    if duration_s is not None and not duration_s > 0.0:
        raise InputError(f"--duration is {duration_s}, expected seconds above 0")
    with (
        DdsParticipant(domain, localhost=localhost or None) as participant,
        recorder(out, participant, topics, storage=storage) as made,
    ):
        click.echo(f"recording in domain {participant.domain}; SIGINT ends it", err=True)
        with _interruptible() as interrupted:
            made.run(_over(duration_s, interrupted))
    told = made.account
    if told.failure is not None:
        raise RuntimeError(f"receiving failed; {out} holds what came before") from told.failure
    for topic, why in told.unreadable.items():
        click.echo(f"note: {topic} is not in the bag: {why}", err=True)
    if told.dropped:
        click.echo(f"note: {told.dropped} messages came faster than the disk took them", err=True)
    if as_json:
        print_json(
            {
                "out": str(out),
                "messages": dict(told.messages),
                "dropped": told.dropped,
                "left_out": told.unreadable,
            }
        )
        return
    counts = ", ".join(f"{topic} {count}" for topic, count in sorted(told.messages.items()))
    click.echo(f"{out}: {counts}")


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Have SIGINT set an event: an exception in the middle of a write would damage the bag."""
    interrupted = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _over(duration_s: float | None, interrupted: threading.Event) -> Callable[[], bool]:
    end_s = math.inf if duration_s is None else time.monotonic() + duration_s

    def over() -> bool:
        try:
            stop.check()
        except SystemExit:  # SIGTERM: the bag is finished, and that was what was asked for
            return True
        return interrupted.is_set() or time.monotonic() >= end_s

    return over
