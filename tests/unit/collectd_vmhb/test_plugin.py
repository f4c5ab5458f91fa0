# SPDX-License-Identifier: Apache-2.0
"""The plugin in a collectd that has all its traps: it never raises, and says what is wrong."""

from __future__ import annotations

import importlib
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Callable

import pytest

from collectd_vmhb.control import ask
from collectd_vmhb.desk import Asked
from collectd_vmhb.publish import Note
from collectd_vmhb.state import StateLock
from tests.fakes import collectd
from tests.fakes.collectd import Config

if TYPE_CHECKING:
    from collectd_vmhb.engine import Engine

#: libvirt's own driver for tests, with one domain that Nova did not make.
NOWHERE = "test:///default"


@pytest.fixture(name="plugin")
def _plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The plugin's module, as collectd has just imported it; afterwards nothing of it is left."""
    log = logging.getLogger("collectd_vmhb")
    before = (list(log.handlers), log.level, log.propagate)
    collectd.reset()
    monkeypatch.setitem(sys.modules, "collectd", collectd)
    monkeypatch.delitem(sys.modules, "collectd_vmhb.plugin", raising=False)
    yield importlib.import_module("collectd_vmhb.plugin")
    collectd.daemon.shutdown()
    monkeypatch.delitem(sys.modules, "collectd_vmhb.plugin", raising=False)
    collectd.reset()
    log.handlers, log.level, log.propagate = before


@pytest.fixture(name="daemon")
def _daemon(plugin: ModuleType) -> collectd.Daemon:
    collectd.register_notification(lambda notification: None, name="somebody")
    return collectd.daemon


def start(daemon: collectd.Daemon, state_dir: Path, **keys: Any) -> None:
    given = {
        "LibvirtUri": NOWHERE,
        "StateDir": str(state_dir),
        "ControlSocket": str(state_dir / "control.sock"),
        **keys,
    }
    daemon.configure("vmhb", *(Config(key, [value]) for key, value in given.items()))
    daemon.init()


def ours() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("vmhb-")}


def wait(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not ready():
        assert time.monotonic() < deadline, collectd.daemon.log
        time.sleep(0.01)


def errors(daemon: collectd.Daemon) -> str:
    return "\n".join(daemon.lines(collectd.LOG_ERR))


def faults(daemon: collectd.Daemon) -> list[tuple[str, int]]:
    return [(note.type_instance, note.severity) for note in daemon.notifications]


def test_importing_registers_under_our_name_and_starts_nothing(daemon: collectd.Daemon) -> None:
    for kind in ("config", "init", "read", "shutdown"):
        assert list(daemon.callbacks[kind]) == ["python.vmhb"]
    assert ours() == set()


def test_threads_live_from_init_to_shutdown(daemon: collectd.Daemon, tmp_path: Path) -> None:
    # collectd forks between config and init: a thread from before would be dead.
    keys = {
        "LibvirtUri": NOWHERE,
        "StateDir": str(tmp_path),
        "ControlSocket": f"{tmp_path}/control.sock",
    }
    daemon.configure("vmhb", *(Config(key, [value]) for key, value in keys.items()))
    assert ours() == set()
    daemon.init()
    assert {"vmhb-engine", "vmhb-dispatch", "vmhb-state", "vmhb-control"} <= ours()
    daemon.shutdown()
    assert ours() == set()
    assert errors(daemon) == ""


def test_notifications_wait_for_the_first_read(daemon: collectd.Daemon, tmp_path: Path) -> None:
    start(daemon, tmp_path)
    # What the engine says first is on disk before anybody may hear it.
    wait((tmp_path / "engine.json").exists)
    assert faults(daemon) == []
    assert daemon.read()
    wait(lambda: faults(daemon))
    assert faults(daemon) == [("open-faults", collectd.NOTIF_OKAY)]
    assert errors(daemon) == ""


def test_a_read_dispatches_the_engines_values(daemon: collectd.Daemon, tmp_path: Path) -> None:
    start(daemon, tmp_path)
    assert daemon.read()
    names = {value.type_instance for value in daemon.values}
    assert {"vms-healthy", "vms-failed", "loop", "awareness", "loops", "errors"} <= names
    assert {value.plugin for value in daemon.values} == {"vmhb"}


def test_a_read_before_init_does_nothing(daemon: collectd.Daemon) -> None:
    assert daemon.read()
    assert daemon.values == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (Config("Intervall", [1]), ["Intervall", "Interval?"]),
        (Config("Interval", ["1"]), ['Interval "1"', "unquoted number"]),
        (Config("Interval", [1, 2]), ["Interval 1 2", "exactly one value"]),
        (Config("Timeout", [5]), ["Timeout 5", "Interval 1 (the default)"]),
        (Config("StateDir", ["vmhb"]), ["StateDir", "absolute path"]),
        (Config("Vm", ["x"], [Config("Interval", [1])]), ["<Vm", "no block"]),
    ],
)
def test_a_mistake_is_told_by_key_and_leaves_the_plugin_off(
    daemon: collectd.Daemon, line: Config, words: list[str]
) -> None:
    daemon.configure("vmhb", line)
    for word in words:
        assert word in errors(daemon)
    assert "stays off" in errors(daemon)
    assert daemon.notifications == []
    daemon.init()
    assert daemon.notifications == []
    assert daemon.read()
    assert daemon.read()
    (note,) = daemon.notifications
    assert (note.type_instance, note.severity) == ("engine-impaired", collectd.NOTIF_FAILURE)
    assert words[0] in note.message
    assert daemon.values == []
    assert ours() == set()


def test_all_mistakes_are_told_at_once(daemon: collectd.Daemon) -> None:
    daemon.configure("vmhb", Config("Intervall", [1]), Config("Mode", ["watch"]))
    assert "Intervall" in errors(daemon)
    assert "observe, attach, report" in errors(daemon)


def test_a_long_mistake_fits_into_a_notification(daemon: collectd.Daemon) -> None:
    daemon.configure("vmhb", Config("é" * 300, ["é" * 300]))
    daemon.init()
    assert daemon.read()
    (note,) = daemon.notifications
    assert isinstance(note.message, str)
    assert len(note.message.encode()) <= 255


def test_a_second_block_is_a_mistake(daemon: collectd.Daemon, tmp_path: Path) -> None:
    daemon.configure("vmhb", Config("LibvirtUri", [NOWHERE]), Config("StateDir", [str(tmp_path)]))
    daemon.configure("vmhb", Config("Interval", [1]))
    assert "second <Module vmhb> block" in errors(daemon)
    daemon.init()
    assert daemon.read()
    assert faults(daemon) == [("engine-impaired", collectd.NOTIF_FAILURE)]
    assert ours() == set()


def test_an_error_of_ours_while_configuring_does_not_end_collectd(daemon: collectd.Daemon) -> None:
    daemon.configure("vmhb", Config("Interval", [None]))  # type: ignore[list-item]
    assert "Interval" in errors(daemon)
    daemon.callbacks["config"]["python.vmhb"].function(None)
    daemon.init()
    assert ours() == set()


def test_without_libvirts_binding_it_says_what_to_install(
    daemon: collectd.Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("collectd_vmhb.engine", "collectd_vmhb.hypervisor"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "libvirt", None)
    start(daemon, tmp_path)
    assert "python3-libvirt" in errors(daemon)
    assert "Traceback" not in errors(daemon)
    assert daemon.read()
    assert faults(daemon) == [("engine-impaired", collectd.NOTIF_FAILURE)]
    assert ours() == set()


def test_beside_a_live_engine_it_says_so_and_does_nothing(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    lock = StateLock(tmp_path)
    start(daemon, tmp_path)
    assert "another engine holds" in errors(daemon)
    assert "Traceback" not in errors(daemon)
    assert daemon.read()
    assert daemon.values == []
    assert daemon.notifications == []
    assert ours() == set()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    lock.release()


def test_after_a_shutdown_the_next_engine_gets_the_lock(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    start(daemon, tmp_path)
    daemon.shutdown()
    StateLock(tmp_path).release()


def test_a_state_directory_that_cannot_be_used_is_told(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    start(daemon, tmp_path / "file")
    assert "StateDir" in errors(daemon)
    assert "Traceback" not in errors(daemon)
    assert ours() == set()


@pytest.mark.parametrize("obstacle", ["file", "served"])
def test_without_a_control_socket_the_engine_runs_all_the_same(
    daemon: collectd.Daemon, tmp_path: Path, obstacle: str
) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as other:
        if obstacle == "served":
            other.bind(str(path))
            other.listen()
        else:
            path.write_text("precious")
        start(daemon, tmp_path / "state", ControlSocket=str(path))
        assert len(daemon.lines(collectd.LOG_ERR)) == 1
        assert f"no control socket at {path}" in errors(daemon)
        assert "vmhb-engine" in ours()
        daemon.shutdown()
    assert path.exists()


def test_the_socket_of_a_dead_engine_is_replaced_and_goes_with_ours(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "control.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    start(daemon, tmp_path, ControlSocket=str(path))
    assert ask(str(path), {"command": "status"})["vms"] == []
    daemon.shutdown()
    assert errors(daemon) == ""
    assert not path.exists()


def test_a_state_that_is_none_is_set_aside_and_the_engine_runs(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    (tmp_path / "engine.json").write_text("{}")
    start(daemon, tmp_path)
    assert "engine.json.unreadable" in errors(daemon)
    assert daemon.read()
    wait(lambda: faults(daemon))
    assert json.loads((tmp_path / "engine.json").read_text())["incidents"] == []


def test_a_disk_that_does_not_take_the_state_is_a_fault_of_the_host(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    (tmp_path / "engine.json.new").mkdir()
    start(daemon, tmp_path)
    assert daemon.read()
    wait(lambda: ("engine-impaired", collectd.NOTIF_WARNING) in faults(daemon))
    assert "the state is not saved" in errors(daemon)


def running(daemon: collectd.Daemon) -> Engine:
    """The engine of a plugin that was started."""
    read: Any = daemon.callbacks["read"]["python.vmhb"].function
    engine: Engine = read.__self__._engine
    return engine


@contextmanager
def standing_still(engine: Engine) -> Iterator[None]:
    """Hold the loop's thread."""
    held, go_on = threading.Event(), threading.Event()

    def hold(now: float) -> None:
        held.set()
        go_on.wait()

    engine.post(Asked(hold))
    assert held.wait(10)
    try:
        yield
    finally:
        go_on.set()


def test_an_engine_that_stands_still_is_told_and_repeats_everything_when_it_is_back(
    daemon: collectd.Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collectd_vmhb.pulse.STUCK_AFTER", 0.0)
    start(daemon, tmp_path)
    daemon.read()
    wait(lambda: faults(daemon))
    with standing_still(running(daemon)):
        for _ in range(10):
            assert daemon.read()
        wait(lambda: len(faults(daemon)) > 1)
        assert faults(daemon)[1:] == [("engine-impaired", collectd.NOTIF_FAILURE)]
        assert "stands still (in wait, line " in daemon.notifications[-1].message
        assert "stands still" in errors(daemon)

    def is_back() -> bool:
        assert daemon.read()
        return len(faults(daemon)) > 3

    wait(is_back)
    assert faults(daemon)[2:] == [
        ("engine-impaired", collectd.NOTIF_OKAY),
        ("open-faults", collectd.NOTIF_OKAY),
    ]


@pytest.mark.parametrize("why", ["observe", "maintenance"])
def test_one_that_is_to_be_quiet_stands_still_in_the_log_alone(
    daemon: collectd.Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr("collectd_vmhb.pulse.STUCK_AFTER", 0.0)
    start(daemon, tmp_path, **({"Mode": "observe"} if why == "observe" else {}))
    daemon.read()
    wait(lambda: faults(daemon))
    if why == "maintenance":
        running(daemon).desk.pause("", 3600.0, "new firmware")
    with standing_still(running(daemon)):
        for _ in range(10):
            assert daemon.read()
        wait(lambda: "stands still" in errors(daemon))
    wait(lambda: daemon.read() and "turns again" in str(daemon.log))
    assert {name for name, _ in faults(daemon)} == {"open-faults"}


def test_a_notification_that_nobody_takes_is_logged(plugin: ModuleType) -> None:
    plugin.dispatch(Note("vm", "heartbeat-lost", "failure", "VM web: silent", 1.0))
    assert "notification not delivered" in errors(collectd.daemon)
    assert "VM web: silent" in errors(collectd.daemon)


@pytest.mark.parametrize("text", ["a\0b", "half \ud800", "é" * 2000, "line\nline"])
def test_the_log_takes_any_text(daemon: collectd.Daemon, text: str) -> None:
    logging.getLogger("collectd_vmhb.engine").warning("the guest says: %s", text)
    lines = daemon.lines(collectd.LOG_WARNING)
    assert lines
    assert all(line.startswith("vmhb: ") for line in lines)
    assert "\0" not in "".join(lines)


def test_levels_keep_their_meaning(daemon: collectd.Daemon) -> None:
    log = logging.getLogger("collectd_vmhb.engine")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        log.log(level, "text")
    assert [level for level, _ in daemon.log] == [
        collectd.LOG_INFO,
        collectd.LOG_WARNING,
        collectd.LOG_ERR,
        collectd.LOG_ERR,
    ]
