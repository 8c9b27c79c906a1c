# SPDX-License-Identifier: Apache-2.0
"""What `jepa-edge replay` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from jepa_edge.bags.identity import Identity
    from jepa_edge.bags.replay import ReplayReport


def tell_identity(identity: Identity) -> None:
    """Say on stderr, before anything is compared, that something else judged then."""
    for difference in identity.differing:
        click.echo(
            f"note: another {difference.field} judged then: {difference.recorded!r}, here "
            f"{difference.replayed!r}; flags of another model or calibration differ",
            err=True,
        )
    for difference in identity.numbers:
        click.echo(
            f"note: another {difference.field} judged then: {difference.recorded!r}, here "
            f"{difference.replayed!r}; last digits may differ",
            err=True,
        )


def print_report(report: ReplayReport) -> None:
    """Say how many flags came out again, and what differs in the first that did not."""
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    whole = report.compared + report.partly
    click.echo(
        f"{report.bag}: {report.flags} flags, {report.identical} of {whole} identical"
        + (f" ({report.partly} of them compared in part)" if report.partly else "")
        + (f", {report.not_made} could not be made again" if report.not_made else "")
        + f"; {report.embeddings_identical} of {report.embeddings} embeddings identical"
    )
    if not report.differences:
        if report.verdict.value == "not shown":
            click.echo("nothing differs, but not every flag could be compared in full")
        return
    first = report.differences[0]
    click.echo(
        f"first difference: run {first.run}, flag {first.seq}, stamp {first.stamp_ns * 1e-9:.9f} s"
    )
    for field in first.fields:
        click.echo(f"  {field.field:<18} recorded {field.recorded}, replayed {field.replayed}")
    counted = ", ".join(f"{name} in {count}" for name, count in report.fields.items())
    click.echo(f"differing fields: {counted}")
