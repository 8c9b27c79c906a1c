# SPDX-License-Identifier: Apache-2.0
"""What `ros2 node list` and `ros2 topic info -v` know of us: the topic ros_discovery_info."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from jepa_edge.dds.endpoints import RawWriter
from jepa_edge.errors import InputError


class Graph:
    """The nodes of a participant and their readers and writers, published with every change."""

    def __init__(
        self, store: Any, make: Callable[..., Any], participant_gid: bytes, writer: RawWriter
    ) -> None:
        self._store = store
        self._make = make
        self._gid = participant_gid
        self._writer = writer
        self._lock = threading.Lock()
        self._nodes: dict[str, tuple[list[bytes], list[bytes]]] = {}

    def add_node(self, full_name: str) -> None:
        """Add a node. Raises InputError when the process has one of that name."""
        with self._lock:
            if full_name in self._nodes:
                raise InputError(f"there is a node {full_name} in this process already; rename one")
            self._nodes[full_name] = ([], [])
            self._publish()

    def remove_node(self, full_name: str) -> None:
        """Remove a node with all it has."""
        with self._lock:
            self._nodes.pop(full_name, None)
            self._publish()

    def add_reader(self, node: str, gid: bytes) -> None:
        """Count a reader to a node."""
        self._change(node, 0, gid, add=True)

    def add_writer(self, node: str, gid: bytes) -> None:
        """Count a writer to a node."""
        self._change(node, 1, gid, add=True)

    def remove(self, node: str, gid: bytes) -> None:
        """Forget a reader or writer."""
        for which in (0, 1):
            self._change(node, which, gid, add=False)

    def _change(self, node: str, which: int, gid: bytes, *, add: bool) -> None:
        with self._lock:
            if node not in self._nodes:
                return
            gids = self._nodes[node][which]
            if add:
                gids.append(gid)
            elif gid in gids:
                gids.remove(gid)
            else:
                return
            self._publish()

    def _publish(self) -> None:
        nodes = []
        for full_name, (readers, writers) in self._nodes.items():
            namespace, _, name = full_name.rpartition("/")
            nodes.append(
                self._make(
                    "rmw_dds_common/msg/NodeEntitiesInfo",
                    node_namespace=namespace or "/",
                    node_name=name,
                    reader_gid_seq=[self._gid_message(gid) for gid in readers],
                    writer_gid_seq=[self._gid_message(gid) for gid in writers],
                )
            )
        message = self._make(
            "rmw_dds_common/msg/ParticipantEntitiesInfo",
            gid=self._gid_message(self._gid),
            node_entities_info_seq=nodes,
        )
        self._writer.write(self._store.serialize_cdr(message, message.__msgtype__))

    def _gid_message(self, gid: bytes) -> Any:
        return self._make("rmw_dds_common/msg/Gid", data=np.frombuffer(gid, np.uint8))
