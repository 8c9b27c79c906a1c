# SPDX-License-Identifier: Apache-2.0
"""The safety study: both example robots calibrated and evaluated by a protocol fixed before."""
