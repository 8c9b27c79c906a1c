# SPDX-License-Identifier: Apache-2.0
"""What an engine belongs to: when it fits another machine, and what is said when it does not."""

from __future__ import annotations

import msgspec
import pytest

from jepa_edge.trt.key import BuildFlags, EngineKey, MachineKey

ORIN = MachineKey(
    library="tensorrt",
    version="10.3.0.30",
    compute_capability="8.7",
    device="Orin (NVIDIA Jetson AGX Orin Developer Kit)",
    l4t="36.4.3",
    driver="12.6",
)
OTHER = {
    "library": "tensorrt_rtx",
    "version": "10.13.3.9",
    "compute_capability": "11.0",
    "device": "Orin (NVIDIA Jetson Orin Nano Developer Kit)",
    "l4t": "38.2.0",
    "driver": "13.0",
}


def key(**flags: bool) -> EngineKey:
    return EngineKey(
        machine=ORIN,
        graphs={},
        flags=BuildFlags(workspace_bytes=1, **flags),
        profiles={},
        strongly_typed={},
    )


def test_an_engine_fits_the_machine_that_it_was_built_on() -> None:
    assert key().differences(ORIN) == []


@pytest.mark.parametrize("field", OTHER)
def test_every_part_of_a_machine_counts_and_is_named(field: str) -> None:
    other = msgspec.structs.replace(ORIN, **{field: OTHER[field]})
    (line,) = key().differences(other)
    assert OTHER[field] in line
    assert getattr(ORIN, field) in line
    assert other.folder != ORIN.folder


def test_a_container_that_hides_the_release_is_the_same_machine() -> None:
    assert key().differences(msgspec.structs.replace(ORIN, l4t="")) == []


def test_a_container_that_hides_the_board_is_the_same_machine() -> None:
    assert key().differences(msgspec.structs.replace(ORIN, device="Orin")) == []
    (line,) = key().differences(msgspec.structs.replace(ORIN, device="Orin NX"))
    assert "'Orin NX'" in line


@pytest.mark.parametrize(
    ("version", "fits"),
    [("10.3.0.30", True), ("10.16.2.1", True), ("10.2.9.9", False), ("11.4.1.0", False)],
)
def test_a_version_compatible_engine_runs_later_in_its_major_version(
    version: str, fits: bool
) -> None:
    later = msgspec.structs.replace(ORIN, version=version, l4t="39.0", driver="13.2")
    assert (key(version_compatible=True).differences(later) == []) == fits
    assert (key().differences(later) == []) is False


@pytest.mark.parametrize(("capability", "fits"), [("8.0", True), ("12.0", True), ("7.5", False)])
def test_a_hardware_compatible_engine_runs_on_any_gpu_from_ampere_on(
    capability: str, fits: bool
) -> None:
    other = msgspec.structs.replace(ORIN, compute_capability=capability, device="another")
    assert (key(hardware_compatible=True).differences(other) == []) == fits
    assert key().differences(other)


def test_a_folders_name_is_plain_and_says_what_it_is_of() -> None:
    name = ORIN.folder
    assert name.startswith("tensorrt-10.3.0.30-sm87-orin-nvidia-jetson-agx-orin")
    assert name == msgspec.json.decode(msgspec.json.encode(ORIN), type=MachineKey).folder
    hostile = msgspec.structs.replace(ORIN, device="../../etc/\x00passwd")
    assert "/" not in hostile.folder
    assert "\x00" not in hostile.folder


def test_numbers_outside_their_range_are_refused() -> None:
    payload = msgspec.json.encode(BuildFlags(workspace_bytes=1))
    assert msgspec.json.decode(payload, type=BuildFlags) == BuildFlags(workspace_bytes=1)
    for bad in (payload.replace(b'level":3', b'level":6'), payload.replace(b":300", b":0")):
        assert bad != payload
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(bad, type=BuildFlags)
