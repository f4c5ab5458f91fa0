# SPDX-License-Identifier: Apache-2.0
"""Stand-in guests: N unix sockets in one process, each answering like the agent in a quiet VM.

``python -m bench.guests DIRECTORY N`` listens on DIRECTORY/<n>.sock and obeys JSON lines on its
standard input: ``{"do": "hang", "count": K}`` makes the first K guests read and answer no more,
``{"do": "report"}`` prints when each guest read which challenge since the last report.
"""

from __future__ import annotations

import json
import re
import resource
import select
import socket
import sys
import time
from pathlib import Path

#: The agent looks for its host this often, so that many notice a new one at different times.
LOOKS_FOR_HOST = 0.5

CHALLENGE = re.compile(rb'"heartbeat_challenge":(\d+)')
HEAD = b'\n{"version":3,"revision":1,"msg_type":"%s","sequence":%d,'
INIT = HEAD + (
    b'"invocation_id":7,"name":"guest","heartbeat_interval_ms":1000,"vote_secs":0,'
    b'"shutdown_notice_secs":0,"suspend_notice_secs":0,"resume_notice_secs":0,"restart_secs":0,'
    b'"corrective_action":"log","vmhb":{"caps":["checks","interval"],"max_line":16384}}\n'
)
_ANSWER = HEAD + (
    b'"heartbeat_response":%s,"heartbeat_health":"healthy","corrective_action":"none","log_msg":""'
)
_REPORT = (
    b',"vmhb":{"checks":[{"name":"disk","status":"ok","text":"12 GiB free","perfdata":"",'
    b'"since_ms":1000,"duration_ms":2}],"rev":1,"more":false}'
)


class Guest:
    """One guest's end: opens a session, reports its check once, then answers plainly."""

    def __init__(self, connection: socket.socket, number: int) -> None:
        self.connection = connection
        self.number = number
        self.sequence = 0
        self.challenged: list[float] = []

    def introduce(self) -> None:
        """Sends init."""
        self.sequence = 1
        self.connection.send(INIT % (b"init", 1))

    def take(self, hangs: bool) -> None:
        """Reads what the host sent and answers its challenge, unless it hangs."""
        data = self.connection.recv(65536)
        if not data:
            raise ConnectionResetError
        challenges = CHALLENGE.findall(data)
        if not challenges:
            return
        self.challenged.append(time.monotonic())
        if not hangs:
            self.sequence += 1
            answer = _ANSWER % (b"challenge_response", self.sequence, challenges[-1])
            first = self.sequence == 2
            self.connection.send(answer + (_REPORT if first else b"") + b"}\n")


def main(directory: Path, count: int) -> None:
    """Serves until standard input ends."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    poll = select.epoll()
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    listeners = {}
    for number in range(count):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(directory / f"{number}.sock"))
        listener.listen(1)
        poll.register(listener.fileno(), select.EPOLLIN)
        listeners[listener.fileno()] = listener, number
    guests: dict[int, Guest] = {}
    silent: list[tuple[float, Guest]] = []
    hung = 0
    print("ready", flush=True)
    while True:
        for descriptor, _ in poll.poll(0.01 if silent else None):
            if descriptor in guests:
                guest = guests[descriptor]
                try:
                    guest.take(hangs=guest.number < hung)
                except ConnectionError:
                    # The host has gone, as at the end of every run.
                    poll.unregister(descriptor)
            elif descriptor in listeners:
                listener, number = listeners[descriptor]
                guest = Guest(listener.accept()[0], number)
                guests[guest.connection.fileno()] = guest
                poll.register(guest.connection.fileno(), select.EPOLLIN)
                silent.append((time.monotonic() + LOOKS_FOR_HOST * (number % 50) / 50, guest))
            else:
                line = sys.stdin.readline()
                if not line:
                    return
                order = json.loads(line)
                if order["do"] == "hang":
                    hung = order["count"]
                    print(json.dumps({"hung_at": time.monotonic()}), flush=True)
                else:
                    print(json.dumps(report(guests)), flush=True)
        now = time.monotonic()
        for guest in [guest for at, guest in silent if at <= now]:
            guest.introduce()
        silent = [waiting for waiting in silent if waiting[0] > now]


def report(guests: dict[int, Guest]) -> dict[int, list[float]]:
    """Returns when each guest was challenged, and forgets it."""
    times = {guest.number: guest.challenged for guest in guests.values()}
    for guest in guests.values():
        guest.challenged = []
    return times


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
