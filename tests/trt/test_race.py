# SPDX-License-Identifier: Apache-2.0
"""Which variants are raced, what is timed, and which one is kept."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend
from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError
from jepa_edge.golden import Golden
from jepa_edge.trt.race import (
    FEWEST,
    Timing,
    choose,
    raced_variants,
    time_interleaved,
    timed_calls,
)
from jepa_edge.trt.store import Candidate
from jepa_edge.world_model import WorldModel

from .rooms import to_half, to_int8, with_variants


@pytest.fixture
def many(linear_bundle: Path) -> Bundle:
    names = ("int8w", "fp16", "nvfp4", "int8", "fp8", "int8_fp16", "int4")
    return Bundle.open(with_variants(linear_bundle, dict.fromkeys(names, to_half)))


@pytest.mark.parametrize(
    ("capability", "raced"),
    [
        ("8.7", ["int8_fp16", "fp16", "int8", "int4", "fp32"]),
        ("9.0", ["int8_fp16", "fp8", "fp16", "int8", "int4", "fp32"]),
        ("11.0", ["int8_fp16", "fp8", "nvfp4", "fp16", "int8", "int4", "fp32"]),
    ],
)
def test_all_that_the_chip_can_do_is_raced_in_order(
    many: Bundle, capability: str, raced: list[str]
) -> None:
    assert list(raced_variants(many.manifest, capability)) == raced


def test_named_variants_alone_are_raced_in_order_too(many: Bundle) -> None:
    wanted = ("fp32", "fp16", "fp32", "int8w")
    assert raced_variants(many.manifest, "8.7", wanted) == ("fp16", "fp32", "int8w")
    with pytest.raises(BundleError, match=r"no variant 'bf16', it has .*--precision bf16"):
        raced_variants(many.manifest, "8.7", ("bf16",))
    words = "'fp8' needs compute capability 8.9 or newer, this GPU has 8.7"
    with pytest.raises(BundleError, match=words):
        raced_variants(many.manifest, "8.7", ("fp16", "fp8"))


def test_weights_in_few_bits_are_raced_where_nothing_else_is_there(linear_bundle: Path) -> None:
    names = ("int4w", "fp8", "int8w")
    bundle = Bundle.open(with_variants(linear_bundle, dict.fromkeys(names, to_half)))
    left = {name: bundle.manifest.variants[name] for name in names}
    manifest = msgspec.structs.replace(bundle.manifest, variants=left)
    assert raced_variants(manifest, "8.7") == ("int8w", "int4w")
    assert raced_variants(manifest, "8.9") == ("fp8",)
    manifest = msgspec.structs.replace(bundle.manifest, variants={"fp8": left["fp8"]})
    words = r"has the variants fp8, none of which TensorRT runs on compute capability 8\.7; export"
    with pytest.raises(BundleError, match=words):
        raced_variants(manifest, "8.7")


def test_every_contestant_is_timed_in_turns(linear_bundle: Path) -> None:
    bundle = Bundle.open(with_variants(linear_bundle, {"int8": to_int8()}, sqnr_db=20.0))
    golden = Golden.read(bundle)
    order: list[str] = []
    calls = {}
    for name in ("fp32", "int8"):
        timed = timed_calls(WorldModel(bundle, name, OnnxRuntimeBackend()), golden, 20)
        assert list(timed) == [("encoder", 1), ("predictor", 1), ("predictor", 20)]
        assert timed["predictor", 20]().shape == (20, 1, 6)  # type: ignore[attr-defined]
        calls[name] = {
            case: (lambda call=call, name=name: (order.append(name), call()))
            for case, call in timed.items()
        }
    measured = time_interleaved(calls)
    assert set(measured) == {"fp32", "int8"}
    for timings in measured.values():
        assert [(t.graph, t.batch) for t in timings] == list(calls["fp32"])
        for timing in timings:
            assert len(timing.times_ms) >= FEWEST
            assert min(timing.times_ms) > 0.0
    counts = [len(t.times_ms) for t in measured["fp32"]]
    assert counts == [len(t.times_ms) for t in measured["int8"]]
    tail = order[-2 * counts[-1] :]
    assert tail == ["fp32", "int8"] * counts[-1]
    assert time_interleaved({}) == {}


def test_latency_is_the_median_and_the_99th_percentile() -> None:
    timing = Timing(graph="encoder", batch=1, times_ms=tuple(float(n) for n in range(1, 102)))
    latency = timing.latency()
    assert (timing.median_ms, latency.p50_ms, latency.p99_ms) == (51.0, 51.0, 100.0)


def candidate(name: str, total_ms: float | None, *, passed: bool = True) -> Candidate:
    outcome = "passed" if passed else f"{name} is wrong"
    return Candidate(variant=name, passed=passed, total_ms=total_ms, sqnr_db={}, outcome=outcome)


def test_the_fastest_that_passes_is_kept_and_the_reason_told() -> None:
    race = [
        candidate("int8_fp16", 1.0, passed=False),
        candidate("fp16", 2.0),
        candidate("fp32", 2.5),
        candidate("int8", None, passed=False),
    ]
    kept, reason = choose(race, "x.jepa")
    assert kept == "fp16"
    assert reason == (
        "fp16 takes 2.00 ms and passes the golden outputs; slower: fp32 2.50 ms; out of the race: "
        "int8_fp16, int8"
    )
    assert choose([candidate("b", 2.0), candidate("a", 2.0)], "x")[0] == "b"
    assert choose([candidate("a", 2.0)], "x")[1].endswith("; no other variant was built")


def test_nothing_is_kept_where_nothing_passes() -> None:
    race = [candidate("int8", None, passed=False), candidate("fp16", None, passed=False)]
    with pytest.raises(
        BundleError, match=r"no engine of x\.jepa can be kept: int8: int8 is wrong; f"
    ):
        choose(race, "x.jepa")
