# SPDX-License-Identifier: Apache-2.0
"""Decodes MAVLink with pymavlink in a process of its own and prints the messages as JSON lines.

python mavlink_reader.py DESCRIPTOR SECONDS        the other end of a pty
python mavlink_reader.py udpin:HOST:PORT SECONDS   as pymavlink opens it
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import Any

from pymavlink import mavutil
from pymavlink.dialects.v20 import common


def from_descriptor(descriptor: int, end_s: float) -> Iterator[Any]:
    """Yield the messages; a byte that is no MAVLink raises."""
    parser = common.MAVLink(None)
    parser.robust_parsing = False
    while time.monotonic() < end_s:
        if select.select([descriptor], [], [], 0.05)[0]:
            try:
                data = os.read(descriptor, 4096)
            except OSError:
                time.sleep(0.01)
                continue
            yield from parser.parse_buffer(data) or []


def from_udp(connection: Any, end_s: float) -> Iterator[Any]:
    """Yield the messages of a socket that pymavlink itself opened."""
    while time.monotonic() < end_s:
        if (message := connection.recv_match(blocking=True, timeout=0.05)) is not None:
            yield message


def main() -> None:
    """Print every message."""
    where = sys.argv[1]
    end_s = time.monotonic() + float(sys.argv[2])
    if where.isdecimal():
        messages = from_descriptor(int(where), end_s)
    else:
        messages = from_udp(mavutil.mavlink_connection(where), end_s)
    print("ready", flush=True)
    for message in messages:
        told = {**message.to_dict(), "at_s": time.monotonic()}
        told |= {"system": message.get_srcSystem(), "component": message.get_srcComponent()}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
