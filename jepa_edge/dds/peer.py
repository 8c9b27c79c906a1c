# SPDX-License-Identifier: Apache-2.0
"""Several nodes in one process over DDS: what `jepa-edge serve` runs."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from jepa_edge.dds.backend import DdsBackend
from jepa_edge.dds.lifecycle import LifecycleServer
from jepa_edge.dds.names import NodeName
from jepa_edge.dds.parameter_server import USE_SIM_TIME
from jepa_edge.dds.parameter_values import read_file
from jepa_edge.dds.participant import DdsParticipant
from jepa_edge.dds.rosout import RosoutHandler
from jepa_edge.errors import InputError

logger = logging.getLogger(__name__)

# Module of the node: (class, default name, whether it has a lifecycle).
_CLASSES = {
    "world_model": ("WorldModelNode", "jepa_world_model", True),
    "planner": ("PlannerNode", "jepa_planner", False),
    "safety_gate": ("SafetyGateNode", "jepa_safety_gate", False),
    "serial_bridge": ("SerialBridgeNode", "jepa_serial_bridge", False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """Which nodes to run, and how.

    nodes: modules of jepa_edge.nodes. node_name: of the only node; None keeps the defaults.
    values: parameters for every node that has them. files: ROS parameter files, later ones win.
    domain, localhost: as in DdsParticipant. Raises InputError for what cannot be.
    """

    nodes: Sequence[str]
    namespace: str = "/"
    node_name: str | None = None
    remaps: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, object] = field(default_factory=dict)
    files: Sequence[Path] = ()
    domain: int | None = None
    localhost: bool | None = None

    def __post_init__(self) -> None:
        for node in self.nodes:
            if node not in _CLASSES:
                raise InputError(f"there is no node {node!r}; expected of {', '.join(_CLASSES)}")
        if self.node_name is not None and len(self.nodes) != 1:
            raise InputError("--node-name fits one node, got several; name them with --remap")


class Peer:
    """Runs the nodes while its context lasts; a node with a lifecycle is configured and activated.

    Raises JepaEdgeError when a node cannot start; what had started is ended again.
    """

    def __init__(self, config: PeerConfig) -> None:
        self._config = config
        self._stack = contextlib.ExitStack()
        self._backends: list[DdsBackend] = []
        self.domain = 0

    @property
    def node_names(self) -> list[str]:
        """Fully qualified names of the nodes."""
        return [backend.name for backend in self._backends]

    def check(self) -> None:
        """Raise RuntimeError from the first error of a callback: of whatever kind, a defect."""
        for backend in self._backends:
            if backend.failure is not None:
                raise RuntimeError(f"{backend.name} failed: {backend.failure!r}") from (
                    backend.failure
                )

    def __enter__(self) -> Peer:
        modules = {
            node: importlib.import_module(f"jepa_edge.nodes.{node}") for node in self._config.nodes
        }
        values = self._values({node: module.PARAMETERS for node, module in modules.items()})
        with contextlib.ExitStack() as stack:
            participant = stack.enter_context(
                DdsParticipant(self._config.domain, localhost=self._config.localhost)
            )
            self.domain = participant.domain
            for node, module in modules.items():
                self._start(stack, participant, node, module, values[node])
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _start(
        self,
        stack: contextlib.ExitStack,
        participant: DdsParticipant,
        node: str,
        module: Any,
        values: Mapping[str, object],
    ) -> None:
        class_name, _, managed = _CLASSES[node]
        name = self._name(node)
        backend = DdsBackend(
            participant,
            name.node,
            namespace=name.namespace,
            remaps=name.remaps,
            values=values,
        )
        stack.callback(backend.close)
        if not self._backends:  # one log for the process: its records name no node
            stack.enter_context(RosoutHandler(backend, logging.getLogger("jepa_edge")))
        self._backends.append(backend)
        made = getattr(module, class_name)(backend)
        stack.callback(made.close)
        if managed:
            lifecycle = LifecycleServer(backend, made)
            lifecycle.change("configure")
            lifecycle.change("activate")
        else:
            made.start()

    def _name(self, node: str) -> NodeName:
        return NodeName(
            node=self._config.node_name or _CLASSES[node][1],
            namespace=self._config.namespace,
            remaps=self._config.remaps,
        )

    def _values(self, declared: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, object]]:
        """Return every node's given parameters: from wildcards, its own section, the options."""
        known = {
            node: {parameter.name for parameter in (*parameters, USE_SIM_TIME)}
            for node, parameters in declared.items()
        }
        everyone = set().union(*known.values())
        for name in self._config.values:
            if name not in everyone:
                raise InputError(
                    f"no node has a parameter {name!r}; there are {', '.join(sorted(everyone))}"
                )
        unknown: set[str] = set()
        values: dict[str, dict[str, object]] = {}
        for node, names in known.items():
            wild: dict[str, object] = {}
            named: dict[str, object] = {}
            for file in self._config.files:
                own, shared = read_file(file, self._name(node).full)
                named |= own
                wild |= shared
            unknown |= wild.keys() - everyone
            values[node] = (
                {name: value for name, value in wild.items() if name in names}
                | named
                | {name: v for name, v in self._config.values.items() if name in names}
            )
        if unknown:  # a file may be meant for nodes of other processes too
            logger.warning(
                "no node of this process has %s, which a parameter file sets for all nodes",
                ", ".join(sorted(unknown)),
            )
        return values
