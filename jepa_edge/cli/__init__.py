# SPDX-License-Identifier: Apache-2.0
"""The `jepa-edge` command: a thin face over the library, one module per verb, imported lazily."""

from jepa_edge.cli.app import main

__all__ = ["main"]
