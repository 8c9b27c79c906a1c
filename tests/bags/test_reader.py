# SPDX-License-Identifier: Apache-2.0
"""A bag reads in both formats, compressed and in parts; a damaged one gives one clear line."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer, storage_mcap
from rosbags.rosbag2.reader import zstd
from ruamel.yaml import YAML

from jepa_edge.bags.reader import Bag, find_bags
from jepa_edge.bags.topics import BagOptions, find_topics
from jepa_edge.errors import InputError
from jepa_edge.nodes.messages import FLAG, IMAGE
from jepa_edge.ros_types import ACTION, typestore

from .robot import ACTION_TOPIC, IMAGE_TOPIC, MAKE, Said, image, write_bag

BOTH = [IMAGE_TOPIC, ACTION_TOPIC]
MCAP, SQLITE3 = StoragePlugin.MCAP, StoragePlugin.SQLITE3


def few(count: int = 6, first: int = 0) -> list[Said]:
    """Images and commands, the n-th of each holding n."""
    said = []
    for n in range(first, first + count):
        pixels = np.full((4, 4, 3), n, np.uint8)
        said.append(Said(IMAGE_TOPIC, IMAGE, 10**9 * (n + 1), image(pixels, 10**9 * (n + 1))))
        command = MAKE(ACTION, data=np.full(4, n, np.float32))
        said.append(Said(ACTION_TOPIC, ACTION, 10**9 * (n + 1) + 5, command))
    return said


def values(bag: Bag) -> list[int]:
    return [int(entry.message.data[0]) for entry in bag.messages([IMAGE_TOPIC, ACTION_TOPIC])]


KINDS = [
    (plugin, mode)
    for plugin in (MCAP, SQLITE3)
    for mode in CompressionMode
    if (plugin, mode) != (SQLITE3, CompressionMode.STORAGE)
]


@pytest.mark.parametrize(("plugin", "mode"), KINDS)
def test_every_format_gives_the_messages_in_order(
    plugin: StoragePlugin, mode: CompressionMode, tmp_path: Path
) -> None:
    bag = Bag(write_bag(tmp_path / "bag", few(), plugin=plugin, compression=mode))
    assert values(bag) == [n for n in range(6) for _ in range(2)]
    assert bag.topics == {IMAGE_TOPIC: IMAGE, ACTION_TOPIC: ACTION}
    assert bag.message_count == 12
    topics = find_topics(bag, BagOptions())
    assert (topics.image, topics.action, topics.flag) == (IMAGE_TOPIC, ACTION_TOPIC, None)


@pytest.mark.parametrize("plugin", [MCAP, SQLITE3])
def test_a_single_file_is_a_bag_with_the_same_digest(plugin: StoragePlugin, tmp_path: Path) -> None:
    whole = Bag(write_bag(tmp_path / "bag", few(), plugin=plugin))
    single = Bag(whole.files[0])
    assert values(single) == values(whole)
    assert single.sha256 == whole.sha256


def split_bag(path: Path, *parts: list[Said]) -> Path:
    """A bag of several files, as `ros2 bag record --max-bag-duration` writes it."""
    yaml = YAML(typ="safe")
    merged = None
    path.mkdir()
    for number, said in enumerate(parts):
        part = write_bag(path.parent / f"{path.name}_{number}", said)
        told = yaml.load((part / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
        (file,) = part.glob("*.mcap")
        file.rename(path / file.name)
        if merged is None:
            merged = told
            continue
        for key in ("relative_file_paths", "files"):
            merged[key] += told[key]
        merged["message_count"] += told["message_count"]
        for mine, other in zip(
            merged["topics_with_message_count"], told["topics_with_message_count"], strict=True
        ):
            mine["message_count"] += other["message_count"]
    with (path / "metadata.yaml").open("w") as file:
        yaml.dump({"rosbag2_bagfile_information": merged}, file)
    return path


def test_a_bag_in_several_files_reads_as_one(tmp_path: Path) -> None:
    bag = Bag(split_bag(tmp_path / "bag", few(4), few(3, first=4)))
    assert len(bag.files) == 2
    assert values(bag) == [n for n in range(7) for _ in range(2)]
    bag.files[1].unlink()
    with pytest.raises(InputError, match="missing"):
        Bag(bag.path)


@pytest.mark.parametrize(
    ("plugin", "mode"), [(MCAP, CompressionMode.STORAGE), *KINDS[:1], KINDS[-1]]
)
def test_damage_of_any_kind_is_one_line(
    plugin: StoragePlugin, mode: CompressionMode, tmp_path: Path
) -> None:
    bag = Bag(write_bag(tmp_path / "bag", few(), plugin=plugin, compression=mode))
    (file,) = bag.files
    whole = file.read_bytes()
    commands = [n for n in range(6) for _ in range(2)]
    rng = random.Random(5)
    told, read = [], 0
    for trial in range(30):
        damaged = bytearray(whole)
        if trial % 2:
            del damaged[rng.randrange(len(damaged)) :]
        else:
            for _ in range(rng.randrange(1, 6)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            found = [int(entry.message.data[0]) for entry in Bag(bag.path).messages(BOTH)]
            # No checksums: a number may be another. But none is missing, and none is out of place.
            assert len(found) == 12
            assert sum(a == b for a, b in zip(found, commands, strict=True)) >= 7
            read += 1
        except InputError as error:
            told.append(str(error))
    assert len(told) >= 8
    assert len(told) + read == 30
    assert all(str(bag.path) in line and "\n" not in line for line in told)


def test_what_is_no_bag_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Bag(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"metadata\.yaml"):
        Bag(tmp_path)
    bag = write_bag(tmp_path / "killed", few())
    (bag / "metadata.yaml").unlink()
    with pytest.raises(InputError, match="ros2 bag reindex"):
        Bag(bag)
    assert find_bags(bag) == [bag / "killed.mcap"]  # whole as it happens, and so a bag by itself
    text = tmp_path / "text.mcap"
    text.write_text("no bag at all")
    with pytest.raises(InputError, match=r"text\.mcap is damaged or cut off"):
        Bag(text)


def test_flags_of_another_version_are_not_misread(tmp_path: Path) -> None:
    """An older ConfidenceFlag without its last field would be read as garbage."""
    definition = "std_msgs/Header header\nuint64 seq\nuint8 level\n"
    old = tmp_path / "old"
    with Writer(old, version=9, storage_plugin=MCAP) as writer:
        connection = writer.add_connection(
            "/jepa/flag", FLAG, msgdef=definition, rihs01="RIHS01_" + "0" * 64
        )
        writer.write(connection, 1, b"\x00\x01\x00\x00" + bytes(32))
    with pytest.raises(InputError, match="another definition"):
        Bag(old)


def test_ambiguous_topics_are_listed(tmp_path: Path) -> None:
    second = [Said("/cam2", IMAGE, e.received_ns, e.message) for e in few() if e.type == IMAGE]
    bag = Bag(write_bag(tmp_path / "bag", [*few(), *second]))
    with pytest.raises(InputError, match=r"/cam2, /camera/image_raw; name one with --image-topic"):
        find_topics(bag, BagOptions())
    assert find_topics(bag, BagOptions(image_topic="/cam2")).image == "/cam2"
    with pytest.raises(InputError, match="not on /cam3"):
        find_topics(bag, BagOptions(image_topic="/cam3"))
    plans = [
        Said("/jepa/planned_actions", ACTION, e.received_ns, e.message)
        for e in few()
        if e.type == ACTION
    ]
    planned = Bag(write_bag(tmp_path / "planned", [*few(), *plans]))
    assert find_topics(planned, BagOptions()).action == ACTION_TOPIC


def edit(bag: Path, change: Callable[[Any], None]) -> None:
    """Change what a bag's metadata says."""
    yaml = YAML(typ="safe")
    told = yaml.load((bag / "metadata.yaml").read_text())
    change(told["rosbag2_bagfile_information"])
    with (bag / "metadata.yaml").open("w") as file:
        yaml.dump(told, file)


def test_messages_that_the_metadata_hides_are_missed(tmp_path: Path) -> None:
    """rosbags skips a topic whose quality of service is another one in the file."""
    bag = write_bag(tmp_path / "bag", few())
    lifespan = {"sec": 0, "nsec": 0}
    profile = {
        "history": "keep_last",
        "depth": 1,
        "reliability": "reliable",
        "durability": "volatile",
        "deadline": lifespan,
        "lifespan": dict(lifespan),
        "liveliness": "automatic",
        "liveliness_lease_duration": dict(lifespan),
        "avoid_ros_namespace_conventions": False,
    }

    def other_profile(told: Any) -> None:
        for topic in told["topics_with_message_count"]:
            if topic["topic_metadata"]["name"] == ACTION_TOPIC:
                topic["topic_metadata"]["offered_qos_profiles"] = [profile]

    edit(bag, other_profile)
    with pytest.raises(InputError, match=r"tells of 12 messages .* and gives 6"):
        values(Bag(bag))

    def no_counts(told: Any) -> None:
        for topic in told["topics_with_message_count"]:
            topic["message_count"] = 0

    edit(bag, no_counts)
    with pytest.raises(InputError, match=r"tells of 12 messages .* and gives 6"):
        values(Bag(bag))


def test_the_digest_is_that_of_the_files_that_are_read(tmp_path: Path) -> None:
    """A decoy that only part of the metadata names changes nothing."""
    bags = [write_bag(tmp_path / f"bag_{n}", few(3 + n)) for n in range(2)]
    digests = [Bag(bag).sha256 for bag in bags]
    for bag in bags:
        (bag / "decoy.mcap").write_bytes(b"the same")
        edit(bag, lambda told: told["files"][0].__setitem__("path", "decoy.mcap"))
    assert [Bag(bag).sha256 for bag in bags] == digests
    assert digests[0] != digests[1]
    edit(bags[0], lambda told: told.__setitem__("relative_file_paths", ["../../etc/passwd"]))
    with pytest.raises(InputError, match="missing"):
        Bag(bags[0])


def bomb(size: int) -> bytes:
    """One zstd frame of zeros that does not tell its size."""
    compressor = zstd.ZstdCompressor()
    zeros = bytes(1 << 20)
    parts = [compressor.compress(zeros) for _ in range(size >> 20)]
    return b"".join([*parts, compressor.flush()])


def test_a_compressed_file_that_expands_beyond_measure_is_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", few(), compression=CompressionMode.FILE)
    (file,) = Bag(bag).files
    file.write_bytes(bomb(100 << 20))
    with pytest.raises(InputError, match="expands to more than"):
        Bag(bag)


def test_a_compressed_message_that_expands_beyond_measure_is_refused(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    with Writer(bag, version=9, storage_plugin=MCAP) as writer:
        connection = writer.add_connection(ACTION_TOPIC, ACTION, typestore=typestore())
        writer.write(connection, 1, bomb(100 << 20))

    def compressed(told: Any) -> None:
        told["compression_mode"], told["compression_format"] = "message", "zstd"

    edit(bag, compressed)
    with pytest.raises(InputError, match="expands to more than"):
        list(Bag(bag).messages([ACTION_TOPIC]))


def test_a_compressed_chunk_that_expands_beyond_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_mcap.zstd, "compress", lambda data: bomb(100 << 20))
    bag = write_bag(tmp_path / "bag", few(), compression=CompressionMode.STORAGE)
    with pytest.raises(InputError, match="expands to more than"):
        list(Bag(bag).messages([ACTION_TOPIC]))
