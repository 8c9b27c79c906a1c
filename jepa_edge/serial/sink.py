# SPDX-License-Identifier: Apache-2.0
"""Flags of a session over a serial line: `jepa-edge run --serial PORT`, and loops of your own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jepa_edge.manifest import calibration_name
from jepa_edge.monitor import Monitor
from jepa_edge.serial.config import LinkConfig, LinkFlag, LinkStatus
from jepa_edge.serial.link import SerialLink
from jepa_edge.session import Flag, Observation, Update
from jepa_edge.sinks import Sink
from jepa_edge.world_model import WorldModel


@contextmanager
def serial_sink(config: LinkConfig, status: LinkStatus | None = None) -> Iterator[Sink]:
    """Yield a sink that hands every flag to a link, which sends until the session ends.

    Raises InputError when no port can have that name, MissingDependencyError without the extra
    `serial`, or `mavlink` for that protocol.
    """
    with SerialLink(config, status=status) as link:

        def write(observation: Observation, update: Update) -> None:
            link.update(link_flag(update.flag), time_left_s(update.flag))

        yield write


def link_flag(flag: Flag) -> LinkFlag:
    """Return what is sent of a session's flag."""
    return LinkFlag(
        level=flag.level,
        reasons=flag.reason_bits,
        latched=flag.latched,
        confidence=flag.confidence,
        seq=flag.seq,
    )


def time_left_s(flag: Flag) -> float:
    """Return how long a flag that was just made is valid; its time runs from the frame's stamp."""
    return flag.valid_for_s - max(flag.input_age_s, 0.0) - flag.latency_s


def link_status(model: WorldModel, monitor: Monitor | None) -> LinkStatus:
    """Return what is sent of the model that judges."""
    manifest = model.manifest
    if monitor is None:
        return LinkStatus(
            variant=model.variant, model_sha256=manifest.variant_sha256(model.variant)
        )
    return LinkStatus(
        variant=model.variant,
        model_sha256=manifest.variant_sha256(model.variant),
        calibration_sha256=manifest.files.get(calibration_name(model.variant), ""),
        alpha=monitor.calibration.thresholds.caution_alpha,
        armed=monitor.armed,
    )
