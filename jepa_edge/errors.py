# SPDX-License-Identifier: Apache-2.0
"""Every error the SDK raises on purpose; a message says what came, what was expected, the fix."""


class JepaEdgeError(Exception):
    """Root of all errors that a user can act on; the CLI prints it on one line and exits with 2."""


class BundleError(JepaEdgeError):
    """A bundle is damaged, foreign, or does not fit what is asked of it."""


class CheckpointError(JepaEdgeError):
    """A checkpoint cannot be read, is unsafe to read, or is of another family."""


class ExportError(JepaEdgeError):
    """An export cannot meet what was asked: accuracy budget, precision, data."""


class CalibrationError(JepaEdgeError):
    """The data cannot support the calibration that was asked for."""


class InputError(JepaEdgeError):
    """A frame, action, recording or option does not fit the model."""


class MissingDependencyError(JepaEdgeError):
    """An optional package is needed; the message names the extra that brings it."""


class NoTrustedPlanError(JepaEdgeError):
    """Every candidate was refused, by the trust horizon or by an objective: stop and ask."""


def printable(text: str) -> str:
    """Return a stranger's text with control characters spelled out: no terminal obeys them."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
