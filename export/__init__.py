# SPDX-License-Identifier: Apache-2.0
"""Bench side: a checkpoint becomes a bundle. Needs `pip install jepa-edge[export]`."""

from jepa_edge.export.families import register_family as register_family
