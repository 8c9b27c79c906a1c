# SPDX-License-Identifier: Apache-2.0
"""A camera buffer to the model's picture: this package, OpenCV, and Pillow with numpy, interleaved.

    python benchmarks/preprocess.py benchmarks/results/preprocess.json

NV12 of 1280 x 720 to RGB, its shorter side to 292 by an antialiased filter, its middle of 256 x
256: what V-JEPA 2's processor does before it normalizes. One thread each. OpenCV has no antialiased
bilinear filter: INTER_AREA is what it has for smaller pictures. Pillow reads no NV12: numpy does.
"""

from __future__ import annotations

import datetime
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jepa_edge.image_fit import fit_to
from jepa_edge.manifest import FitSpec, ObservationSpec
from jepa_edge.pixels import to_rgb

HEIGHT, WIDTH, SHORT, SIDE, ROUNDS = 720, 1280, 292, 256, 60
SPEC = ObservationSpec(
    height=SIDE,
    width=SIDE,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    rate_hz=5.0,
    fit=FitSpec(short_side=SHORT),
)
SCALED = (int(SHORT * WIDTH / HEIGHT), SHORT)  # width, height
TOP, LEFT = round((SCALED[1] - SIDE) / 2), round((SCALED[0] - SIDE) / 2)


def _buffer() -> NDArray[np.uint8]:
    """Waves and some noise: a picture that is neither flat nor random."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: HEIGHT * 3 // 2, :WIDTH]
    waves = 128 + 70 * np.sin(x / 37) * np.cos(y / 23) + rng.normal(0, 4, x.shape)
    return np.clip(waves, 16, 235).astype(np.uint8)


def _numpy_rgb(buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    luma = (buffer[:HEIGHT].astype(np.float32) - 16) * (255 / 219)
    pairs = buffer[HEIGHT:].reshape(HEIGHT // 2, WIDTH // 2, 2).astype(np.float32) - 128
    u, v = (pairs[..., c].repeat(2, 0).repeat(2, 1) * (255 / 224) for c in (0, 1))
    rgb = np.stack([luma + 1.402 * v, luma - 0.344136 * u - 0.714136 * v, luma + 1.772 * u], -1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def _pillow_fit(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scaled = Image.fromarray(rgb).resize(SCALED, Image.Resampling.BILINEAR)
    return np.asarray(scaled.crop((LEFT, TOP, LEFT + SIDE, TOP + SIDE)))


def main(out: Path) -> None:
    """Measure, print and write."""
    buffer = _buffer()
    rgb = to_rgb(buffer, height=HEIGHT, width=WIDTH, pixel_format="nv12")
    steps: dict[str, dict[str, Callable[[], NDArray[np.uint8]]]] = {
        "jepa_edge": {
            "color": lambda: to_rgb(buffer, height=HEIGHT, width=WIDTH, pixel_format="nv12"),
            "fit": lambda: fit_to(SPEC, rgb),
        },
        "numpy and Pillow": {"color": lambda: _numpy_rgb(buffer), "fit": lambda: _pillow_fit(rgb)},
    }
    try:
        import cv2
    except ImportError:
        print("OpenCV is not installed: left out", file=sys.stderr)
    else:
        cv2.setNumThreads(1)
        cut = np.s_[TOP : TOP + SIDE, LEFT : LEFT + SIDE]
        steps["OpenCV"] = {
            "color": lambda: cv2.cvtColor(buffer, cv2.COLOR_YUV2RGB_NV12),
            "fit": lambda: cv2.resize(rgb, SCALED, interpolation=cv2.INTER_AREA)[cut],
        }
    taken_ms: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for who, parts in steps.items():
            for part, work in parts.items():
                begun = time.perf_counter()
                work()
                taken_ms.setdefault((who, part), []).append(1e3 * (time.perf_counter() - begun))
    results = {
        who: {
            **{f"{part}_ms": round(float(np.median(taken_ms[who, part])), 3) for part in parts},
            "most_levels_from_ours": {
                part: int(np.abs(work().astype(int) - steps["jepa_edge"][part]()).max())
                for part, work in parts.items()
            },
        }
        for who, parts in steps.items()
    }
    report = {
        "what": f"NV12 {WIDTH}x{HEIGHT} -> RGB -> shorter side {SHORT} -> middle {SIDE}x{SIDE}",
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "threads": 1,
        "rounds": ROUNDS,
        "median": results,
    }
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
