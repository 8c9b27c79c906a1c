# SPDX-License-Identifier: Apache-2.0
"""Run every benchmark, or those named; each prints its table and rewrites its file in results/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent


def main() -> None:
    """Run them one after the other; the demo makes the bundle that some of them need."""
    if not (ROOT / "runs/demo/pusht.jepa").is_dir():
        demo = ROOT / "examples/pusht/demo.py"
        subprocess.run([sys.executable, demo, "--out", ROOT / "runs/demo"], check=True)
    scripts = {script.stem: script for script in sorted(HERE.glob("*.py"))}
    for no_benchmark in (Path(__file__).stem, "random_checkpoint", "gpu_planning", "gpu_tensorrt"):
        del scripts[no_benchmark]
    for name in sys.argv[1:]:
        if name not in scripts:
            sys.exit(f"no benchmark {name!r}, expected some of {', '.join(scripts)}")
    for name, script in scripts.items():
        if name in sys.argv[1:] or len(sys.argv) == 1:
            print(f"\n{script.name}", flush=True)
            subprocess.run([sys.executable, script], check=True)


if __name__ == "__main__":
    main()
