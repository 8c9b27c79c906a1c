# SPDX-License-Identifier: Apache-2.0
"""What this GPU's matrix units reach on one large product of random numbers, by precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

_SIDE = 8192
_REPEATS = 20


def measured_peaks() -> dict[str, float | None]:
    """TFLOP/s (int8: TOP/s) of an 8192^3 product, medians; None where torch refuses it."""
    return {name: _measure(make) for name, make in _PRODUCTS.items()}


def time_ms(run: Callable[[], object], repeats: int, warmup: int = 3) -> list[float]:
    """Milliseconds of each of `repeats` runs between two events on the current stream."""
    for _ in range(warmup):
        run()
    spans = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        spans.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in spans]


def _measure(make: Callable[[], Callable[[], object]]) -> float | None:
    try:
        run = make()
        median = float(np.median(time_ms(run, _REPEATS)))
    except (RuntimeError, NotImplementedError, AttributeError):
        return None
    finally:
        torch.cuda.empty_cache()
    return 2.0 * _SIDE**3 / (median * 1e-3) / 1e12


def _random() -> torch.Tensor:
    return torch.randn(_SIDE, _SIDE, device="cuda")


def _plain(dtype: torch.dtype) -> Callable[[], object]:
    a, b = _random().to(dtype), _random().to(dtype)
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b.T, out=out)


def _int8() -> Callable[[], object]:
    a, b = (torch.randint(-127, 128, (_SIDE, _SIDE), device="cuda").to(torch.int8) for _ in "ab")
    return lambda: torch._int_mm(a, b.T)


def _float8() -> Callable[[], object]:
    a, b = (_random().to(torch.float8_e4m3fn) for _ in "ab")
    one = torch.ones((), device="cuda")
    return lambda: torch._scaled_mm(a, b.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


_PRODUCTS: dict[str, Callable[[], Callable[[], object]]] = {
    "float32": lambda: _plain(torch.float32),
    "float16": lambda: _plain(torch.float16),
    "bfloat16": lambda: _plain(torch.bfloat16),
    "int8": _int8,
    "float8": _float8,
}
