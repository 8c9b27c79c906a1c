# SPDX-License-Identifier: Apache-2.0
"""Where a bundle came from: files, versions of the tools, time."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
from collections.abc import Sequence

from jepa_edge.manifest import Provenance


def provenance(
    checkpoint: str, digests: Sequence[str], *, command: str, tools: Sequence[str]
) -> Provenance:
    """Return the manifest's record. tools: packages whose versions are noted if they are there.

    digests: sha256 of each file that was read; of several, the digest of all of them is noted.
    """
    joined = hashlib.sha256("".join(digests).encode()).hexdigest()
    installed = {d.name.lower(): d.version for d in importlib.metadata.distributions() if d.name}
    return Provenance(
        checkpoint=checkpoint,
        checkpoint_sha256=digests[0] if len(digests) == 1 else joined,
        created_utc=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=command,
        tools={tool: installed[tool] for tool in tools if tool in installed},
    )
