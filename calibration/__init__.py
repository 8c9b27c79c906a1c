# SPDX-License-Identifier: Apache-2.0
"""Bench side: recorded runs become a latent variable, thresholds and a report."""
