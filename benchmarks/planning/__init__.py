# SPDX-License-Identifier: Apache-2.0
"""The planning benchmark: one CEM iteration and one monitor step, in every runtime people use."""
