# SPDX-License-Identifier: Apache-2.0
"""Engines on disk: beside the bundle, one folder per machine, verified whenever they are read.

    NAME.engines/<machine>/<variant>/engine.json, encoder.plan, predictor.plan, mask_predictor.plan
    NAME.engines/<machine>/timing.cache

docs/tensorrt.md describes the record.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError, printable
from jepa_edge.json_text import json_bytes
from jepa_edge.manifest import Manifest, Sha256, VariantName
from jepa_edge.trt.key import EngineKey, MachineKey, StrictRecord

logger = logging.getLogger(__name__)

RECORD_VERSION = 1
RECORD_NAME = "engine.json"
TIMING_CACHE = "timing.cache"
ENGINES_SUFFIX = ".engines"
_LARGEST_RECORD = 8 << 20
PlanName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]{1,32}\.plan$")]


class Latency(StrictRecord, frozen=True, kw_only=True):
    """Milliseconds of one graph at one batch, copies from and to the host included."""

    graph: str
    batch: int
    p50_ms: float
    p99_ms: float


class PlanRecord(StrictRecord, frozen=True, kw_only=True):
    """One plan. layers: how many run in each precision, by the engine inspector.

    memory_bytes: what its activations take on the device, besides the weights.
    """

    file: PlanName
    sha256: Sha256
    bytes: int
    layers: dict[str, int]
    memory_bytes: int


class Candidate(StrictRecord, frozen=True, kw_only=True):
    """One variant of the race. total_ms: what was compared, None where it came to no time.

    sqnr_db: of the golden outputs, by graph, and of a rollout under "rollout". outcome: why it was
    kept or not.
    """

    variant: str
    passed: bool
    total_ms: float | None
    sqnr_db: dict[str, float]
    outcome: str


class EngineRecord(StrictRecord, frozen=True, kw_only=True):
    """All of engine.json. plans: by graph file of the bundle.

    golden_db: SQNR against the golden outputs by graph, and of a rollout under "rollout".
    reason: why this variant was kept. race: all candidates.
    """

    schema_version: int = RECORD_VERSION
    key: EngineKey
    variant: VariantName
    precision: str
    plans: dict[str, PlanRecord]
    golden_db: dict[str, float]
    latencies: tuple[Latency, ...]
    device_memory_bytes: int
    build_s: float
    reason: str
    race: tuple[Candidate, ...]
    warnings: tuple[str, ...]
    jepa_edge: str
    created_utc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEngine:
    """A variant's plans on disk, built on this machine from this bundle's graphs."""

    bundle: Bundle
    variant: str
    folder: Path
    record: EngineRecord

    @property
    def digest(self) -> str:
        """Hex sha256 that names these plans: of their own digests, in the graphs' order."""
        plans = "".join(plan.sha256 for plan in self.record.plans.values())
        return hashlib.sha256(plans.encode()).hexdigest()

    @property
    def rebuild(self) -> str:
        """Which command builds it again."""
        return rebuild(self.bundle, self.variant, self.folder.parent.parent)

    def path(self, file: str | Path) -> Path:
        """Return where the plan of a graph file lies, by its name in the bundle or its path there.

        Raises BundleError when the record has none.
        """
        return self.folder / self._plan_record(file).file

    def plan(self, file: str | Path) -> bytes:
        """Return the plan of a graph file, by its name in the bundle or its path there.

        The bytes are those that were verified: the file may be replaced meanwhile.
        Raises BundleError when there is none, or it is not as it was built.
        """
        plan = self._plan_record(file)
        path = self.folder / plan.file
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path} is missing, or is a link; {self.rebuild}")
        try:
            size = path.stat().st_size
            if size != plan.bytes:
                raise BundleError(
                    f"{path} is damaged ({size} bytes, expected {plan.bytes}); {self.rebuild}"
                )
            payload = path.read_bytes()
        except OSError as error:
            raise BundleError(
                f"{path} cannot be read ({error.strerror}); {self.rebuild}"
            ) from error
        actual = hashlib.sha256(payload).hexdigest()
        if actual != plan.sha256:
            raise BundleError(
                f"{path} was altered (sha256 {actual[:12]}, expected {plan.sha256[:12]}); "
                f"{self.rebuild}"
            )
        return payload

    def _plan_record(self, file: str | Path) -> PlanRecord:
        name = _name_inside(self.bundle, file)
        plan = self.record.plans.get(name)
        if plan is None:
            raise BundleError(
                f"{self.folder} holds no engine of {name}, it holds those of "
                f"{', '.join(self.record.plans)}; {self.rebuild}"
            )
        return plan


class EngineStore:
    """The engines of one bundle. root: where they lie; NAME.engines beside the bundle if None."""

    def __init__(self, bundle: Bundle, root: Path | None = None) -> None:
        self.bundle = bundle
        self.root = default_root(bundle.path) if root is None else root

    def folder(self, machine: MachineKey) -> Path:
        """Where a build on this machine writes."""
        return self.root / machine.folder

    def records(self, variant: str | None = None) -> list[Path]:
        """Return every engine.json there, of any machine, whether it fits or not.

        A folder whose name begins with a dot is a build that goes on, or was killed.
        """
        if variant is None:
            return sorted(self.root.glob(f"[!.]*/*/{RECORD_NAME}"))
        paths = (folder / variant / RECORD_NAME for folder in sorted(self.root.glob("[!.]*")))
        return [path for path in paths if path.is_file()]

    def variants(self, machine: MachineKey) -> tuple[str, ...]:
        """Names of the bundle's variants that have an engine for this machine."""
        names = self.bundle.manifest.variants
        return tuple(name for name in names if self.find(name, machine) is not None)

    def find(self, variant: str, machine: MachineKey) -> StoredEngine | None:
        """Return a variant's engine for this machine, None where there is none that fits.

        What does not fit, stale or foreign or damaged, is logged and passed over.
        """
        stored, refused = self._search(variant, machine)
        for line in refused:
            logger.info("%s", line)
        return stored

    def require(self, variant: str, machine: MachineKey) -> StoredEngine:
        """Return a variant's engine for this machine.

        Raises BundleError that says what differs, and how to build it.
        """
        stored, refused = self._search(variant, machine)
        if stored is not None:
            return stored
        told = "; ".join(refused) or f"{self.root} holds no engine of variant {variant!r}"
        raise BundleError(f"{told}; {rebuild(self.bundle, variant, self.root)}")

    def _search(self, variant: str, machine: MachineKey) -> tuple[StoredEngine | None, list[str]]:
        refused = []
        own = self.folder(machine)
        paths = sorted(self.records(variant), key=lambda path: path.parent.parent != own)
        for path in paths:
            try:
                record = read_record(path)
                differences = record.key.differences(machine)
                differences += stale(record, self.bundle.manifest, variant)
            except BundleError as error:
                refused.append(str(error))
                continue
            if not differences:
                found = StoredEngine(
                    bundle=self.bundle, variant=variant, folder=path.parent, record=record
                )
                return found, refused
            refused.append(f"{path.parent}: {', '.join(differences)}")
        return None, refused


def default_root(bundle: Path) -> Path:
    """Return where the engines of a bundle lie: NAME.engines beside NAME.jepa."""
    return bundle.with_suffix(ENGINES_SUFFIX)


def rebuild(bundle: Bundle, variant: str, root: Path | None = None) -> str:
    """Say which command builds a variant's engine."""
    elsewhere = "" if root in (None, default_root(bundle.path)) else f" --out {root}"
    return f"run `jepa-edge build {bundle.path} --variant {variant}{elsewhere}` on this machine"


def read_record(path: Path) -> EngineRecord:
    """Read and check engine.json. Raises BundleError when it is none, or of another version."""
    if path.is_symlink():
        raise BundleError(f"{path} is a link; copy the engines again, or build them again")
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_RECORD:
            raise BundleError(f"{path} is no file of a record's size; build the engines again")
        payload = path.read_bytes()
        version = msgspec.json.decode(payload, type=dict[str, object]).get("schema_version")
        if version != RECORD_VERSION:
            raise BundleError(
                f"{path} has schema version {printable(str(version))[:20]}, this jepa-edge reads "
                f"{RECORD_VERSION}"
            )
        record = msgspec.json.decode(payload, type=EngineRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path} is damaged or no engine record ({error})") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror})") from error
    if set(record.plans) - set(record.key.graphs):
        raise BundleError(f"{path} names plans of graphs that its key has no sha256 of")
    return record


def write_record(folder: Path, record: EngineRecord) -> None:
    """Write engine.json into a folder that is being staged."""
    (folder / RECORD_NAME).write_bytes(json_bytes(record))


def graph_digests(manifest: Manifest, variant: str) -> dict[str, str]:
    """Return the sha256 of every file that a variant's graphs consist of."""
    return {
        name: manifest.files[name]
        for graph in manifest.variants[variant].graphs.values()
        for name in (graph.file, graph.data)
        if name is not None
    }


def stale(record: EngineRecord, manifest: Manifest, variant: str) -> list[str]:
    """What of a record is not this bundle's variant, one line each."""
    lines = []
    if record.variant != variant:
        lines.append(f"its record is of variant {record.variant!r}")
    if variant not in manifest.variants:
        return [*lines, f"the bundle has no variant {variant!r}"]
    wanted = graph_digests(manifest, variant)
    changed = [name for name, sha in wanted.items() if record.key.graphs.get(name) != sha]
    if changed:
        lines.append(f"built from another {', '.join(changed)}")
    graphs = {graph.file for graph in manifest.variants[variant].graphs.values()}
    missing = sorted(graphs - set(record.plans))
    if missing:
        lines.append(f"holds no plan of {', '.join(missing)}")
    return lines


def _name_inside(bundle: Bundle, file: str | Path) -> str:
    path = Path(file)
    if path.is_absolute() or path.is_relative_to(bundle.path):
        try:
            return path.resolve().relative_to(bundle.path.resolve()).as_posix()
        except ValueError:
            raise BundleError(f"{path} is no file of {bundle.path}") from None
    return path.as_posix()
