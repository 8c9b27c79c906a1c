# SPDX-License-Identifier: Apache-2.0
"""Hands the latest item from one thread to another; what was not taken in time is replaced."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Holds one item at most."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._closed = False
        self.dropped = 0

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def put(self, item: Item) -> None:
        """Leave an item; one that nobody took is dropped and counted. Ignored when closed."""
        with self._changed:
            if self._closed:
                return
            if self._item is not None:
                self.dropped += 1
            self._item = item
            self._changed.notify()

    def take(self) -> Item | None:
        """Wait for an item and return it; None once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is not None)
            item, self._item = self._item, None
            return None if self._closed else item

    def close(self) -> None:
        """End all waiting; an item inside is lost."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
