# SPDX-License-Identifier: Apache-2.0
"""The self-test's intervals: against an independent exact test, and by Monte Carlo."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from jepa_edge.calibration.selftest import (
    FALSE_REFUSALS,
    StoredTest,
    drop_unused_episodes,
    least_successes,
    make_checks,
    write_selftest,
)
from jepa_edge.recording import Recording
from jepa_edge.selftest import Counts
from jepa_edge.selftest_file import Check, Plan

FAULTS = ("occlusion@9", "freeze@9", "exposure@9", "salt@9", "inverted@9", "delay@9")


def calibration(conformal: int, alpha: float) -> SimpleNamespace:
    return SimpleNamespace(thresholds=SimpleNamespace(episodes=conformal, caution_alpha=alpha))


@pytest.mark.parametrize("tail", [0.05, 0.005, 0.0008])
@pytest.mark.parametrize("trials", [1, 5, 24, 60])
def test_the_least_count_is_fishers(trials: int, tail: float) -> None:
    for bench in range(trials + 1):
        low = least_successes(bench, trials, tail)
        for count in range(bench + 1):
            table = [[count, trials - count], [bench, trials - bench]]
            p_value = stats.fisher_exact(table, alternative="less").pvalue
            assert (count >= low) == (p_value > tail), (bench, count, low)


@pytest.mark.parametrize(("episodes", "conformal"), [(24, 105), (24, 19), (6, 300)])
def test_a_good_engine_is_seldom_refused(episodes: int, conformal: int) -> None:
    """Whole self-tests on simulated exchangeable episodes, everything drawn anew 10 000 times."""
    rng = np.random.default_rng([episodes, conformal])
    draws, alpha, horizon = 10_000, 0.1, 3
    plan = Plan(starts=(0,) * episodes, alpha=alpha, faults=FAULTS)
    rank = int(np.ceil((conformal + 1) * (1 - alpha) - 1e-9))
    least = np.zeros(episodes + 1, int)
    for bench in range(episodes + 1):
        counts = Counts(alarms=0, covered=(episodes,) * horizon, detected=(bench,) * len(FAULTS))
        checks = make_checks(counts, plan, calibration(conformal, alpha))  # type: ignore[arg-type]
        least[bench] = checks[-1].low
    # Nominal scores are uniform without loss of generality; so is what a threshold leaves below.
    levels = rng.beta(rank, conformal + 1 - rank, (draws, 1 + horizon))
    alarms = rng.binomial(episodes, 1 - levels[:, 0])
    covered = rng.binomial(episodes, levels[:, 1:])
    rates = rng.uniform(size=(draws, len(FAULTS)))
    on_bench, here = rng.binomial(episodes, rates), rng.binomial(episodes, rates)
    refused = alarms > checks[0].high
    refused |= (covered < checks[1].low).any(axis=1)
    refused |= (here < least[on_bench]).any(axis=1)
    assert refused.sum() <= stats.binom.isf(1e-4, draws, FALSE_REFUSALS)


def test_a_bad_engine_is_mostly_refused() -> None:
    """False alarms or misses in half of the episodes, 24 of them: what docs/provenance.md says."""
    plan = Plan(starts=(0,) * 24, alpha=0.1, faults=FAULTS)
    counts = Counts(alarms=1, covered=(22,) * 5, detected=(24,) * 6)
    checks = make_checks(counts, plan, calibration(105, 0.05))  # type: ignore[arg-type]
    alarms, coverage, detection = checks[0], checks[1], checks[6]
    assert stats.binom.sf(alarms.high, 24, 0.5) > 0.99
    assert stats.binom.cdf(coverage.low - 1, 24, 0.5) > 0.95
    assert stats.binom.cdf(detection.low - 1, 24, 0.5) > 0.95


def test_variants_share_episodes_and_unused_ones_go(nominal: Path, tmp_path: Path) -> None:
    def stored(digest: str) -> StoredTest:
        return StoredTest(
            recording=Recording(nominal),
            episodes=(3, 5),
            folder=f"selftest/episodes-{digest * 12}",
            plan=Plan(starts=(0, 1), alpha=0.1, faults=()),
            checks=(Check(name="false alarms", trials=2, bench=2, low=0, high=1),),
        )

    def folders() -> list[str]:
        return sorted(path.name for path in (tmp_path / "selftest").glob("episodes-*"))

    calibration = tmp_path / "calibration.json"
    calibration.write_text("{}")
    for variant in ("fp32", "int8"):
        write_selftest(tmp_path, variant, stored("a"), calibration)
    drop_unused_episodes(tmp_path)
    assert folders() == ["episodes-" + "a" * 12]
    assert len(Recording(tmp_path / "selftest" / folders()[0])) == 2
    write_selftest(tmp_path, "int8", stored("b"), calibration)
    drop_unused_episodes(tmp_path)
    assert len(folders()) == 2
    write_selftest(tmp_path, "fp32", None, calibration)
    drop_unused_episodes(tmp_path)
    assert folders() == ["episodes-" + "b" * 12]
    assert not (tmp_path / "selftest" / "fp32.json").exists()
    assert "bench itself does not pass" in stored("a").warnings[0]


@pytest.mark.parametrize(
    ("episodes", "least", "told"),
    [(24, 3, None), (24, 0, "accepts anything for detects freeze@9"), (23, 3, "fewer than 24")],
)
def test_a_self_test_that_hardly_tests_says_so(episodes: int, least: int, told: str | None) -> None:
    checks = (
        Check(name="false alarms", trials=episodes, bench=1, low=0, high=5),
        Check(name="detects freeze@9", trials=episodes, bench=9, low=least, high=episodes),
    )
    stored = StoredTest(
        recording=None,  # type: ignore[arg-type]
        episodes=tuple(range(episodes)),
        folder="",
        plan=Plan(starts=(0,) * episodes, alpha=0.1, faults=FAULTS),
        checks=checks,
    )
    assert len(stored.warnings) == (told is not None)
    assert told is None or told in stored.warnings[0]
