# SPDX-License-Identifier: Apache-2.0
"""The nodes, written once: what they do lies here, what carries their messages is a backend."""
