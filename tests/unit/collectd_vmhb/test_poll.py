# SPDX-License-Identifier: Apache-2.0
"""Who owns the descriptor that something happens on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from collectd_vmhb.poll import READ, WRITE, Poll


class Door:
    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number


@pytest.fixture(name="pair")
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_the_owner_of_what_is_ready_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    poll: Poll[str] = Poll()
    poll.register(pair[0], READ, "ours")
    assert poll.wait(0.0) == []
    pair[1].send(b"!")
    assert poll.wait(1.0) == [("ours", READ)]
    poll.modify(pair[0], READ | WRITE)
    assert poll.wait(1.0) == [("ours", READ | WRITE)]
    poll.unregister(pair[0])
    assert poll.wait(0.0) == []
    poll.close()


def test_a_thousand_and_more_are_told_at_once() -> None:
    poll: Poll[int] = Poll()
    doors = [os.eventfd(1) for _ in range(1500)]
    for number, door in enumerate(doors):
        poll.register(Door(door), READ, number)
    assert len(poll.wait(0.0)) == len(doors)
    poll.close()
    for door in doors:
        os.close(door)


def test_a_peer_that_has_gone_is_noticed(pair: tuple[socket.socket, socket.socket]) -> None:
    poll: Poll[str] = Poll()
    poll.register(pair[0], READ, "ours")
    pair[1].close()
    ((owner, events),) = poll.wait(1.0)
    assert owner == "ours"
    assert events & READ
    poll.close()
