# SPDX-License-Identifier: Apache-2.0
"""What an import found and did, graph by graph."""

from __future__ import annotations

import msgspec


class PartReport(msgspec.Struct, frozen=True, kw_only=True):
    """One graph. mapping: run-time name to the file's own. changes: none if kept bit for bit.

    sqnr_db, centered_cosine: the bundle's graph in batches, against the untouched file run one
    sample at a time by ONNX Runtime.
    """

    part: str
    source: str
    sha256: str
    mapping: dict[str, str]
    changes: tuple[str, ...]
    sqnr_db: float
    centered_cosine: float
    size_bytes: int
    latency_ms: float


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that an import did; it is also the bundle's reports/import.json.

    golden_from: the recording that the golden inputs come from, or what stands in for one.
    """

    bundle: str
    family: str
    parts: tuple[PartReport, ...]
    golden_from: str
    warnings: tuple[str, ...]
    seconds: float
