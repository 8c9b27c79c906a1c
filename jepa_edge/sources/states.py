# SPDX-License-Identifier: Apache-2.0
"""Sources that know nothing of the robot's own state."""

from __future__ import annotations

from jepa_edge.errors import InputError
from jepa_edge.manifest import Manifest


def no_state(manifest: Manifest, source: str) -> None:
    """Raise InputError when the model takes the robot's own state, which this source cannot give.

    source: what it is, such as "x.mp4 is a video". All flags of such a stream would be UNKNOWN.
    """
    wanted = manifest.state
    if wanted is None:
        return
    named = f" ({', '.join(wanted.names)})" if wanted.names else ""
    raise InputError(
        f"{source}, which holds no state of the robot; the model takes {wanted.dim} numbers of "
        f"it{named} with every frame: give a recording with robot_state, or run the node with "
        "state_type and state_fields"
    )
