# SPDX-License-Identifier: Apache-2.0
"""A serial port in place of the virtio port: raw, exclusive, and opened again after a hang-up."""

from __future__ import annotations

import os
import pty

import pytest

from vmhb_guest.port import RETRY, Port


def test_it_is_raw_unblocked_and_never_echoes() -> None:
    host, guest = pty.openpty()  # as it comes: with echo, and with lines that the kernel edits
    port = Port("unused", os.ttyname(guest))
    assert port.read(0.0) == b""
    assert port.connected
    os.write(host, b"half a line \x03\x04\r")
    assert port.read(0.1) == b"half a line \x03\x04\r"
    assert port.read(0.2) == b""
    assert port.connected, "a silent terminal is taken for one without a host"
    port.write(b"\nx\n")
    assert os.read(host, 99) == b"\nx\n"
    port.close()
    os.close(host)
    os.close(guest)


def test_only_one_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    host, guest = pty.openpty()
    first, second = (Port(name, os.ttyname(guest)) for name in ("first", "second"))
    first.read(0.0)
    second.read(0.0)
    assert (first.connected, second.connected) == (True, False)
    assert "port second is in use by another process" in capsys.readouterr().err
    first.close()
    second.read(RETRY)
    assert second.connected
    second.close()
    os.close(host)
    os.close(guest)


def test_it_comes_back_after_a_hang_up() -> None:
    host, guest = pty.openpty()
    path = os.ttyname(guest)
    port = Port("unused", path)
    port.read(0.0)
    os.close(guest)
    os.close(host)
    assert port.read(0.1) == b""
    assert (port.connected, port.deadline) == (False, 0.1 + RETRY)
    port.close()
