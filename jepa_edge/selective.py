# SPDX-License-Identifier: Apache-2.0
"""What of an update is published: flags always, the rest only when it has moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_edge.change_gate import KEEPALIVE_S, ChangeGate
from jepa_edge.session import Update
from jepa_edge.text import Label, TextLabeler
from jepa_edge.world_model import WorldModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Update):
    """An update as sinks get it. changed: whether embedding and futures go out with it.

    labels: empty where none go out.
    """

    changed: bool = True
    labels: tuple[Label, ...] = ()


def selective(
    model: WorldModel,
    *,
    on_change: float | None = None,
    keepalive_s: float = KEEPALIVE_S,
    labels: int = 3,
) -> Selective:
    """Return what thins out a model's stream.

    on_change: threshold of `ChangeGate`, None to publish everything. labels: per published frame,
    where the bundle has a text head; 0 for none.
    Raises InputError when a number does not fit, BundleError when the text head does not.
    """
    labeler = None
    if labels > 0 and model.manifest.text is not None:
        labeler = TextLabeler.load(model)
    if on_change is None:
        return Selective(labeler=labeler, top=labels)
    compared = model.manifest.latent.compared
    return Selective(
        ChangeGate(on_change, keepalive_s=keepalive_s, compared=compared),
        labeler=labeler,
        text_gate=ChangeGate(on_change, keepalive_s=keepalive_s),
        top=labels,
    )


class Selective:
    """Thins out the updates of one stream, and labels those that go out.

    Embedding and futures go out when the latent has moved, labels when the text embedding has: what
    moves a latent, such as the robot's own arm, often does not change what is to be said.
    """

    def __init__(
        self,
        gate: ChangeGate | None = None,
        *,
        labeler: TextLabeler | None = None,
        text_gate: ChangeGate | None = None,
        top: int = 3,
    ) -> None:
        """gate, text_gate: None lets everything through. labeler: None gives no labels.

        top: labels at a time.
        """
        self.gate = gate
        self.text_gate = text_gate if labeler is not None else None
        self._labeler = labeler
        self._top = top

    def __call__(self, update: Update) -> Published:
        """Return the update without what has not changed; its flag is there in any case.

        After a frame without an embedding the next one goes out.
        """
        flag, latent = update.flag, update.embedding
        if latent is None:
            for gate in (self.gate, self.text_gate):
                if gate is not None:
                    gate.reset()
            return Published(flag=flag, futures=update.futures, changed=False)
        labels = self._labels(flag.stamp_s, latent)
        if self.gate is not None and not self.gate.opens(flag.stamp_s, latent):
            return Published(flag=flag, changed=False, labels=labels)
        return Published(flag=flag, embedding=latent, futures=update.futures, labels=labels)

    @property
    def labels(self) -> bool:
        """Whether there are labels to publish."""
        return self._labeler is not None

    def told(self) -> str:
        """Say in a few words what was saved; empty without a gate."""
        return "; ".join(
            f"published {gate.passed} of {gate.seen} {what}, {100 * gate.saved_share:.0f} % saved"
            for what, gate in (("embeddings", self.gate), ("labels", self.text_gate))
            if gate is not None and gate.seen
        )

    def _labels(self, stamp_s: float, latent: NDArray[np.float32]) -> tuple[Label, ...]:
        if self._labeler is None:
            return ()
        embedding = self._labeler.embed(latent)
        if not np.isfinite(embedding).all():
            return ()
        if self.text_gate is not None and not self.text_gate.opens(stamp_s, embedding[None]):
            return ()
        return tuple(self._labeler.nearest(embedding, self._top))
