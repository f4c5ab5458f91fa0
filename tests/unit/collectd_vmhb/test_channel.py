# SPDX-License-Identifier: Apache-2.0
"""Real sockets on both sides: what the kernel does is what is tested."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectd_vmhb.channel import (
    PATH_MAX,
    READ_MAX,
    RETRIES,
    UNSENT_MAX,
    Channel,
    ChannelError,
    retry_after,
)

LINE = b"\n" + b"x" * 998 + b"\n"


class Qemu:
    """Listens as QEMU does, and accepts when asked to."""

    def __init__(self, path: Path, address: str = "") -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(address or str(path))
        self.listener.listen(1)
        self.ends: list[socket.socket] = []

    def accept(self) -> socket.socket:
        end, _ = self.listener.accept()
        end.settimeout(5)
        self.ends.append(end)
        return end

    def close(self) -> None:
        for end in (*self.ends, self.listener):
            end.close()


@pytest.fixture(name="qemu")
def _qemu(tmp_path: Path) -> Iterator[Qemu]:
    qemu = Qemu(tmp_path / "port")
    yield qemu
    qemu.close()


@pytest.fixture(name="channel")
def _channel(qemu: Qemu) -> Iterator[Channel]:
    channel = Channel(str(qemu.path))
    yield channel
    channel.close()


def readable(channel: Channel) -> bool:
    return bool(select.select([channel], [], [], 5)[0])


def drain(end: socket.socket) -> bytes:
    """All that the guest can read now."""
    end.setblocking(False)
    data = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := end.recv(1 << 20):
            data += chunk
    return data


def test_a_connection_is_taken_once_qemu_accepts_it(qemu: Qemu, channel: Channel) -> None:
    assert channel.taken is False
    end = qemu.accept()
    assert channel.taken is True
    rival = Channel(str(qemu.path))
    assert rival.taken is False, "it waits until the first one leaves"
    channel.close()
    end.close()
    qemu.accept()
    assert rival.taken is True
    rival.close()


def test_bytes_go_both_ways(qemu: Qemu, channel: Channel) -> None:
    guest = qemu.accept()
    channel.write(b"\nhello\n")
    assert guest.recv(100) == b"\nhello\n"
    assert not channel.blocked
    assert channel.read() == b""
    guest.sendall(b"answer")
    assert readable(channel)
    assert channel.read() == b"answer"


def test_one_read_takes_a_bounded_bite(qemu: Qemu, channel: Channel) -> None:
    qemu.accept().sendall(b"y" * (READ_MAX + 10))
    assert readable(channel)
    assert len(channel.read()) == READ_MAX
    assert channel.read() == b"y" * 10


def test_a_guest_that_reads_nothing_loses_whole_lines_and_never_half_a_line(
    qemu: Qemu, channel: Channel
) -> None:
    guest = qemu.accept()
    for _ in range(1000):
        channel.write(LINE)
    assert channel.blocked
    received = b""
    while data := drain(guest):
        received += data
        channel.flush()
    assert not channel.blocked
    assert len(received) % len(LINE) == 0
    assert received == LINE * (len(received) // len(LINE))
    assert len(received) < 1000 * len(LINE), "the buffer has no bound"
    channel.write(b"\nnew\n")
    assert drain(guest) == b"\nnew\n"


def test_what_waits_in_the_process_is_bounded(qemu: Qemu, channel: Channel) -> None:
    qemu.accept()
    while not channel.blocked:
        channel.write(LINE)
    for _ in range(100):
        channel.write(LINE)
    assert len(channel._unsent) <= UNSENT_MAX


def test_an_end_of_file_is_told(qemu: Qemu, channel: Channel) -> None:
    guest = qemu.accept()
    guest.sendall(b"last words")
    guest.close()
    assert readable(channel)
    assert channel.read() == b"last words"
    with pytest.raises(ChannelError, match="closed by QEMU") as gone:
        channel.read()
    assert gone.value.errno == 0


def test_writing_to_a_vm_that_is_gone_is_told_and_kills_nobody(
    qemu: Qemu, channel: Channel
) -> None:
    qemu.accept().close()
    with pytest.raises(ChannelError) as gone:
        channel.write(LINE)
    assert gone.value.errno == errno.EPIPE


def test_a_reset_connection_is_told(qemu: Qemu, channel: Channel) -> None:
    guest = qemu.accept()
    channel.write(LINE)
    guest.close()  # with unread data: ECONNRESET
    with pytest.raises(ChannelError) as gone:
        channel.read()
    assert gone.value.errno == errno.ECONNRESET


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match=r"/none: No such file") as missing:
        Channel(str(tmp_path / "none"))
    assert missing.value.errno == errno.ENOENT


def test_a_socket_that_nobody_serves_is_told(qemu: Qemu) -> None:
    qemu.listener.close()
    with pytest.raises(ChannelError) as refused:
        Channel(str(qemu.path))
    assert refused.value.errno == errno.ECONNREFUSED


def test_too_many_readers_are_called_what_they_are(qemu: Qemu) -> None:
    waiting = [Channel(str(qemu.path)) for _ in range(2)]  # what its backlog of 1 holds
    with pytest.raises(ChannelError, match="another program holds the channel") as full:
        Channel(str(qemu.path))
    assert full.value.errno == errno.EAGAIN
    for channel in waiting:
        channel.close()


@pytest.mark.parametrize("length", [PATH_MAX, PATH_MAX + 1, 2 * PATH_MAX])
def test_a_path_too_long_for_an_address_is_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    directory = tmp_path / ("d" * (length - len(f"{tmp_path}//port")))
    directory.mkdir()
    monkeypatch.chdir(directory)
    qemu = Qemu(directory / "port", address="port")
    assert len(str(qemu.path)) == length
    channel = Channel(str(qemu.path))
    channel.write(LINE)
    assert qemu.accept().recv(2000) == LINE
    channel.close()
    qemu.close()


def test_a_long_path_that_is_not_there_is_named_in_full(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 100) / "port"
    with pytest.raises(ChannelError, match="d" * 100) as missing:
        Channel(str(path))
    assert missing.value.errno == errno.ENOENT


@pytest.mark.parametrize("listening", ["127.0.0.1", "0.0.0.0"])
def test_a_tcp_port_of_this_host_is_connected_to(listening: str) -> None:
    with socket.create_server((listening, 0)) as listener:
        channel = Channel((listening, listener.getsockname()[1]))
        end, _ = listener.accept()
    with end:
        channel.write(LINE)
        assert end.recv(2000) == LINE
        end.sendall(b"answer")
        assert readable(channel)
        assert channel.read() == b"answer"
    channel.close()


def test_a_tcp_port_that_nobody_serves_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(ChannelError) as refused, contextlib.closing(Channel(address)) as channel:
        channel.read()
    assert refused.value.errno == errno.ECONNREFUSED


def test_no_other_host_is_connected_to() -> None:
    # 192.0.2.0/24 is kept for documentation: no host has it.
    with pytest.raises(ChannelError, match=r"TCP port 10001 of 192\.0\.2\.1: no address of this"):
        Channel(("192.0.2.1", 10001))


def test_a_port_that_is_its_own_source_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    bind = socket.socket.bind
    monkeypatch.setattr(socket.socket, "bind", lambda sock, any_port: bind(sock, address))
    with pytest.raises(ChannelError) as refused:
        Channel(address)
    assert refused.value.errno == errno.ECONNREFUSED


def test_tries_become_rarer_up_to_a_bound() -> None:
    waits = [retry_after(failures) for failures in range(1, 9)]
    assert waits == sorted(waits)
    assert waits[0] == RETRIES[0] >= 0.2, "a client is stuck after a reopening at once"
    assert waits[-1] == RETRIES[-1] == 5.0


def test_without_a_descriptor_it_says_what_to_raise(qemu: Qemu) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        with pytest.raises(ChannelError, match=r"no descriptor is left .*LimitNOFILE") as refused:
            Channel(str(qemu.path))
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert refused.value.errno == errno.EMFILE
