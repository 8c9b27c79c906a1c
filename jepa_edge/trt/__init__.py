# SPDX-License-Identifier: Apache-2.0
"""TensorRT: engines built from a bundle on the machine that runs them, checked, and kept beside it.

Source of what the library does: https://docs.nvidia.com/deeplearning/tensorrt/latest
"""
