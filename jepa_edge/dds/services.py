# SPDX-License-Identifier: Apache-2.0
"""Services as rmw_cyclonedds speaks them: a request header before the CDR body, replies on a topic
of their own. Other RMWs put that header elsewhere, so services work with rmw_cyclonedds only.

Source: rmw_cyclonedds: cdds_request_header_t, rmw_send_response, check_for_service_reader_writer.
"""

from __future__ import annotations

import itertools
import logging
import struct
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jepa_edge.dds import names
from jepa_edge.dds.clib import Sample
from jepa_edge.dds.dispatcher import Registration
from jepa_edge.dds.inbox import Inbox
from jepa_edge.dds.participant import DdsParticipant
from jepa_edge.errors import InputError
from jepa_edge.nodes.qos import Qos

if TYPE_CHECKING:
    from jepa_edge.dds.backend import DdsBackend

logger = logging.getLogger(__name__)

SERVICE_QOS = Qos(reliable=True, depth=10)
PARAMETERS_QOS = Qos(reliable=True, depth=1000)

_CDR_HEADER, _REQUEST_HEADER = 4, 16
# A client may send before our reply writer has found its reply reader.
_READER_WAIT_S, _READER_POLL_S = 1.0, 0.005
# A server that a client sees has not always seen the client; what is sent before that is lost.
_SETTLE_S = 0.05
_identifiers = itertools.count(1)

Reply = Callable[[Any], None]


def _identifier(participant: DdsParticipant) -> str:
    """Return what tells one client or service from all others: 16 bytes, dotted hex."""
    number = next(_identifiers).to_bytes(4, "big")
    return ".".join(f"{byte:x}" for byte in participant.gid[:12] + number)


def split_request(payload: memoryview) -> tuple[int, int, bytes]:
    """Return (client, sequence number, CDR of the message alone). Raises InputError if short."""
    if len(payload) < _CDR_HEADER + _REQUEST_HEADER:
        raise InputError(f"{len(payload)} bytes hold no request header as of rmw_cyclonedds")
    order = "<" if payload[1] & 1 else ">"
    client, sequence = struct.unpack_from(order + "Qq", payload, _CDR_HEADER)
    body = bytes(payload[:_CDR_HEADER]) + bytes(payload[_CDR_HEADER + _REQUEST_HEADER :])
    return client, sequence, body


def join_request(client: int, sequence: int, cdr: memoryview) -> tuple[bytes, memoryview]:
    """Return the pieces that make a request or reply on the wire."""
    header = bytes(cdr[:_CDR_HEADER]) + struct.pack(
        ("<" if cdr[1] & 1 else ">") + "Qq", client, sequence
    )
    return header, cdr[_CDR_HEADER:]


class ServiceServer:
    """Answers requests; on_request(request, reply) may call reply later, from any thread."""

    def __init__(
        self,
        backend: DdsBackend,
        name: str,
        type_name: str,
        on_request: Callable[[Any, Reply], None],
        qos: Qos = SERVICE_QOS,
    ) -> None:
        self._backend = backend
        self._name = absolute = backend.names.resolve(name)
        self._on_request = on_request
        participant, node, asked = backend.participant, backend.name, f"{type_name}_Request"
        extra = f"serviceid={_identifier(participant)};"
        self._writer = participant.writer(
            node, names.reply_name(absolute), f"{type_name}_Response", qos, extra=extra
        )
        self._reader = participant.reader(
            node, names.request_name(absolute), asked, qos, extra=extra
        )
        self._inbox = Inbox(participant, self._reader, asked, f"{absolute}: a request")
        self._registration = backend.dispatcher.on_sample(self._reader, self._on_sample)

    def close(self) -> None:
        """Stop answering; no request is taken up after this returns."""
        self._registration.close()
        self._writer.close()
        self._backend.forget(self, self._reader.gid, self._writer.gid)

    def _on_sample(self, sample: Sample) -> None:
        try:
            client, sequence, body = split_request(sample.payload)
        except InputError as error:
            self._inbox.drop(error)
            return
        request = self._inbox.read(sample.publication, body)
        if request is None:
            return

        def reply(response: Any) -> None:
            cdr = self._backend.participant.serialize(response)
            self._send(join_request(client, sequence, cdr), sample.publication, time.monotonic())

        self._on_request(request, reply)

    def _send(self, pieces: tuple[bytes, memoryview], publication: int, since_s: float) -> None:
        asked = self._reader.writer_user_data(publication)
        if asked is None:
            return  # the client is gone
        wanted = asked.get("clientid")
        here = wanted is None or any(
            data.get("clientid") == wanted for data in self._writer.readers_user_data()
        )
        if here:
            self._writer.write(*pieces)
        elif time.monotonic() < since_s + _READER_WAIT_S:
            later: list[Registration] = []

            def again() -> None:
                later[0].close()
                self._send(pieces, publication, since_s)

            later.append(self._backend.dispatcher.timer(_READER_POLL_S, again))
        else:
            logger.warning("%s: the client that asked listens to no reply", self._name)


class ServiceClient:
    """Asks a service and waits for the answer, in the caller's thread."""

    def __init__(
        self, backend: DdsBackend, name: str, type_name: str, qos: Qos = SERVICE_QOS
    ) -> None:
        self._backend = backend
        self._name = absolute = backend.names.resolve(name)
        participant, node, answered = backend.participant, backend.name, f"{type_name}_Response"
        extra = f"clientid={_identifier(participant)};"
        self._reader = participant.reader(
            node, names.reply_name(absolute), answered, qos, extra=extra
        )
        self._writer = participant.writer(
            node, names.request_name(absolute), f"{type_name}_Request", qos, extra=extra
        )
        self._inbox = Inbox(participant, self._reader, answered, f"{absolute}: an answer")
        self._client = self._writer.instance
        self._numbers = itertools.count(1)
        self._answers: dict[int, Any] = {}  # by the numbers that are waited for; None as yet
        self._known = False
        self._arrived = threading.Condition()
        self._registration = backend.dispatcher.on_sample(self._reader, self._on_sample)

    def wait(self, timeout_s: float) -> None:
        """Wait until a server is there. Raises InputError when none comes in time."""
        end_s = time.monotonic() + timeout_s
        while not self._server_is_there():
            if time.monotonic() > end_s:
                raise InputError(
                    f"no server of {self._name} after {timeout_s:g} s; is its node running, in "
                    f"domain {self._backend.participant.domain}, with rmw_cyclonedds?"
                )
            time.sleep(0.005)
            self._known = False
        if not self._known:
            time.sleep(_SETTLE_S)
            self._known = True

    def call(self, request: Any, timeout_s: float = 5.0) -> Any:
        """Return the response. Raises InputError when none comes in time.

        Not to be called from a callback of the same node: the answer arrives there.
        """
        end_s = time.monotonic() + timeout_s
        self.wait(timeout_s)
        sequence = next(self._numbers)
        cdr = self._backend.participant.serialize(request)
        with self._arrived:
            self._answers[sequence] = None
        try:
            self._writer.write(*join_request(self._client, sequence, cdr))
            with self._arrived:
                while self._answers[sequence] is None:
                    if not self._arrived.wait(max(0.0, end_s - time.monotonic())):
                        raise InputError(f"{self._name} gave no answer within {timeout_s:g} s")
                return self._answers[sequence]
        finally:
            with self._arrived:
                del self._answers[sequence]

    def close(self) -> None:
        """Stop listening; twice does no harm."""
        self._registration.close()
        self._writer.close()
        self._backend.forget(self, self._reader.gid, self._writer.gid)

    def _server_is_there(self) -> bool:
        readers = {data.get("serviceid") for data in self._writer.readers_user_data()}
        return any(data.get("serviceid") in readers for data in self._reader.writers_user_data())

    def _on_sample(self, sample: Sample) -> None:
        try:
            client, sequence, body = split_request(sample.payload)
        except InputError as error:
            self._inbox.drop(error)
            return
        if client != self._client:
            return  # all clients of a service get all its replies
        answer = self._inbox.read(sample.publication, body)
        with self._arrived:
            if answer is not None and sequence in self._answers:
                self._answers[sequence] = answer
                self._arrived.notify_all()
