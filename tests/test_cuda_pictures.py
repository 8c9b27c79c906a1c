# SPDX-License-Identifier: Apache-2.0
"""Pictures on the GPU, run by the emulation of CUDA, against the CPU's own bytes."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

import jepa_edge
from jepa_edge import cuda_pictures
from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.image_fit import fit_to
from jepa_edge.manifest import FitSpec, ObservationSpec
from jepa_edge.pixels import PIXEL_FORMATS, YuvSpec, to_rgb

from .cuda_module import use_emulated


def _spec(height: int, width: int, fit: FitSpec | None) -> ObservationSpec:
    return ObservationSpec(
        height=height,
        width=width,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        rate_hz=4.0,
        fit=fit,
    )


@pytest.fixture
def cuda_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    cuda_pictures.fitter.cache_clear()
    return use_emulated(monkeypatch)


SPECS = (
    _spec(12, 12, FitSpec()),
    _spec(12, 20, FitSpec(stretch=True)),
    _spec(9, 11, FitSpec(short_side=15, filter="bicubic", offset="floor")),
    _spec(9, 11, FitSpec(short_side=14, filter="bicubic")),
)


def _picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


@pytest.mark.parametrize("spec", SPECS)
def test_a_frame_has_the_bytes_of_the_cpu(cuda_module: ModuleType, spec: ObservationSpec) -> None:
    for pixels in (_picture(24, 32), _picture(31, 20), _picture(spec.height, spec.width)):
        for choice in ("model", "camera"):
            np.testing.assert_array_equal(
                cuda_pictures.fit_to(spec, pixels, choice), fit_to(spec, pixels, choice)
            )


@pytest.mark.parametrize("pixel_format", PIXEL_FORMATS)
def test_every_camera_buffer_is_read(cuda_module: ModuleType, pixel_format: str) -> None:
    buffer = np.random.default_rng(3).integers(0, 256, 4 * 24 * 40, dtype=np.uint8)
    spec, yuv, stride = SPECS[2], YuvSpec(matrix="bt709", full_range=True), 136
    shape = {"height": 18, "width": 32, "pixel_format": pixel_format, "stride": stride, "yuv": yuv}
    expected = fit_to(spec, to_rgb(buffer, **shape), "camera")
    np.testing.assert_array_equal(
        cuda_pictures.camera_frame(spec, bytes(buffer), **shape), expected
    )


def test_buffers_that_do_not_fit_are_refused(cuda_module: ModuleType) -> None:
    spec = SPECS[0]
    with pytest.raises(InputError, match=r"the buffer holds 10 bytes, expected 576 or more"):
        cuda_pictures.camera_frame(spec, bytes(10), height=24, width=16, pixel_format="nv12")
    with pytest.raises(InputError, match=r"expected an even number of pixels"):
        cuda_pictures.camera_frame(spec, bytes(10_000), height=24, width=15, pixel_format="yuyv")
    with pytest.raises(InputError, match=r"expected 12 x 12"):
        cuda_pictures.fit_to(_spec(12, 12, None), _picture(13, 12))
    with pytest.raises(InputError, match=r"expected uint8 \(H, W, 3\)"):
        cuda_pictures.fit_to(spec, np.zeros((4, 4, 3), np.float32))


def test_without_the_gpu_core_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_pictures.fitter.cache_clear()
    monkeypatch.setitem(sys.modules, "jepa_edge._cuda", None)
    monkeypatch.delattr(jepa_edge, "_cuda", raising=False)
    with pytest.raises(MissingDependencyError, match="the GPU core is not there"):
        cuda_pictures.fit_to(SPECS[0], _picture(24, 32))
