# SPDX-License-Identifier: Apache-2.0
"""The parameters of the world model node, and what they mean together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jepa_edge.change_gate import KEEPALIVE_S
from jepa_edge.errors import InputError
from jepa_edge.flags import Level
from jepa_edge.image_fit import FITS, MODEL_FIT
from jepa_edge.nodes.bundle_loading import ENGINES, PROVIDER
from jepa_edge.nodes.fields import ACTION_TYPES, ARRAY, STATE_TYPES
from jepa_edge.nodes.inputs import InputOptions
from jepa_edge.nodes.parameters import Parameter, Value
from jepa_edge.nodes.qos import PROFILES, Qos, qos_profile
from jepa_edge.session_config import MAX_HORIZON, SessionConfig

_QOS = tuple(PROFILES)
_LATCHES = ("none", "caution", "reject")

PARAMETERS: tuple[Parameter, ...] = (
    Parameter(name="bundle", default="", description="Path of the bundle, NAME.jepa."),
    Parameter(
        name="variant",
        default="auto",
        description="Variant to run; auto takes the fastest that is calibrated.",
    ),
    PROVIDER,
    ENGINES,
    Parameter(
        name="threads", default=1, low=1, high=256, description="Threads of the inference runtime."
    ),
    Parameter(
        name="state_dir",
        default="",
        description="Where `jepa-edge selftest` left its result; empty for the user's own "
        "directory.",
    ),
    Parameter(
        name="require_signature",
        default="",
        description="Path of a public key, PEM: refuse a bundle that it did not sign.",
    ),
    Parameter(
        name="uncalibrated",
        default=False,
        description="Run without a calibration; every flag is UNKNOWN then.",
    ),
    Parameter(
        name="frame_id",
        default="",
        description="Frame of all that is published; empty for the image's own.",
    ),
    Parameter(
        name="image_fit",
        default=MODEL_FIT,
        choices=FITS,
        description="What to do with an image of another size than the model's: what the bundle "
        "says (exact if it says nothing), that with images of the model's size too, refuse it, "
        "crop the middle and scale that, or stretch.",
    ),
    Parameter(
        name="action_type",
        default=ARRAY,
        choices=ACTION_TYPES,
        description="Type of topic action.",
    ),
    Parameter(
        name="action_fields",
        default=(),
        description="Numbers of an action message that make up a step or a block, in order, e.g. "
        "linear.x, angular.z, position[0], position[elbow]; empty for all of a Float32MultiArray.",
    ),
    Parameter(
        name="action_timeout_s",
        default=0.0,
        low=0.0,
        high=60.0,
        description="Longest that an action is held beyond its own time; 0 for half a period of "
        "the model where messages hold whole blocks, else one period. A trajectory is held until "
        "the next.",
    ),
    Parameter(
        name="state_type",
        default="",
        choices=("", *STATE_TYPES),
        description="Type of topic state; empty for none.",
    ),
    Parameter(
        name="state_fields",
        default=(),
        description="Numbers of a state message, as in action_fields.",
    ),
    Parameter(
        name="sync_slop_s",
        default=0.05,
        low=0.0,
        high=10.0,
        description="How far from the image in time a state may be to go with it.",
    ),
    Parameter(
        name="sync_wait_s",
        default=0.0,
        low=0.0,
        high=1.0,
        description="How long an image waits for a state at least as new.",
    ),
    Parameter(
        name="input_qos",
        default="BEST_EFFORT",
        choices=_QOS,
        description="Quality of service of topic image.",
    ),
    Parameter(
        name="input_qos_depth",
        default=0,
        low=0,
        high=1000,
        description="Depth of its queue; 0 for the profile's own.",
    ),
    Parameter(
        name="action_qos",
        default="BEST_EFFORT",
        choices=_QOS,
        description="Quality of service of topics action, state and planned_actions; a reliable "
        "one hears reliable publishers only.",
    ),
    Parameter(
        name="action_qos_depth",
        default=20,
        low=0,
        high=1000,
        description="Depth of their queues; 0 for the profile's own.",
    ),
    Parameter(
        name="output_qos",
        default="RELIABLE",
        choices=_QOS,
        description="Quality of service of embedding, prediction and markers. The flag is always "
        "reliable, depth 1, with a deadline.",
    ),
    Parameter(
        name="output_qos_depth",
        default=0,
        low=0,
        high=1000,
        description="Depth of their queues; 0 for the profile's own.",
    ),
    Parameter(
        name="max_age_s",
        default=0.0,
        low=0.0,
        high=60.0,
        description="Older input is stale, and a flag is valid for that long; 0 for 2 periods "
        "of the model. A model that takes longer than its own period for a frame never becomes "
        "NOMINAL, whatever this is: take a faster variant.",
    ),
    Parameter(
        name="min_gap_periods",
        default=SessionConfig().min_gap_periods,
        low=0.0,
        high=0.99,
        description="Frames nearer together are a clock jump, in periods of the model.",
    ),
    Parameter(
        name="max_gap_periods",
        default=SessionConfig().max_gap_periods,
        low=1.01,
        high=1000.0,
        description="Frames farther apart are a clock jump, in periods of the model.",
    ),
    Parameter(
        name="max_latency_s",
        default=0.0,
        low=0.0,
        high=3600.0,
        description="Three steps in a row that take longer are an overload; 0 for one period.",
    ),
    Parameter(
        name="fall_after",
        default=SessionConfig().fall_after,
        low=1,
        high=10_000,
        description="Calmer frames in a row that lower the level.",
    ),
    Parameter(
        name="latch",
        default="reject",
        choices=_LATCHES,
        description="Lowest level that stays until service jepa/reset_latch.",
    ),
    Parameter(
        name="domain_tolerance",
        default=SessionConfig().domain_tolerance,
        low=0.0,
        high=1.0,
        description="How far outside the calibrated actions and rate is still inside, as a share.",
    ),
    Parameter(
        name="horizon",
        default=SessionConfig().horizon,
        low=1,
        high=MAX_HORIZON,
        description="Steps predicted per frame.",
    ),
    Parameter(
        name="samples",
        default=SessionConfig().samples,
        low=0,
        high=4096,
        description="Futures sampled per frame, 2 or more; 0 switches them off.",
    ),
    Parameter(
        name="seed", default=0, low=0, high=2**63 - 1, description="Seed of the sampled futures."
    ),
    Parameter(name="publish_embedding", default=True, description="Publish topic jepa/embedding."),
    Parameter(
        name="publish_prediction", default=True, description="Publish topic jepa/prediction."
    ),
    Parameter(
        name="on_change",
        default=0.0,
        low=0.0,
        high=1.4,
        description="Publish embedding and prediction only when the latent has moved this far "
        "since they last went out, e.g. 0.1, and labels when the text embedding has; 1 is another "
        "scene. 0 publishes them always: leave it there where a planner node runs, which plans "
        "from fresh embeddings. Flags always go out.",
    ),
    Parameter(
        name="on_change_keepalive_s",
        default=KEEPALIVE_S,
        low=0.01,
        high=3600.0,
        description="With on_change: publish them at least that often.",
    ),
    Parameter(
        name="labels",
        default=3,
        low=0,
        high=100,
        description="Labels per message on topic jepa/labels, of a bundle with a text head; 0 for "
        "no such topic.",
    ),
    Parameter(
        name="publish_markers",
        default=False,
        description="Publish topic jepa/markers for rviz and Foxglove.",
    ),
    Parameter(
        name="watchdog_period_s",
        default=0.01,
        low=0.01,
        high=1.0,
        description="How often the watchdog looks whether the last flag's time is over; the flag "
        "that says so is late by that much at most.",
    ),
    Parameter(
        name="max_allowed_processing_time_ms",
        default=0.0,
        low=0.0,
        high=3.6e6,
        description="Diagnostics warn when a frame takes longer; 0 for one period of the model.",
    ),
    Parameter(
        name="max_acceptable_consecutive_delay_ms",
        default=1000.0,
        low=0.0,
        high=3.6e6,
        description="Diagnostics show an error when frames have taken longer for that long.",
    ),
    Parameter(
        name="diagnostics_period_s",
        default=1.0,
        low=0.05,
        high=60.0,
        description="How often /diagnostics is published.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The parameters, put together. Times in seconds; 0 stands for the default."""

    session: SessionConfig
    inputs: InputOptions
    image_qos: Qos
    action_qos: Qos
    output_qos: Qos
    values: Mapping[str, Any]

    @classmethod
    def of(cls, values: Mapping[str, Value]) -> Settings:
        """Raises InputError when the parameters do not go together."""
        taken: dict[str, Any] = dict(values)
        if not taken["bundle"]:
            raise InputError("parameter bundle is empty, expected the path of a bundle, NAME.jepa")
        latch = str(taken["latch"])
        futures = taken["publish_prediction"] or taken["publish_markers"]
        return cls(
            session=SessionConfig(
                max_age_s=taken["max_age_s"] or None,
                min_gap_periods=taken["min_gap_periods"],
                max_gap_periods=taken["max_gap_periods"],
                max_latency_s=taken["max_latency_s"] or None,
                fall_after=taken["fall_after"],
                latch=None if latch == "none" else Level[latch.upper()],
                domain_tolerance=taken["domain_tolerance"],
                horizon=taken["horizon"],
                samples=taken["samples"] if futures else 0,
                seed=taken["seed"],
            ),
            inputs=InputOptions(
                action_type=taken["action_type"],
                action_fields=tuple(taken["action_fields"]),
                action_timeout_s=taken["action_timeout_s"],
                state_type=taken["state_type"],
                state_fields=tuple(taken["state_fields"]),
                sync_slop_s=taken["sync_slop_s"],
                image_fit=taken["image_fit"],
                min_gap_periods=taken["min_gap_periods"],
                max_gap_periods=taken["max_gap_periods"],
                max_age_s=taken["max_age_s"],
            ),
            image_qos=qos_profile(taken["input_qos"], taken["input_qos_depth"]),
            action_qos=qos_profile(taken["action_qos"], taken["action_qos_depth"]),
            output_qos=qos_profile(taken["output_qos"], taken["output_qos_depth"]),
            values=taken,
        )
