# SPDX-License-Identifier: Apache-2.0
"""A ROS 2 peer that needs no ROS: cyclonedds carries the bytes, rosbags knows the types.

Needs the extra `dds`. docs/dds.md says what works with which other side.
"""
