# SPDX-License-Identifier: Apache-2.0
"""From a reader's bytes to messages; what cannot be read as its type is dropped with a warning."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepa_edge.dds.endpoints import RawReader
    from jepa_edge.dds.participant import DdsParticipant

logger = logging.getLogger(__name__)

_WARN_EVERY = 100
_MAX_WRITERS = 1000
_HASH_START = "RIHS01_"


class Inbox:
    """The messages of one reader, read in the dispatcher's thread.

    A writer that announces another type hash than ours has another definition of the type: its
    bytes may well be readable and mean something else. A writer that announces none is believed.
    """

    def __init__(
        self, participant: DdsParticipant, reader: RawReader, type_name: str, what: str
    ) -> None:
        self._store = participant.store
        self._hash = participant.type_hash(type_name)
        self._reader = reader
        self._type_name = type_name
        self._what = what
        self._dropped = 0
        self._same_type: dict[int, bool] = {}

    def read(self, publication: int, cdr: bytes | memoryview) -> Any | None:
        """Return the message that a writer sent; None when it was dropped."""
        if not self._is_same_type(publication):
            return None
        try:
            return self._store.deserialize_cdr(cdr, self._type_name)
        except Exception as error:  # rosbags before 0.11.8 lets out whatever the bytes provoke
            self.drop(error)
            return None

    def drop(self, why: Exception) -> None:
        """Count a message that cannot be read; warn of the first and of every hundredth."""
        self._dropped += 1
        if self._dropped == 1 or self._dropped % _WARN_EVERY == 0:
            logger.warning(
                "%s was dropped (%d so far): %s", self._what, self._dropped, str(why)[:200]
            )

    def _is_same_type(self, publication: int) -> bool:
        known = self._same_type.get(publication)
        if known is not None:
            return known
        data = self._reader.writer_user_data(publication)
        if data is None:
            return True  # it has left already
        announced = data.get("typehash", "")
        same = announced == self._hash or not announced.startswith(_HASH_START)
        if not same:
            logger.warning(
                "%s was dropped, and all others of that writer: its %s has another definition "
                "than ours (%s, expected %s); build both sides from the same version",
                self._what,
                self._type_name,
                announced,
                self._hash,
            )
        if len(self._same_type) >= _MAX_WRITERS:  # all those that came and went since
            self._same_type.clear()
        self._same_type[publication] = same
        return same
