# SPDX-License-Identifier: Apache-2.0
"""Where flags go: JSON lines, MCAP, a terminal. A sink is called with every step of a session."""

from __future__ import annotations

from collections.abc import Callable

from jepa_edge.session import Observation, Update

Sink = Callable[[Observation, Update], None]
