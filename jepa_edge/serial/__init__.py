# SPDX-License-Identifier: Apache-2.0
"""Flags over a serial line: framed for microcontrollers, or as MAVLink for autopilots.

The layout of the frames is docs/serial.md; its decoder for microcontrollers is csrc/mcu. Needs the
extra `serial`, and `mavlink` for MAVLink. In here `import serial` is pyserial, as everywhere.
"""
