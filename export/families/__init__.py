# SPDX-License-Identifier: Apache-2.0
"""Model families: each maps an upstream checkpoint onto our own torch module."""
