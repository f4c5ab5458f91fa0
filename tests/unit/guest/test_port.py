# SPDX-License-Identifier: Apache-2.0
"""The guest end of the channel, on pseudo terminals and files that behave like the device."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import tty
from pathlib import Path

import pytest

from vmhb_guest.port import RETRY, Port, find_port

NAME = "org.openstack.vmhb.0"


def terminal() -> tuple[int, int, str]:
    host, guest = pty.openpty()
    tty.setraw(guest)
    return host, guest, os.ttyname(guest)


def make_port(root: Path, number: str, name: str) -> None:
    (root / "dev").mkdir(exist_ok=True)
    (root / "dev" / number).touch()
    directory = root / "sys/class/virtio-ports" / number
    directory.mkdir(parents=True)
    (directory / "name").write_text(name + "\n")


def test_find_port_without_udev(tmp_path: Path) -> None:
    make_port(tmp_path, "vport1p1", "org.qemu.guest_agent.0")
    make_port(tmp_path, "vport1p2", NAME)
    assert find_port(NAME, str(tmp_path)) == str(tmp_path / "dev/vport1p2")
    assert find_port("cgcs.heartbeat", str(tmp_path)) is None


def test_find_port_by_udev_link(tmp_path: Path) -> None:
    link = tmp_path / "dev/virtio-ports" / NAME
    link.parent.mkdir(parents=True)
    link.touch()
    assert find_port(NAME, str(tmp_path)) == str(link)


def test_it_waits_for_hot_plug_without_spinning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = Port(NAME, root=str(tmp_path))
    for now in (0.0, 0.1, RETRY, 2 * RETRY):
        assert port.read(now) == b""
    assert port.deadline == 3 * RETRY
    assert capsys.readouterr().err.count(f"waiting for virtio port {NAME}") == 1
    make_port(tmp_path, "vport1p1", NAME)
    (tmp_path / "dev/vport1p1").write_bytes(b"hello\n")
    assert port.read(3 * RETRY - 0.01) == b""
    assert port.read(3 * RETRY) == b"hello\n"
    port.close()


def test_without_a_host_it_is_not_polled_but_asked_again(tmp_path: Path) -> None:
    device = tmp_path / "port"
    device.touch()  # reads b"", as a port without a host does
    port = Port(NAME, str(device))
    assert port.read(0.0) == b""
    assert (port.connected, port.fileno(), port.deadline) == (False, None, RETRY)
    device.write_bytes(b"hi\n")
    assert port.read(RETRY / 2) == b""
    assert port.read(RETRY) == b"hi\n"
    assert (port.connected, port.deadline) == (True, None)
    assert port.read(RETRY) == b""
    assert not port.connected
    port.close()


def test_it_talks_both_ways_and_reopens_after_an_unplug() -> None:
    host, guest, path = terminal()
    port = Port(NAME, path)
    assert port.read(0.0) == b""
    assert port.connected
    port.write(b"ping\n")
    assert os.read(host, 99) == b"ping\n"
    os.write(host, b"pong\n")
    assert port.read(0.1) == b"pong\n"
    os.close(host)
    os.close(guest)
    assert port.read(0.2) == b""
    assert (port.connected, port.fileno(), port.deadline) == (False, None, 0.2 + RETRY)
    port.close()


def test_a_half_written_line_is_finished_before_anything_else() -> None:
    host, guest, path = terminal()
    port = Port(NAME, path)
    port.read(0.0)
    first, second = b"a" * 200000, b"b" * 10
    port.write(first)
    assert port.unwritten
    port.write(second)
    received = b""
    while len(received) < len(first + second):
        received += os.read(host, 65536)
        port.write(b"")
    assert received == first + second
    assert not port.unwritten
    port.close()
    os.close(host)
    os.close(guest)


def test_who_holds_a_port_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host, guest, path = terminal()
    os.close(guest)
    script = "exec 9<>$0; flock -x 9; echo held; read line"
    command = ["/bin/sh", "-c", script, path]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    Port(NAME, path).read(0.0)
    holder.communicate()
    os.close(host)
    said = f"port {NAME} is in use by process {holder.pid} (sh): only one can open it"
    assert capsys.readouterr().err == f"vmhb-guest: INFO: {said}\n"


def test_a_port_in_use_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = tmp_path / "port"
    device.touch()

    def busy(*_: object) -> int:
        raise OSError(errno.EBUSY, "busy")

    port = Port(NAME, str(device))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", busy)
        for now in (0.0, 1.0, 2.0):
            port.read(now)
    said = f"port {NAME} is in use by another process, which we cannot see: only one can open it"
    assert capsys.readouterr().err == f"vmhb-guest: INFO: {said}\n"
    device.write_bytes(b"free\n")
    assert port.read(3.0) == b"free\n"
    port.close()
