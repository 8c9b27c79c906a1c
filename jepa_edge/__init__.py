# SPDX-License-Identifier: Apache-2.0
"""Run a JEPA world model on a robot: encode, predict, and say how far to trust it."""

from jepa_edge.version import __version__

__all__ = ["__version__"]
