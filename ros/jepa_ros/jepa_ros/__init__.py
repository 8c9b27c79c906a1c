# SPDX-License-Identifier: Apache-2.0
"""The nodes of jepa_edge.nodes on rclpy: what carries their messages, and nothing else."""
