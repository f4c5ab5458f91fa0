# SPDX-License-Identifier: Apache-2.0
"""Honest guests in one process; in turn one faints, to see how exactly its host finds out.

``python -m tests.hostile.honest DIRECTORY N`` listens on DIRECTORY/<n>.sock. Each line on standard
input is answered by what happened since the last: ``{"faints": [[n, when the deciding challenge was
read], ...], "read": {n: [when each challenge was read, ...]}}``.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from pathlib import Path

from bench.guests import LOOKS_FOR_HOST, Guest
from tests.hostile.engine import INTERVAL, MISSES, TIMEOUT

#: Seconds between two faints: few enough at a time not to be a mass; and so many that nobody faints
#: again before the last incident is over (HoldDown).
FAINT_EVERY = 0.2
#: How long a guest is out: until its host must have noticed, with room.
FAINT_FOR = (MISSES + 1) * INTERVAL + TIMEOUT + 1.5


class Crowd:
    """All guests, and who of them is out."""

    def __init__(self, directory: Path, count: int) -> None:
        self._poll = select.epoll()
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        self._guests: dict[int, Guest] = {}
        self._listeners: dict[int, tuple[socket.socket, int]] = {}
        self._silent: list[tuple[float, Guest]] = []
        #: Until when a guest is out, and the challenges that it has read since.
        self._out: dict[int, tuple[float, list[float]]] = {}
        self._faints: list[tuple[int, float]] = []
        self._next = 0
        self._faint_at = float("inf")
        for number in range(count):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(directory / f"{number}.sock"))
            listener.listen(1)
            self._poll.register(listener.fileno(), select.EPOLLIN)
            self._listeners[listener.fileno()] = listener, number

    def serve(self) -> None:
        """Serves until standard input ends."""
        print("ready", flush=True)
        while True:
            for descriptor, _ in self._poll.poll(0.01):
                if descriptor in self._guests:
                    self._take(descriptor)
                elif descriptor in self._listeners:
                    self._accept(descriptor)
                elif not self._obey():
                    return
            self._turn(time.monotonic())

    def _accept(self, descriptor: int) -> None:
        listener, number = self._listeners[descriptor]
        guest = Guest(listener.accept()[0], number)
        self._guests[guest.connection.fileno()] = guest
        self._poll.register(guest.connection.fileno(), select.EPOLLIN)
        self._silent.append((time.monotonic() + LOOKS_FOR_HOST * (number % 50) / 50, guest))

    def _take(self, descriptor: int) -> None:
        guest = self._guests[descriptor]
        _, missed = self._out.get(guest.number, (0.0, None))
        before = len(guest.challenged)
        try:
            guest.take(hangs=missed is not None)
        except ConnectionError:
            self._poll.unregister(descriptor)
        if missed is not None:
            missed += guest.challenged[before:]
            if len(missed) - MISSES in range(len(guest.challenged) - before):
                self._faints.append((guest.number, missed[MISSES - 1]))

    def _turn(self, now: float) -> None:
        for guest in [guest for at, guest in self._silent if at <= now]:
            guest.introduce()
        self._silent = [waiting for waiting in self._silent if waiting[0] > now]
        self._out = {number: out for number, out in self._out.items() if out[0] > now}
        if now >= self._faint_at:
            self._faint_at = now + FAINT_EVERY
            self._out[self._next] = now + FAINT_FOR, []
            self._next = (self._next + 1) % len(self._listeners)

    def _obey(self) -> bool:
        line = sys.stdin.readline()
        if line:
            self._faint_at = time.monotonic() if json.loads(line)["faint"] else float("inf")
            read = {guest.number: guest.challenged for guest in self._guests.values()}
            print(json.dumps({"faints": self._faints, "read": read}), flush=True)
            self._faints = []
            for guest in self._guests.values():
                guest.challenged = []
        return bool(line)


if __name__ == "__main__":
    Crowd(Path(sys.argv[1]), int(sys.argv[2])).serve()
