# SPDX-License-Identifier: Apache-2.0
"""The safety study: calibration and evaluation of both example robots, protocol fixed beforehand."""
