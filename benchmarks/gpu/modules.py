# SPDX-License-Identifier: Apache-2.0
"""The extension modules of a build folder, entered as jepa_edge's own: nothing is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def enter(folder: Path) -> None:
    """Import `_core` and `_cuda` from a build folder. Exits where one of them is not there."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    alias_bench_packages()
    for name in ("_core", "_cuda"):
        found = sorted(folder.glob(f"{name}*.so"))
        if not found:
            sys.exit(f"{folder} holds no {name}*.so; run benchmarks/gpu.sh build first")
        full = f"jepa_edge.{name}"
        spec = importlib.util.spec_from_file_location(full, found[0])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)


def alias_bench_packages() -> None:
    """Let `jepa_edge.export` be found in a checkout, as the wheel's package map has it."""
    import jepa_edge

    package = Path(jepa_edge.__file__).parent
    if not (package / "export").exists() and "jepa_edge.export" not in sys.modules:
        root = package.parent / "export"
        spec = importlib.util.spec_from_file_location(
            "jepa_edge.export", root / "__init__.py", submodule_search_locations=[str(root)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["jepa_edge.export"] = module
        spec.loader.exec_module(module)
