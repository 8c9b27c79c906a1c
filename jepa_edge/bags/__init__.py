# SPDX-License-Identifier: Apache-2.0
"""rosbag2 files: read, replayed to the same flags, turned into recordings, written from the wire.

Needs the extra `mcap`; needs no ROS.
"""
