# SPDX-License-Identifier: Apache-2.0
"""Ports that never wait: devices, sockets and loops through pyserial, UDP through pymavlink."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import struct
import termios
import time
from collections.abc import Iterator
from typing import Any, Protocol

from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.serial.config import LinkConfig
from jepa_edge.serial.mavlink import pymavlink

_SIOCOUTQNSD = 0x894B
"""Linux: bytes of a socket that have not been sent yet."""
_LAST_WORDS_S = 0.1
_FIRST_PAUSE_S = 0.1


class Port(Protocol):
    """An open port. Every method returns at once, and raises OSError when the line is gone."""

    def write(self, data: bytes) -> bool:
        """Hand bytes over; False when not all of them fitted."""

    def read(self) -> bytes:
        """Return what came, or nothing."""

    def waiting(self) -> int:
        """How many bytes handed over have not left yet, as far as can be known."""

    def discard(self) -> None:
        """Throw away what has not left yet; raises OSError where only closing does that."""

    def close(self) -> None:
        """Close it."""


def check_port(config: LinkConfig) -> None:
    """Raise InputError when no port could ever be opened by that name and baud rate.

    Raises MissingDependencyError without pyserial, or without pymavlink for UDP.
    """
    if config.is_udp:
        pymavlink("mavutil")
        host, _, number = config.port.split(":", 1)[1].rpartition(":")
        if not host or ":" in host or not (number.isdecimal() and int(number) < 65536):
            raise InputError(f"port is {config.port!r}, expected such as udpout:127.0.0.1:14550")
        return
    try:
        _serial().serial_for_url(config.port, baudrate=config.baud, do_not_open=True)
    except ValueError as error:
        raise InputError(
            f"port is {config.port!r}: {error}; expected a device such as /dev/ttyACM0, "
            "socket://host:port or loop://"
        ) from error


def why(error: OSError) -> str:
    """Return an error in words, without the number that pyserial says twice."""
    return error.strerror or str(error)


def pauses_s(longest_s: float) -> Iterator[float]:
    """Yield how long to wait between two attempts to open a port: 0.1 s, then doubled."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield min(pause_s, longest_s)
        pause_s = min(2.0 * pause_s, longest_s)


def open_port(config: LinkConfig) -> Port:
    """Open the port, for this process alone if it is a device. Raises OSError when it cannot."""
    if config.is_udp:
        return _UdpPort(config)
    # exclusive: two writers would cut each other's frames to pieces.
    alone = {"exclusive": True} if config.is_device else {}
    try:
        opened = _serial().serial_for_url(
            config.port, baudrate=config.baud, timeout=0, write_timeout=0.1, **alone
        )
    except (ValueError, termios.error) as error:  # a baud rate that this device cannot do
        raise OSError(errno.EINVAL, f"{config.port} at {config.baud} baud: {error}") from error
    try:
        descriptor = opened.fileno()
    except OSError:  # io.UnsupportedOperation: loop://, rfc2217://
        return _ForeignPort(opened)
    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return _SocketPort(opened, descriptor)
    return _DescriptorPort(opened, descriptor)


class _DescriptorPort:
    """A device. pyserial opens it; its write would spin while nothing fits, so bytes go to the
    descriptor itself, which pyserial has made non-blocking."""

    WAITING = termios.TIOCOUTQ

    def __init__(self, opened: Any, descriptor: int) -> None:
        self._opened = opened
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        _open.add(self)

    def write(self, data: bytes) -> bool:
        try:
            return os.write(self._descriptor, data) == len(data)
        except BlockingIOError:
            return False

    def read(self) -> bytes:
        events = dict(self._poll.poll(0)).get(self._descriptor, 0)
        if events & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
            raise OSError(errno.EIO, "the other end hung up")
        if not events:
            return b""
        data = os.read(self._descriptor, 4096)
        if not data:
            raise OSError(errno.EIO, "the other end closed the line")
        return data

    def waiting(self) -> int:
        answer = fcntl.ioctl(self._descriptor, self.WAITING, b"\0\0\0\0")
        count: int = struct.unpack("i", answer)[0]
        return count

    def discard(self) -> None:
        try:
            termios.tcflush(self._descriptor, termios.TCOFLUSH)
        except termios.error as error:  # not an OSError
            raise OSError(*error.args) from error

    def close(self) -> None:
        # The kernel would wait half a minute for a reader that does not read.
        with contextlib.suppress(OSError):
            give_up_s = time.monotonic() + _LAST_WORDS_S
            while self.waiting() and time.monotonic() < give_up_s:
                time.sleep(0.005)
            if self.waiting():
                self.discard()
        self.leave()

    def leave(self) -> None:
        """Close it in this process, whatever waits."""
        _open.discard(self)
        self._opened.close()


class _SocketPort(_DescriptorPort):
    """A TCP connection."""

    WAITING = _SIOCOUTQNSD

    def __init__(self, opened: Any, descriptor: int) -> None:
        super().__init__(opened, descriptor)
        self._set(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a frame does not wait for the next

    def discard(self) -> None:
        # What waits in a connection goes with it: reset, not shut down in good order.
        self._set(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise OSError(errno.EPIPE, "the reader does not read; closing to drop what waits")

    def close(self) -> None:
        self.leave()

    def leave(self) -> None:
        _open.discard(self)
        # pyserial's own close leaves a connection open that the other end has closed already, and
        # in a child it ends that of the parent.
        self._opened._socket.close()
        self._opened.is_open = False

    def _set(self, level: int, name: int, value: int | bytes) -> None:
        with socket.socket(fileno=os.dup(self._descriptor)) as same:
            same.setsockopt(level, name, value)


_open: set[_DescriptorPort] = set()


def _leave_to_the_parent() -> None:
    """A forked child would hold the device and its lock for as long as it lives."""
    for port in list(_open):
        with contextlib.suppress(OSError):
            port.leave()


os.register_at_fork(after_in_child=_leave_to_the_parent)


class _ForeignPort:
    """What pyserial does without a descriptor."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def write(self, data: bytes) -> bool:
        return bool(self._opened.write(data) == len(data))

    def read(self) -> bytes:
        data: bytes = self._opened.read(self._opened.in_waiting)
        return data

    def waiting(self) -> int:
        return 0

    def discard(self) -> None:
        self._opened.reset_output_buffer()

    def close(self) -> None:
        self._opened.close()


class _UdpPort:
    """Datagrams, which are sent or lost, never queued for a reader."""

    def __init__(self, config: LinkConfig) -> None:
        self._connection = pymavlink("mavutil").mavlink_connection(config.port)

    def write(self, data: bytes) -> bool:
        self._connection.write(data)
        return True

    def read(self) -> bytes:
        return bytes(self._connection.recv() or b"")

    def waiting(self) -> int:
        return 0

    def discard(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self._connection.close()


def _serial() -> Any:
    try:
        import serial
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "the serial line needs the package pyserial; install it with `pip install "
            "'jepa-edge[serial]'`"
        ) from error
    return serial
