# SPDX-License-Identifier: Apache-2.0
"""The recipe that trains the small world models of the examples; each example names its task."""
