# SPDX-License-Identifier: Apache-2.0
"""Reads a rosbag2 directory or a single file of one, and says clearly if it cannot."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from jepa_edge.bags.expansion import check_chunks, check_file, expand_message
from jepa_edge.bundle import sha256_file
from jepa_edge.errors import InputError, printable
from jepa_edge.ros_types import typestore
from jepa_edge.sources import BAG_METADATA as METADATA
from jepa_edge.sources import BAG_SUFFIXES

_OURS = "jepa_msgs/"


@dataclass(frozen=True, slots=True, kw_only=True)
class BagMessage:
    """One recorded message. type: "package/msg/Type". received_ns: when the recorder got it."""

    topic: str
    type: str
    received_ns: int
    message: Any


def is_bag(path: Path) -> bool:
    """Whether path looks like a bag: by its suffix, or by its metadata.yaml."""
    return (path.suffix in BAG_SUFFIXES and path.is_file()) or (path / METADATA).is_file()


def find_bags(path: Path) -> list[Path]:
    """Return the bag that path is, or the bags directly in it, by name.

    Raises InputError when there is none.
    """
    if is_bag(path):
        return [path]
    found = sorted(entry for entry in path.iterdir() if is_bag(entry)) if path.is_dir() else []
    if not found:
        raise InputError(
            f"{path} is no bag and holds none: expected a directory with {METADATA}, or a file "
            f"ending in {' or '.join(BAG_SUFFIXES)}" + _cut_off(path)
        )
    return found


class Bag:
    """A bag on disk. It is opened for every pass and closed after it."""

    def __init__(self, path: Path | str) -> None:
        """Raises InputError when path is no bag, or is damaged or cut off, MissingDependencyError
        without rosbags."""
        self.path = Path(path)
        self._store = typestore()
        self._expansion_checked = False
        with self._damage_told():
            self.files = self._data_files()
        with self._reading() as reader:
            self.topics: dict[str, str] = {}
            for connection in reader.connections:
                known = self.topics.setdefault(connection.topic, connection.msgtype)
                if known != connection.msgtype:
                    raise InputError(
                        f"{self.path} has {connection.topic!r} as {known!r} and as "
                        f"{connection.msgtype!r}; expected one type per topic"
                    )
                self._check_definition(connection)
            self.message_count: int = reader.message_count

    @cached_property
    def sha256(self) -> str:
        """One digest for all messages: of the file, or over those of a bag's files in order."""
        digests = [sha256_file(file) for file in self.files]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def pick(self, kinds: Collection[str], wanted: str | None, option: str) -> str:
        """Return the wanted topic, or the only one of these types.

        Raises InputError, listing what there is, when it is missing or there are several.
        """
        found = self.optional(kinds, wanted, option)
        if found is None:
            raise InputError(
                f"{self.path} has {_either(kinds)} on no topic; it has {self._listing()}; "
                f"name one with {option}"
            )
        return found

    def optional(self, kinds: Collection[str], wanted: str | None, option: str) -> str | None:
        """Return the wanted topic, or the only one of these types, or None when there is none.

        Raises InputError when the wanted one is missing, or there are several.
        """
        topics = sorted(topic for topic, kind in self.topics.items() if kind in kinds)
        if wanted is not None:
            if wanted in topics:
                return wanted
        elif len(topics) < 2:
            return topics[0] if topics else None
        raise InputError(
            f"{self.path} has {_either(kinds)} on {listed(topics) or 'no topic'}"
            + (f", not on {wanted}" if wanted else "")
            + f"; name one with {option}"
        )

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Yield the messages of these topics in the order in which the recorder got them.

        Raises InputError when one cannot be read.
        """
        if not topics:
            return
        with self._reading() as reader:
            chosen = [c for c in reader.connections if c.topic in topics]
            if not chosen:
                return
            expand = self._prepare(reader.storage)
            count, told = 0, sum(connection.msgcount for connection in chosen)
            # What the files themselves tell of, which metadata may pass over.
            parts = getattr(reader.storage, "storages", [])
            held = [c.msgcount for part in parts for c in part.connections if c.topic in topics]
            told = max(told, sum(held))
            for connection, received_ns, payload in reader.messages(connections=chosen):
                count += 1
                yield BagMessage(
                    topic=connection.topic,
                    type=connection.msgtype,
                    received_ns=received_ns,
                    message=self._store.deserialize_cdr(
                        expand_message(payload, self.path) if expand else payload,
                        connection.msgtype,
                    ),
                )
        if count < told:
            raise InputError(
                f"{self.path} tells of {told} messages on {listed(sorted(topics))} and gives "
                f"{count}: its {METADATA} does not fit its files, or messages are missing; "
                "`ros2 bag reindex`, or naming a single file of it, may help"
            )

    def knows(self, kind: str) -> bool:
        """Whether messages of this type can be read."""
        return kind in self._store.types

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        from rosbags.rosbag2 import Reader

        if not self.path.exists():
            raise InputError(f"{self.path} does not exist; expected a bag")
        if not is_bag(self.path):
            raise InputError(
                f"{self.path} is no bag: expected a directory with {METADATA}, or a file ending in "
                f"{' or '.join(BAG_SUFFIXES)}" + _cut_off(self.path)
            )
        with self._damage_told(), Reader(self.path) as reader:
            yield reader

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except _damage() as error:
            raise InputError(
                f"{self.path} is damaged or cut off: {_told(error)}; `ros2 bag reindex` or `mcap "
                "recover` may save what is left of it"
            ) from error

    def _check_definition(self, connection: Any) -> None:
        """Raise InputError for jepa_msgs of another version: their bytes would be misread."""
        kind = connection.msgtype
        if not kind.startswith(_OURS) or kind not in self._store.types:
            return
        recorded = connection.digest or _hash_of(connection)
        if recorded and recorded != self._store.hash_rihs01(kind):
            raise InputError(
                f"{self.path}: {kind} on {connection.topic!r} has another definition "
                f"({recorded[:15]!r}) than this jepa-edge ({self._store.hash_rihs01(kind)[:15]}); "
                "replay it with the version that recorded it"
            )

    def _listing(self) -> str:
        return (
            ", ".join(f"{printable(t)} ({printable(k)})" for t, k in sorted(self.topics.items()))
            or "no topics"
        )

    def _data_files(self) -> list[Path]:
        """The files that rosbags reads: this one, or those of a directory's metadata."""
        if not self.path.is_dir():
            return [self.path]
        if not (self.path / METADATA).is_file():
            return []  # no bag, which `_reading` says
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        try:
            told = YAML(typ="safe").load((self.path / METADATA).read_text())
        except YAMLError as error:
            raise ValueError(str(error)) from error
        information = told["rosbag2_bagfile_information"]
        files = [self.path / PurePath(name).name for name in information["relative_file_paths"]]
        if (information.get("compression_mode") or "").lower() == "file":
            for file in filter(Path.is_file, files):
                check_file(file)
        return files

    def _prepare(self, storage: Any) -> bool:
        """Check once what chunks expand to; return whether messages are to be expanded here.

        storage: rosbags' reader of a directory or a file.
        """
        if not self._expansion_checked:
            for part in getattr(storage, "storages", [storage]):
                check_chunks(part, self.path)
            self._expansion_checked = True
        if storage.metadata.compression_mode != "message":
            return False
        # rosbags would expand messages to whatever size they have.
        storage.metadata = storage.metadata._replace(compression_mode=None)
        return True


def _damage() -> tuple[type[Exception], ...]:
    """What rosbags and what lies below it raise on files that are not what they should be."""
    import apsw
    from rosbags.rosbag2 import ReaderError
    from rosbags.serde import SerdeError
    from rosbags.typesys import TypesysError

    return (
        ReaderError,
        SerdeError,
        TypesysError,
        apsw.Error,
        struct.error,
        OSError,
        EOFError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
        *_zstd_errors(),
    )


def _zstd_errors() -> tuple[type[Exception], ...]:
    """zstd's own error lies in the standard library from 3.14 on, in a backport before."""
    try:
        from backports.zstd import ZstdError
    except ImportError:
        return ()
    return (ZstdError,)


def _hash_of(connection: Any) -> str:
    """Return the type hash of the definition that the bag carries, or nothing if it has none."""
    from rosbags.interfaces import MessageDefinitionFormat
    from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

    if connection.msgdef.format != MessageDefinitionFormat.MSG:
        return ""
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
        return str(store.hash_rihs01(connection.msgtype))
    except (TypesysError, KeyError):
        return ""


def _told(error: Exception) -> str:
    return printable(" ".join(str(error).split()).rstrip(".")) or type(error).__name__


def listed(names: Collection[str]) -> str:
    """Names from a bag, for a message."""
    return ", ".join(map(printable, names))


def _either(kinds: Collection[str]) -> str:
    return " or ".join(kinds)


def _cut_off(path: Path) -> str:
    """A hint for the folder that a recorder left when it was killed."""
    if path.is_dir() and any(entry.suffix in BAG_SUFFIXES for entry in path.iterdir()):
        return (
            f"; its recorder was stopped before it wrote {METADATA}: run "
            f"`ros2 bag reindex {path}`, or name a single file of it"
        )
    return ""
