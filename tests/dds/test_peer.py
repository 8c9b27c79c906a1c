# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge serve` runs nodes in one process and ends when it is told to."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jepa_edge.cli.serve import command
from jepa_edge.dds.participant import DdsParticipant
from jepa_edge.dds.peer import Peer, PeerConfig
from jepa_edge.errors import BundleError, InputError
from jepa_edge.nodes.parameters import Parameter
from jepa_edge.nodes.qos import Qos

STRING = "std_msgs/msg/String"
DOMAIN = 44


class Fake:
    """A node of each kind that tells what it was asked to do, and echoes a topic."""

    calls: list[str] = []  # noqa: RUF012
    values: dict[str, Any] = {}  # noqa: RUF012
    refuse = False

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._name = backend.name
        Fake.values[self._name] = backend.parameters(PARAMETERS)
        self._note("init")

    def _note(self, what: str) -> None:
        Fake.calls.append(f"{self._name} {what}")

    def configure(self) -> None:
        if Fake.refuse:
            raise BundleError("no such bundle")
        self._note("configure")
        out = self._backend.publisher("out", STRING, Qos())
        self._backend.subscribe("image", STRING, Qos(), out.publish)

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self._note(name)


PARAMETERS = (
    Parameter(name="bundle", default="", description="Bundle."),
    Parameter(name="alpha", default=0.05, low=0.0, high=1.0, description="Alpha."),
)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, class_name in (("world_model", "WorldModelNode"), ("planner", "PlannerNode")):
        fake = types.ModuleType(module)
        vars(fake).update(PARAMETERS=PARAMETERS)
        setattr(fake, class_name, Fake)
        monkeypatch.setitem(sys.modules, f"jepa_edge.nodes.{module}", fake)
    Fake.calls, Fake.values, Fake.refuse = [], {}, False


def _config(**options: Any) -> PeerConfig:
    return PeerConfig(domain=DOMAIN, localhost=True, **options)


@pytest.mark.usefixtures("fakes")
def test_nodes_start_in_order_talk_and_end_in_reverse(until: Callable[..., None]) -> None:
    config = _config(
        nodes=("world_model", "planner"),
        namespace="/robot1",
        remaps={"image": "/camera/image_raw"},
        values={"alpha": 0.1, "bundle": "x.jepa"},
    )
    with Peer(config) as peer, DdsParticipant(DOMAIN, localhost=True) as other:
        from jepa_edge.dds.backend import DdsBackend

        assert peer.node_names == ["/robot1/jepa_world_model", "/robot1/jepa_planner"]
        tool = DdsBackend(other, "tool")
        seen: list[str] = []
        tool.subscribe("/robot1/out", STRING, Qos(), lambda m: seen.append(m.data))
        camera = tool.publisher("/camera/image_raw", STRING, Qos())
        until(lambda: camera.matched)
        for _ in range(50):  # the way back may take longer to find
            camera.publish(tool.make(STRING, data="frame"))
            if seen:
                break
            time.sleep(0.05)
        assert seen[:1] == ["frame"]
        peer.check()
    assert Fake.calls == [
        "/robot1/jepa_world_model init",
        "/robot1/jepa_world_model configure",
        "/robot1/jepa_world_model activate",
        "/robot1/jepa_planner init",
        "/robot1/jepa_planner start",
        "/robot1/jepa_planner close",
        "/robot1/jepa_world_model close",
    ]
    for values in Fake.values.values():
        assert dict(values) == {"alpha": 0.1, "bundle": "x.jepa", "use_sim_time": False}


@pytest.mark.usefixtures("fakes")
def test_a_defect_in_a_callback_reaches_the_main_thread(
    monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    def configure(self: Fake) -> None:
        self._backend.timer(0.01, lambda: 1 // 0)

    monkeypatch.setattr(Fake, "configure", configure)
    with (
        Peer(_config(nodes=("world_model",))) as peer,
        pytest.raises(RuntimeError, match="/jepa_world_model failed: ZeroDivisionError"),
    ):
        until(lambda: peer.check())


@pytest.mark.usefixtures("fakes")
def test_a_node_that_cannot_start_ends_what_had_started() -> None:
    Fake.refuse = True
    with pytest.raises(BundleError, match="no such bundle"):
        Peer(_config(nodes=("planner", "world_model"))).__enter__()
    assert Fake.calls[-2:] == ["/jepa_world_model close", "/jepa_planner close"]


@pytest.mark.usefixtures("fakes")
def test_parameters_come_from_files_then_options(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "/**:\n  ros__parameters: {alpha: 0.2, of_others: 1, bundle: all.jepa}\n"
        "jepa_planner:\n  ros__parameters: {alpha: 0.3}\n"
    )
    both = ("world_model", "planner")
    with Peer(_config(nodes=both, files=[path], values={"bundle": "mine.jepa"})):
        pass
    assert Fake.values["/jepa_world_model"]["alpha"] == 0.2
    assert Fake.values["/jepa_planner"]["alpha"] == 0.3
    assert {v["bundle"] for v in Fake.values.values()} == {"mine.jepa"}

    path.write_text("jepa_planner:\n  ros__parameters: {speed: 0.3}\n")
    with pytest.raises(InputError, match="'speed' is not known"):
        Peer(_config(nodes=("planner",), files=[path])).__enter__()
    with pytest.raises(InputError, match="no node has a parameter 'speed'"):
        Peer(_config(nodes=("planner",), values={"speed": 1})).__enter__()
    with pytest.raises(InputError, match="expected 0 to 1"):
        Peer(_config(nodes=("planner",), values={"alpha": 3.0})).__enter__()


def test_impossible_peers_are_refused() -> None:
    with pytest.raises(InputError, match="no node 'toaster'"):
        _config(nodes=("toaster",))
    with pytest.raises(InputError, match="several"):
        _config(nodes=("planner", "world_model"), node_name="x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a bundle"),
        (["x.jepa", "--only", "planner", "--with", "planner"], "both given"),
        (["x.jepa", "--remap", "image=/x"], "expected FROM:=TO"),
        (["x.jepa", "--param", "alpha"], "expected NAME=VALUE"),
        (["x.jepa", "--namespace", "a b", "--localhost"], "expected parts of letters"),
    ],
)
def test_bad_options_are_said_to_be_so(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serving_ends_in_order_when_it_is_told_to(number: signal.Signals) -> None:
    code = (
        "import sys; from jepa_edge.cli import stop; stop.install()\n"
        "from jepa_edge.cli.serve import command\n"
        "command.main(sys.argv[1:], standalone_mode=False)\n"
    )
    arguments = ["--only", "safety_gate", "--localhost", "--domain", str(DOMAIN)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--node-name", "gate"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line == f"serving /gate in domain {DOMAIN}\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert errors == ""
    assert process.returncode == 0


@pytest.mark.usefixtures("fakes")
def test_a_name_for_all_nodes_that_no_node_has_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("/**:\n  ros__parameters: {alhpa: 0.2, alpha: 0.3, use_sim_time: false}\n")
    with Peer(_config(nodes=("world_model", "planner"), files=[path])):
        pass
    (message,) = [m for m in caplog.messages if "parameter file" in m]
    assert message.startswith("no node of this process has alhpa,")


_SERVE = (
    "import logging, sys\n"
    "from jepa_edge.nodes.safety_gate import SafetyGateNode\n"
    "from jepa_edge.errors import InputError\n"
    "start = SafetyGateNode.start\n"
    "def started(self):\n"
    "    start(self)\n"
    "    logging.getLogger('jepa_edge.nodes.gate').info('it works')\n"
    "    {then}\n"
    "def leave():\n"
    "    {error}\n"
    "SafetyGateNode.start = started\n"
    "from jepa_edge.cli.app import main\n"
    f"main(['serve', '--only', 'safety_gate', '--localhost', '--domain', '{DOMAIN}'])\n"
)


@pytest.mark.parametrize(
    "error", ["sys.exit(0)", "raise InputError('x')", "raise BrokenPipeError", "raise MemoryError"]
)
def test_whatever_a_callback_raises_ends_serving_with_code_1(error: str) -> None:
    code = _SERVE.format(then="self._backend.timer(0.01, leave)", error=error)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1, done.stderr
    assert "RuntimeError: /jepa_safety_gate failed" in done.stderr


def test_information_goes_to_rosout_and_not_to_stderr() -> None:
    from jepa_edge.dds.backend import DdsBackend

    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE.format(then="pass", error="pass")],
        stderr=subprocess.PIPE,
        text=True,
    )
    seen: list[tuple[int, str]] = []
    try:
        with DdsParticipant(DOMAIN, localhost=True) as participant:
            DdsBackend(participant, "console").subscribe(
                "/rosout",
                "rcl_interfaces/msg/Log",
                Qos(depth=100, transient_local=True),
                lambda m: seen.append((m.level, m.msg)),
            )
            end_s = time.monotonic() + 15.0
            while (20, "it works") not in seen:
                assert time.monotonic() < end_s, seen
                time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert errors == f"serving /jepa_safety_gate in domain {DOMAIN}\n"
    assert process.returncode == 0
