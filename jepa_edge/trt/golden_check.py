# SPDX-License-Identifier: Apache-2.0
"""Does a loaded variant compute what was exported: per output, and along a rollout?

Raw cosine is no gate (`jepa_edge.metrics`); an error that one step hides shows along a rollout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend
from jepa_edge.bundle import Bundle
from jepa_edge.golden import Golden
from jepa_edge.manifest import REFERENCE_VARIANT
from jepa_edge.metrics import centered_cosine, sqnr_db
from jepa_edge.rollout import roll
from jepa_edge.world_model import SQNR_EXACT_DB, WorldModel, required_db

STEPS = 5
ROLLOUT = "rollout"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCheck:
    """One output against its reference. output: a graph's name, or "rollout step 3".

    sqnr_db, cosine: centered. max_error: the largest absolute difference, latent units.
    """

    output: str
    sqnr_db: float
    required_db: float
    cosine: float
    max_error: float

    @property
    def passed(self) -> bool:
        """Whether it is near enough; a result that is not finite is not."""
        return self.sqnr_db >= self.required_db and math.isfinite(self.max_error)

    def told(self) -> str:
        """The check in words."""
        sign = ">=" if self.passed else "<"
        return (
            f"{self.output} {self.sqnr_db:.1f} dB {sign} {self.required_db:.1f}, "
            f"centered cosine {self.cosine:.5f}, largest error {self.max_error:.3g}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenCheck:
    """All outputs of a variant. note: what was not checked and why, "" where all was."""

    variant: str
    outputs: tuple[OutputCheck, ...]
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every output passes."""
        return all(output.passed for output in self.outputs)

    @property
    def failed_graphs(self) -> list[str]:
        """Names of the graphs whose outputs fail; a rollout is the predictor's."""
        names = [
            "predictor" if check.output.startswith(ROLLOUT) else check.output
            for check in self.outputs
            if not check.passed
        ]
        return list(dict.fromkeys(names))

    @property
    def sqnr_db(self) -> dict[str, float]:
        """By graph, and the last step of the rollout under "rollout"."""
        told: dict[str, float] = {}
        for check in self.outputs:
            told[ROLLOUT if check.output.startswith(ROLLOUT) else check.output] = check.sqnr_db
        return told

    def told(self) -> str:
        """All checks in one line, the failed ones alone where there are any."""
        shown = [check for check in self.outputs if not check.passed] or self.outputs
        words = "; ".join(check.told() for check in shown)
        return f"{self.variant}: {words}" + (f" ({self.note})" if self.note else "")


def check_golden(
    model: WorldModel,
    golden: Golden,
    reference: NDArray[np.float32] | None = None,
    *,
    steps: int = STEPS,
) -> GoldenCheck:
    """Hold a loaded variant against the golden outputs, and along a rollout.

    golden: of the model's bundle. reference: (B, H, N, D) from `reference_rollout`, so that several
    variants share one; None computes it, where the bundle has fp32. steps: of the rollout, 0 for
    none. A step's error may be what the graph's own may be, times the number of the step: errors of
    steps add up, and no more; and never as large as the signal.
    Raises BundleError when a graph cannot be run.
    """
    graphs = model.manifest.variants[model.variant].graphs
    outputs = []
    for name, (expected, actual) in model.golden_outputs(golden).items():
        outputs.append(_compared(name, expected, actual, required_db(graphs[name].sqnr_db)))
    note = ""
    if model.takes_actions and steps > 0:
        if reference is None:
            reference = reference_rollout(model.bundle, golden, steps, threads=model.threads)
        if reference is None:
            note = f"no rollout: the bundle has no {REFERENCE_VARIANT} to compare with"
        else:
            predictor = graphs["predictor"]
            actual = _rolled(model, golden, reference.shape[1])
            for step in range(reference.shape[1]):
                allowed = required_db(predictor.sqnr_db) - 20.0 * math.log10(step + 1)
                allowed = max(allowed, 0.0)  # below, the error is larger than the signal
                name = f"{ROLLOUT} step {step + 1}"
                outputs.append(_compared(name, reference[:, step], actual[:, step], allowed))
    return GoldenCheck(variant=model.variant, outputs=tuple(outputs), note=note)


def reference_rollout(
    bundle: Bundle, golden: Golden, steps: int = STEPS, *, threads: int = 1
) -> NDArray[np.float32] | None:
    """Roll the golden histories forward with the fp32 predictor on ONNX Runtime's CPU provider.

    Returns (B, H, N, D) float32; None without fp32 in the bundle, or without actions. The whole
    reference variant is loaded meanwhile.
    """
    if REFERENCE_VARIANT not in bundle.manifest.variants or golden.history is None:
        return None
    model = WorldModel(bundle, REFERENCE_VARIANT, OnnxRuntimeBackend(threads))
    return _rolled(model, golden, steps)


def _rolled(model: WorldModel, golden: Golden, steps: int) -> NDArray[np.float32]:
    """The graph's own rollout: never the C++ engine's, which `WorldModel.rollout` would take."""
    assert golden.history is not None
    assert golden.actions is not None
    future = [np.roll(golden.actions, -step, axis=0)[:, -1:] for step in range(1, steps)]
    actions = np.concatenate([golden.actions, *future], axis=1)  # the other rows' actions go on
    history = np.ascontiguousarray(golden.history, np.float32)
    return roll(model.predict, history, actions, model.manifest.history)


def _compared(
    name: str, expected: NDArray[np.float32], actual: NDArray[np.float32], allowed: float
) -> OutputCheck:
    if not np.isfinite(actual).all():
        return OutputCheck(
            output=name,
            sqnr_db=-math.inf,
            required_db=allowed,
            cosine=math.nan,
            max_error=math.inf,
        )
    return OutputCheck(
        output=name,
        sqnr_db=min(sqnr_db(expected, actual), SQNR_EXACT_DB),
        required_db=allowed,
        cosine=centered_cosine(expected, actual),
        max_error=float(np.abs(actual.astype(np.float64) - expected).max()),
    )
