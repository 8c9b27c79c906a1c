# SPDX-License-Identifier: Apache-2.0
"""Reads a line in a process of its own, damages what came, and decodes what is left.

    python noisy_reader.py DESCRIPTOR SECONDS SHARE SEED [SCRIPT]

DESCRIPTOR: the other end of the link's pty, read until the link closes it, for SECONDS at most.
SHARE of the bytes is lost or replaced by another. For every frame it is known which of its bytes
were hit, so it is known what had to be accepted. Prints one JSON object. SCRIPT: a file for
csrc/mcu/tests/host.c, with what this decoder was given.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import sys
import time

from jepa_edge.serial.frames import Frame, Refusal, decode
from jepa_edge.serial.receiver import Receiver


class Line:
    """The bytes as they were sent, one by one, and whether each came through."""

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._rng = random.Random(seed)
        self.sent = bytearray()
        self.whole: list[bool] = []

    def damage(self, data: bytes) -> bytes:
        """Return what is left of the bytes."""
        left = bytearray()
        for byte in data:
            hit = self._rng.random() < self._share
            self.sent.append(byte)
            self.whole.append(not hit)
            if not hit:
                left.append(byte)
            elif self._rng.random() < 0.5:
                left.append((byte + self._rng.randrange(1, 256)) % 256)
        return bytes(left)

    def frames(self) -> tuple[list[Frame], list[Frame]]:
        """Return the frames that were sent, and those of them that no damage hit.

        A frame reaches from its delimiter on the left to that on the right.
        """
        sent, intact = [], []
        start = 0
        while (end := self.sent.find(0, start + 1)) > 0:
            piece = bytes(self.sent[start + 1 : end])
            if piece and self.sent[start] == 0:
                frame = decode(piece)
                assert not isinstance(frame, Refusal), "the link sent what is no frame"
                sent.append(frame)
                if all(self.whole[start : end + 1]):
                    intact.append(frame)
            start = end
        return sent, intact


def main() -> None:
    """Read until the time is over."""
    descriptor, seconds = int(sys.argv[1]), float(sys.argv[2])
    line = Line(float(sys.argv[3]), int(sys.argv[4]))
    receiver = Receiver()
    accepted: list[Frame] = []
    with contextlib.ExitStack() as stack:
        script = stack.enter_context(open(sys.argv[5], "w")) if len(sys.argv) > 5 else None  # noqa: PTH123
        print("ready", flush=True)
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            if not select.select([descriptor], [], [], 0.1)[0]:
                continue
            try:
                data = line.damage(os.read(descriptor, 4096))
            except OSError:  # the link has closed its end, or not opened it yet
                if line.sent:
                    break
                time.sleep(0.01)
                continue
            now_ms = int(1e3 * time.monotonic()) % 2**32
            accepted += [reception.frame for reception in receiver.push(data, now_ms)]
            if script is not None:
                script.write(f"{now_ms} {data.hex()}\n")
    sent, intact = line.frames()
    # A damaged frame that was accepted all the same must be one that was sent, such as when its
    # delimiter was lost but the neighbour's stood in for it.
    numbers = [frame.seq for frame in accepted]
    by_seq = {frame.seq: repr(frame) for frame in sent}
    wrong = [frame for frame in accepted if by_seq.get(frame.seq) != repr(frame)]
    print(
        json.dumps(
            {
                "bytes": len(line.sent),
                "bytes_damaged": line.whole.count(False),
                "frames_sent": len(sent),
                "frames_intact": len(intact),
                "frames_accepted": len(accepted),
                "wrong_frames_accepted": len(wrong),
                "intact_frames_refused": len({f.seq for f in intact} - set(numbers)),
                "in_order": numbers == sorted(set(numbers)),
                "refused_as_corrupt": receiver.counts.corrupt,
                "counted_as_lost": receiver.counts.lost,
            }
        )
    )


if __name__ == "__main__":
    main()
