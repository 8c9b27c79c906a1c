# SPDX-License-Identifier: Apache-2.0
"""A picture of the goal as the latent that plans are held against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.manifest import Manifest
from jepa_edge.world_model import WorldModel


def encode_goal(
    model: WorldModel, frame: NDArray[np.uint8], state: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Encode a goal: (N, D) float32, for `Planner.plan`, `goal_energy` or `energy_landscape`.

    frame: (H, W, 3) uint8, of the model's size and channel order. state: (S,) float32, the robot's
    own at the goal, where the model takes one and it is known; see `goal_state`.
    Raises InputError on another shape, a state that is missing or that the model has no use for, or
    a latent that is not finite.
    """
    given = goal_state(model.manifest, state)
    latent = model.encode(frame[None], None if given is None else given[None])[0]
    if not np.isfinite(latent).all():
        raise InputError("the model's latent of the goal is not finite; give another picture")
    return np.asarray(latent, np.float32)


def goal_state(manifest: Manifest, state: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """Return what stands for the robot's state in a goal: (S,) float32, None in a model without.

    Zeros stand in for one that is not known, as that of a picture. That is right where energies
    leave the state out, and only there: an encoder keeps the state to the tokens and channels
    behind those that are compared (`LatentSpec.compared`), and these come from the picture alone.
    Raises InputError when the state is missing and energies see it, or has another shape.
    """
    if manifest.state is None:
        if state is not None:
            raise InputError(
                f"got a state of {state.shape} for the goal, and this model takes none"
            )
        return None
    dim, latent = manifest.state.dim, manifest.latent
    if state is None:
        if latent.compared == (latent.tokens, latent.dim):
            raise InputError(
                f"the goal has no state, and this model's energies compare it too; give the {dim} "
                "numbers, with --goal NUMBER those of a frame of the source"
            )
        return np.zeros(dim, np.float32)
    if state.shape != (dim,) or not np.isfinite(state).all():
        raise InputError(f"the goal's state has shape {state.shape}, expected ({dim},) finite ones")
    return np.asarray(state, np.float32)
