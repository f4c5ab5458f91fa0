# SPDX-License-Identifier: Apache-2.0
"""Waits for descriptors: Linux's epoll, and whom each descriptor belongs to.

`selectors` does the same with an object more for each descriptor and a call more for each event,
which at a thousand VMs is a tenth of what the engine costs.
"""

from __future__ import annotations

import select
from typing import Generic, Protocol, TypeVar

READ = select.EPOLLIN
WRITE = select.EPOLLOUT

T = TypeVar("T")


class HasDescriptor(Protocol):
    """A socket, or what has one."""

    def fileno(self) -> int:
        """Returns the descriptor."""


class Poll(Generic[T]):
    """Knows for each descriptor an owner and the events that are waited for."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._owners: dict[int, T] = {}

    def register(self, door: HasDescriptor, events: int, owner: T) -> None:
        """Waits for events of a descriptor from now on."""
        self._epoll.register(door.fileno(), events)
        self._owners[door.fileno()] = owner

    def modify(self, door: HasDescriptor, events: int) -> None:
        """Waits for other events."""
        self._epoll.modify(door.fileno(), events)

    def unregister(self, door: HasDescriptor) -> None:
        """Waits no more; to be called before the descriptor is closed."""
        self._epoll.unregister(door.fileno())
        del self._owners[door.fileno()]

    def wait(self, seconds: float | None) -> list[tuple[T, int]]:
        """Returns owners and events; at the latest after so many seconds, rounded up to 1 ms.

        A peer that has gone is reported as readable: whoever reads finds out.
        """
        owners = self._owners
        # All of them: epoll's own bound is 1023, and whose answer waits must not look silent.
        ready = self._epoll.poll(seconds, max(1, len(owners)))
        return [(owners[number], events) for number, events in ready]

    def close(self) -> None:
        """Ends the waiting."""
        self._epoll.close()
