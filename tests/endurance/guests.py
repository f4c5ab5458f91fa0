# SPDX-License-Identifier: Apache-2.0
"""Stand-in guests that come and go, hang, and have a check that fails, all in one process.

``python -m tests.endurance.guests DIRECTORY`` listens on DIRECTORY/<n>.sock for each guest that was
added. Each line on standard input is an order ``[what, [n, ...]]`` with one of ORDERS, and is
answered by a line of JSON: the monotonic time at which it was obeyed or, for ``silences``, by how
long each guest has been without a challenge at the longest since it was last asked, and for
``slowest``, how long this process kept a guest waiting at the most; in seconds.
"""

from __future__ import annotations

import contextlib
import functools
import json
import resource
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any, Callable

from bench.guests import CHALLENGE, HEAD, INIT, LOOKS_FOR_HOST

#: The process looks whether it is late itself this often, if nothing else happens.
TURN = 0.1
CHECK = "app"

_ANSWER = HEAD + (
    b'"heartbeat_response":%s,"heartbeat_health":"healthy","corrective_action":"none","log_msg":""'
)
_REPORT = (
    b',"vmhb":{"checks":[{"name":"%s","status":"%s","text":"as it was told","perfdata":"",'
    b'"since_ms":0,"duration_ms":2}],"rev":%d,"more":false}'
)


class Guest:
    """One guest's end of its channel, while its VM runs."""

    def __init__(self, path: Path, number: int) -> None:
        self.number = number
        self.hangs = False
        self.status = b"ok"
        self.introduces_at = float("inf")
        self.connection: socket.socket | None = None
        self._path = path
        self._sequence = 0
        #: What the host knows of the check is not what is so now.
        self._has_news = True
        self._challenged = time.monotonic()
        self._longest = 0.0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)

    def accept(self, now: float) -> socket.socket:
        """Takes the host's connection, and opens a session a little later."""
        self.disconnect()
        self.connection = self.listener.accept()[0]
        self.introduces_at = now + LOOKS_FOR_HOST * (self.number % 50) / 50
        return self.connection

    def introduce(self) -> None:
        """Opens a session."""
        self.introduces_at = float("inf")
        self._sequence = 1
        self._has_news = True
        if not self.hangs:
            self._say(INIT % (b"init", 1))

    def take(self, now: float) -> bool:
        """Reads what the host sent, and answers unless it hangs; False if the host has gone."""
        assert self.connection is not None
        try:
            data = self.connection.recv(65536)
        except ConnectionError:
            data = b""
        challenges = CHALLENGE.findall(data)
        if challenges:
            self._longest = max(self._longest, now - self._challenged)
            self._challenged = now
        if challenges and not self.hangs:
            self._sequence += 1
            answer = _ANSWER % (b"challenge_response", self._sequence, challenges[-1])
            if self._has_news:
                answer += _REPORT % (CHECK.encode(), self.status, self._sequence)
            self._has_news = False
            self._say(answer + b"}\n")
        return bool(data)

    def silence(self, now: float) -> float:
        """Returns the longest time without a challenge since it was last asked."""
        longest, self._longest = max(self._longest, now - self._challenged), 0.0
        return longest

    def becomes(self, status: bytes) -> None:
        """Its check turns; the host hears of it with the next answer."""
        self.status, self._has_news = status, True

    def disconnect(self) -> None:
        """Its end of the connection goes."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def end(self) -> None:
        """The VM goes, its socket with it."""
        self.disconnect()
        self.listener.close()
        self._path.unlink()

    def _say(self, data: bytes) -> None:
        assert self.connection is not None
        with contextlib.suppress(OSError):
            self.connection.send(data)


class Crowd:
    """All guests of a host."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._guests: dict[int, Guest] = {}
        self._poll = select.epoll()
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        self._readers: dict[int, Callable[[float], None]] = {}
        #: Who has yet to open a session.
        self._new: set[Guest] = set()
        self._slowest = 0.0

    def serve(self) -> None:
        """Serves until standard input ends."""
        turned = time.monotonic()
        while True:
            ready = self._poll.poll(0.01 if self._new else TURN)
            # Who became ready just after the last look waited for so long.
            self._slowest = max(self._slowest, time.monotonic() - turned)
            turned = time.monotonic()
            for descriptor, _ in ready:
                if descriptor in self._readers:
                    self._readers[descriptor](time.monotonic())
                elif descriptor == sys.stdin.fileno() and not self._obey():
                    return
            now = time.monotonic()
            for guest in [guest for guest in self._new if guest.introduces_at <= now]:
                self._new.remove(guest)
                guest.introduce()

    def _obey(self) -> bool:
        line = sys.stdin.readline()
        if line:
            what, numbers = json.loads(line)
            answer: Any = ORDERS[what](self, numbers)
            print(json.dumps(time.monotonic() if answer is None else answer), flush=True)
        return bool(line)

    def add(self, numbers: list[int]) -> None:
        """VMs start, with guests that are well."""
        for number in numbers:
            guest = self._guests[number] = Guest(self._directory / f"{number}.sock", number)
            self._listen(guest.listener, functools.partial(self._accept, guest))

    def remove(self, numbers: list[int]) -> None:
        """VMs go."""
        for number in numbers:
            guest = self._guests.pop(number)
            self._new.discard(guest)
            for end in filter(None, (guest.listener, guest.connection)):
                self._ignore(end)
            guest.end()

    def hang(self, numbers: list[int]) -> None:
        """Guests read, and answer no more."""
        for number in numbers:
            self._guests[number].hangs = True

    def wake(self, numbers: list[int]) -> None:
        """Guests answer again."""
        for number in numbers:
            self._guests[number].hangs = False

    def sicken(self, numbers: list[int]) -> None:
        """A check of each turns critical."""
        for number in numbers:
            self._guests[number].becomes(b"critical")

    def heal(self, numbers: list[int]) -> None:
        """The check of each is well again."""
        for number in numbers:
            self._guests[number].becomes(b"ok")

    def silences(self, numbers: list[int]) -> dict[int, float]:
        """For how long each was not challenged."""
        now = time.monotonic()
        return {number: self._guests[number].silence(now) for number in numbers}

    def slowest(self, _: list[int]) -> float:
        """How long somebody had to wait for this process."""
        slowest, self._slowest = self._slowest, 0.0
        return slowest

    def _accept(self, guest: Guest, now: float) -> None:
        if guest.connection is not None:
            self._ignore(guest.connection)
        self._listen(guest.accept(now), functools.partial(self._take, guest))
        self._new.add(guest)

    def _take(self, guest: Guest, now: float) -> None:
        if not guest.take(now) and guest.connection is not None:
            self._ignore(guest.connection)
            guest.disconnect()
            self._new.discard(guest)

    def _listen(self, end: socket.socket, work: Callable[[float], None]) -> None:
        self._readers[end.fileno()] = work
        self._poll.register(end.fileno(), select.EPOLLIN)

    def _ignore(self, end: socket.socket) -> None:
        del self._readers[end.fileno()]
        self._poll.unregister(end.fileno())


ORDERS: dict[str, Callable[[Crowd, list[int]], Any]] = {
    "add": Crowd.add,
    "remove": Crowd.remove,
    "hang": Crowd.hang,
    "wake": Crowd.wake,
    "sicken": Crowd.sicken,
    "heal": Crowd.heal,
    "silences": Crowd.silences,
    "slowest": Crowd.slowest,
}


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Crowd(Path(sys.argv[1])).serve()
