# SPDX-License-Identifier: Apache-2.0
"""Peers on the loopback interface; each test has a DDS domain of its own kind (40 to 49)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jepa_edge.dds.backend import DdsBackend
from jepa_edge.dds.participant import DdsParticipant

NodeMaker = Callable[..., DdsBackend]


@pytest.fixture
def participant() -> Iterator[DdsParticipant]:
    with DdsParticipant(40, localhost=True) as made:
        yield made


@pytest.fixture
def node(participant: DdsParticipant) -> Iterator[NodeMaker]:
    """Make nodes of one participant; they are closed after the test, and none had a defect."""
    made: list[DdsBackend] = []

    def maker(name: str, **options: Any) -> DdsBackend:
        made.append(DdsBackend(participant, name, **options))
        return made[-1]

    yield maker
    for backend in reversed(made):
        backend.close()
    for backend in made:
        assert backend.failure is None


@pytest.fixture
def peer_node() -> Iterator[NodeMaker]:
    """As `node`, but every node is a participant of its own, as another process would be."""
    made: list[DdsBackend] = []

    def maker(name: str, **options: Any) -> DdsBackend:
        made.append(DdsBackend(DdsParticipant(40, localhost=True), name, **options))
        return made[-1]

    yield maker
    for backend in reversed(made):
        backend.close()
        backend.participant.close()
    for backend in made:
        assert backend.failure is None


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait until something holds; fail when it does not within the time."""

    def wait(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, "it did not come true in time"
            time.sleep(0.005)

    return wait
