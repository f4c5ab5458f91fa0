# SPDX-License-Identifier: Apache-2.0
"""What any Python program must pay: the same messages at the same times, and nothing else.

An epoll, a heap of sends on the same 10 ms tick, `json` from the standard library. No state
machine, no session, no limits, no statistics, no tolerance of anything unexpected.
"""

from __future__ import annotations

import heapq
import json
import math
import random
import select
import socket
import time
from collections import deque
from pathlib import Path

from bench.subject import INTERVAL, TIMEOUT, phase, serve

TICK = 0.01


class Vm:
    """One guest, its socket and its outstanding challenge."""

    __slots__ = ("number", "outstanding", "rtt", "sent", "sequence", "socket")

    def __init__(self, path: Path, number: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.socket.connect(str(path))
        self.number = number
        self.sequence = 0
        self.outstanding = 0
        self.sent = 0.0
        self.rtt = math.nan

    def send(self, msg_type: str, **fields: object) -> None:
        """Sends one message."""
        self.sequence += 1
        head = {"version": 3, "revision": 1, "msg_type": msg_type, "sequence": self.sequence}
        line = json.dumps({**head, **fields}, separators=(",", ":"))
        self.socket.send(b"\n" + line.encode() + b"\n")


class Floor:
    """Challenges every guest once per interval and counts the answers."""

    def __init__(self, directory: Path, count: int) -> None:
        self._vms = {}
        self._sends = []
        self._poll = select.epoll()
        now = time.monotonic()
        for number in range(count):
            vm = Vm(directory / f"{number}.sock", number)
            self._vms[vm.socket.fileno()] = vm
            self._poll.register(vm.socket.fileno(), select.EPOLLIN)
            first = math.ceil((now + 1.0 + phase(number) * INTERVAL) / TICK) * TICK
            self._sends.append((first, number, vm))
        heapq.heapify(self._sends)
        self._dues: deque[tuple[float, int, Vm]] = deque()
        self._stopping = False
        self._wakeups = self._beats = self._misses = 0

    def run(self) -> None:
        """Watches the guests until `stop`."""
        while not self._stopping:
            wait = min(self._sends[0][0], self._next_due()) - time.monotonic()
            ready = self._poll.poll(max(0, math.ceil(wait * 1000)) / 1000)
            now = time.monotonic()
            self._wakeups += 1
            for descriptor, _ in ready:
                vm = self._vms[descriptor]
                for line in vm.socket.recv(16384).split(b"\n"):
                    if line:
                        self._take(vm, json.loads(line), now)
            while self._dues and self._dues[0][0] <= now:
                _, challenge, vm = self._dues.popleft()
                self._misses += vm.outstanding == challenge
            while self._sends[0][0] <= now:
                at, number, vm = self._sends[0]
                self._challenge(vm, time.monotonic())
                heapq.heapreplace(self._sends, (at + INTERVAL, number, vm))

    def _next_due(self) -> float:
        while self._dues and self._dues[0][2].outstanding != self._dues[0][1]:
            self._dues.popleft()
        return self._dues[0][0] if self._dues else math.inf

    def _challenge(self, vm: Vm, now: float) -> None:
        vm.outstanding = random.getrandbits(31) | 1
        vm.sent = now
        vm.send("challenge", heartbeat_challenge=vm.outstanding)
        self._dues.append((now + TIMEOUT, vm.outstanding, vm))

    def _take(self, vm: Vm, message: dict[str, object], now: float) -> None:
        if message["msg_type"] == "init":
            vm.send("init_ack", invocation_id=message["invocation_id"])
        elif message["heartbeat_response"] == vm.outstanding:
            vm.outstanding = 0
            vm.rtt = now - vm.sent
            self._beats += 1

    def stop(self) -> None:
        """Makes `run` return within an interval."""
        self._stopping = True

    def counters(self) -> dict[str, float]:
        """Returns beats, misses and wake-ups since the start."""
        return {
            "beats": self._beats,
            "misses": self._misses,
            "wakeups": self._wakeups,
            "healthy": sum(not math.isnan(vm.rtt) for vm in self._vms.values()),
            "errors": 0,
        }

    def rtts(self) -> dict[int, float]:
        """Returns the last round trip of each guest, in seconds."""
        return {vm.number: vm.rtt for vm in self._vms.values()}

    def declared(self) -> dict[str, dict[int, float]]:
        """Declares nobody lost."""
        return {}


if __name__ == "__main__":
    serve(Floor)
