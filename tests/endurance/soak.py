# SPDX-License-Identifier: Apache-2.0
"""VMs join, leave, hang and fall ill at random; each is told of in time, and nothing else is."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import time
from collections.abc import Callable, Generator, Iterator

from bench.subject import uuid
from collectd_vmhb.awareness import SCORE_MAX
from tests.endurance.host import Host
from tests.endurance.ledger import LOST, SICK, Ledger
from tests.endurance.usage import Usage
from tests.lab.layout import LabError

#: Seconds between two looks at what was told; what is measured is that much too long at most.
LOOK = 0.02
#: Seconds between two looks at the host's own lateness, at all VMs' health, and at its memory.
SCORE, SHOWN, USED = 0.5, 10.0, 10.0
#: A VM that has just started is shown as healthy within so many seconds, room not counted.
ESTABLISHED = 10.0
#: Share of VMs that are in some trouble at a time: few enough not to look like one cause.
TROUBLED = 0.08

#: What happens to one VM, as a generator of the seconds until it goes on.
Episode = Generator[float, None, None]


class Soak:
    """A host in use, and the ledger of it; `run` as long and as often as wanted."""

    def __init__(self, host: Host, ledger: Ledger, seed: str) -> None:
        self.host = host
        self.ledger = ledger
        self.usage = Usage()
        self._leaving = True
        self._random = random.Random(seed)
        #: Who may get into trouble, and who of them is well.
        self._mine = frozenset(host.there)
        self._well = sorted(host.there)
        self._going: list[tuple[float, int, Episode, int]] = []
        self._order = itertools.count()
        self._changed: dict[int, float] = {}
        #: The health that was shown of each, and when.
        self._healths: dict[int, str] = {}
        self._looked = 0.0
        self._next = dict.fromkeys((SCORE, SHOWN), 0.0)

    @property
    def troubled(self) -> int:
        """How many VMs are in some trouble."""
        return len(self._going)

    def run(self, seconds: float, calm: bool = False) -> None:
        """Goes on for so long; if ``calm``, no VM gets into new trouble."""
        until = time.monotonic() + seconds
        most = max(1, round(TROUBLED * (len(self._well) + len(self._going))))
        while (now := time.monotonic()) < until:
            if not calm and len(self._going) < most:
                self._begin(now)
            self.look()
            time.sleep(LOOK)

    @contextlib.contextmanager
    def without_joins(self) -> Iterator[None]:
        """No VM leaves or joins, until the end of the block."""
        self.settle()
        self._leaving = False
        try:
            yield
        finally:
            self._leaving = True

    def settle(self, timeout: float = 120.0) -> None:
        """Lets all trouble come to its end."""
        until = time.monotonic() + timeout
        while self._going and time.monotonic() < until:
            self.run(1.0, calm=True)
        self.run(2.0, calm=True)

    def look(self) -> None:
        """Takes what was told, has time pass for who is in trouble, and looks at the host."""
        now = time.monotonic()
        for who, fault, bad, text in self.host.news():
            self.ledger.heard(who, fault, bad, text, now)
        self.ledger.turn(now)
        while self._going and self._going[0][0] <= now:
            _, _, episode, number = heapq.heappop(self._going)
            self._go_on(episode, number, now)
        if now >= self._next[SCORE]:
            self._next[SCORE] = now + SCORE
            self._look_at_status(now)

    def _begin(self, now: float) -> None:
        number = self._well.pop(self._random.randrange(len(self._well)))
        kinds: list[Callable[[int], Episode]] = [self._hang]
        if number not in self.host.real:
            kinds += [self._fall_ill, *[self._leave] * self._leaving]
        self._go_on(self._random.choice(kinds)(number), number, now)

    def _go_on(self, episode: Episode, number: int, now: float) -> None:
        self._changed[number] = now
        try:
            wait = next(episode)
        except StopIteration:
            self._well.append(number)
            return
        heapq.heappush(self._going, (now + wait, next(self._order), episode, number))

    # -- what can happen --------------------------------------------------------------------

    def _hang(self, number: int) -> Episode:
        yield self._random.uniform(0, 5)
        self.ledger.began(uuid(number), LOST, self.host.hang(number))
        yield from self._until_told(number)
        may_leave = self._leaving and number not in self.host.real
        if may_leave and self._random.random() < 0.2:
            yield from self._leave(number)
            return
        self.ledger.ended(uuid(number), LOST, self.host.wake(number))
        yield from self._until_told(number)

    def _fall_ill(self, number: int) -> Episode:
        yield self._random.uniform(0, 5)
        self.ledger.began(uuid(number), SICK, self.host.order("sicken", [number]))
        yield from self._until_told(number)
        self.ledger.ended(uuid(number), SICK, self.host.order("heal", [number]))
        yield from self._until_told(number)

    def _leave(self, number: int) -> Episode:
        yield self._random.uniform(0, 5)
        self.ledger.gone(uuid(number), self.host.leave([number]))
        yield self._random.uniform(2, 10)
        began = self.host.join([number])
        while self._looked <= began or self._healths.get(number) != "healthy":
            if time.monotonic() > began + ESTABLISHED + self.ledger.room:
                self.ledger.missed.append(f"{began:.1f} {uuid(number)} is back and not healthy")
                break
            yield SCORE

    def _until_told(self, number: int) -> Episode:
        """Ends no trouble before it was told, or is overdue; then a little later."""
        while not self.ledger.settled(uuid(number)):
            yield 0.1
        yield self._random.uniform(1, 5)

    # -- what is shown ----------------------------------------------------------------------

    def _look_at_status(self, now: float) -> None:
        try:
            status = self.host.status()
        except LabError:
            # Who does not even answer is as late as can be.
            self.ledger.late(SCORE_MAX, now)
            return
        self._looked = now
        self.ledger.late(status["engine"]["awareness"], now)
        self.ledger.slow(self.host.order("slowest", []), now)
        self._healths = {int(row["uuid"][-12:], 16): row["health"] for row in status["vms"]}
        if now < self._next[SHOWN]:
            return
        self._next[SHOWN] = now + SHOWN
        self.usage.note(now, self.host.usage())
        for number in self._mine & self._healths.keys():
            health = self._healths[number]
            # One miss, or one that was just told, is no contradiction.
            if now - self._changed.get(number, 0.0) > 2 * USED and health != "suspect":
                self.ledger.shown(uuid(number), health, now)
        missing = self._mine & self.host.there - self._healths.keys() - {n for *_, n in self._going}
        self.ledger.missed += [f"{now:.1f} {uuid(number)} is not shown" for number in missing]
