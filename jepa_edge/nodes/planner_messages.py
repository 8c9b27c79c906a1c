# SPDX-License-Identifier: Apache-2.0
"""What the planner reads out of requests, and the plan as a message."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import InputError
from jepa_edge.goals import encode_goal
from jepa_edge.image_fit import fit_to
from jepa_edge.nodes.images import decode_image
from jepa_edge.nodes.messages import SECOND_NS, Make, time_ns
from jepa_edge.session_config import MAX_HORIZON
from jepa_edge.world_model import WorldModel

ARRAY = "std_msgs/msg/Float32MultiArray"
_DIMENSION = "std_msgs/msg/MultiArrayDimension"


def read_goal(model: WorldModel, image: Any, latent: Any, fit: str) -> NDArray[np.float32]:
    """Return the goal of a request: (N, D) float32.

    image: sensor_msgs/Image, latent: N x D numbers; one of them is empty. fit: how an image of
    another size is fitted. A picture has no state of the robot; `goals.goal_state` says what stands
    for it. Raises InputError for neither, both, or one that cannot be a goal.
    """
    spec, observation = model.manifest.latent, model.manifest.observation
    numbers = np.array(latent, np.float32)
    pictured = bool(len(image.data) or image.height or image.width)
    if pictured == bool(numbers.size):
        given = "both" if pictured else "neither"
        raise InputError(f"got {given} of goal_image and goal_latent, expected one of them")
    if not pictured:
        if numbers.size != spec.size or not np.isfinite(numbers).all():
            raise InputError(
                f"goal_latent holds {numbers.size} numbers, expected {spec.tokens} x {spec.dim} "
                "finite ones"
            )
        return numbers.reshape(spec.tokens, spec.dim)
    pixels, order = decode_image(image)
    if pixels.dtype != np.uint8:
        raise InputError(f"goal_image is {image.encoding}, expected 8 bits per channel")
    fitted = fit_to(observation, pixels.view(np.uint8), fit)
    if order != observation.color:
        fitted = fitted[..., ::-1]
    return encode_goal(model, np.ascontiguousarray(fitted))


def read_deadline_s(deadline: Any) -> float | None:
    """Return a Duration in seconds, None for zero. Raises InputError when it is negative."""
    nanoseconds = time_ns(deadline)
    if nanoseconds < 0:
        raise InputError(
            f"deadline is {nanoseconds / SECOND_NS:g} s, expected a time for one search, or 0 for "
            "as long as it takes"
        )
    return nanoseconds / SECOND_NS or None


def read_candidates(request: Any, width: int, most: int, steps: int) -> NDArray[np.float32]:
    """Return the action sequences of a ScoreActions request: (S, H, A) float32, raw units.

    width: A. most: S at most. steps: S x H at most. Raises InputError for anything else.
    """
    candidates, horizon = int(request.candidates), int(request.horizon)
    if not (1 <= candidates <= most and 1 <= horizon <= MAX_HORIZON):
        raise InputError(
            f"got {candidates} candidates of {horizon} steps, expected 1 to {most} "
            f"(max_candidates) of 1 to {MAX_HORIZON}"
        )
    if candidates * horizon > steps:
        raise InputError(
            f"got {candidates} candidates of {horizon} steps, expected {steps} steps in all at "
            "most (max_candidates x horizon); ask in several calls"
        )
    actions = np.array(request.actions, np.float32)
    if actions.size != candidates * horizon * width or not np.isfinite(actions).all():
        raise InputError(
            f"actions holds {actions.size} numbers, expected {candidates} x {horizon} x {width} "
            "finite ones: candidates x horizon x action_dim"
        )
    return actions.reshape(candidates, horizon, width)


def plan_message(make: Make, actions: NDArray[np.float32]) -> Any:
    """Return the plan (H, A) as Float32MultiArray, with its dimensions."""
    horizon, width = actions.shape
    dimensions = [
        make(_DIMENSION, label="horizon", size=horizon, stride=horizon * width),
        make(_DIMENSION, label="action", size=width, stride=width),
    ]
    layout = make("std_msgs/msg/MultiArrayLayout", dim=dimensions)
    return make(ARRAY, layout=layout, data=flat(actions))


def flat(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return numbers as a float32[] field holds them."""
    return np.ascontiguousarray(values, np.float32).reshape(-1)
