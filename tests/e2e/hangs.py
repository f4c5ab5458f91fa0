# SPDX-License-Identifier: Apache-2.0
r"""Hangs real guests at random moments, and measures when the engine tells of each.

    PYTHONPATH=.:guest .lab/venv/dev/bin/python -m tests.e2e.hangs \
        [--count 1000] [--guests 10] [--seed TEXT] [--host idle|busy|writing|all]

needs what script/setup test made, and brings up a node of its own: libvirtd, QEMU, collectd. A
guest hangs by a SIGSTOP for its QEMU and is revived by a SIGCONT, so that it hangs a thousand times
without a boot. It ends with 1 if a hang was not told, or told too early.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collectd_vmhb.control import ask
from collectd_vmhb.verdict import HEARTBEAT_LOST
from tests.lab.guest import Guest
from tests.lab.lab import Lab
from tests.lab.layout import LAB
from tests.lab.node import Node
from tests.lab.product import stanza

INTERVAL, TIMEOUT, MISSES = 0.5, 0.45, 3
SPECS = {
    "vmhb:enabled": "true",
    "vmhb:interval": str(INTERVAL),
    "vmhb:timeout": str(TIMEOUT),
    "vmhb:miss_threshold": str(MISSES),
    "vmhb:recovery_threshold": "1",
}
#: docs/operations.md, Timing.
LATEST = MISSES * INTERVAL + TIMEOUT + 0.01
#: A hang that was not told by then is not told.
MISSED = LATEST + 20.0
#: Wall clock and monotonic clock are read one after the other.
CLOCKS = 0.02
#: Hung at once: with more, they would be taken for one failure of the host and held back.
AT_ONCE = 4
HOSTS = ("idle", "busy", "writing")


@dataclass
class Hang:
    """One hang: when, when it was told, and when it was to be told."""

    host: str
    at: float
    told: float = float("nan")
    #: The time out of the last of the challenges that it leaves unanswered, as the engine sent
    #: them; the engine's own arithmetic is not used.
    ideal: float = float("nan")

    @property
    def detection(self) -> float:
        return self.told - self.at

    @property
    def error(self) -> float:
        return self.told - self.ideal

    @property
    def early(self) -> bool:
        """It was told before its time, or for a challenge that was over before the hang."""
        asked = self.ideal - (MISSES - 1) * INTERVAL - TIMEOUT
        return self.error < -CLOCKS or asked < self.at - TIMEOUT - CLOCKS


@dataclass
class _Subject:
    """A guest that is hung again and again."""

    guest: Guest
    qemu: int
    next_at: float
    hang: Hang | None = None
    reviving: bool = False


@dataclass
class Outcome:
    """What came of all hangs."""

    told: list[Hang] = field(default_factory=list)
    missed: list[Hang] = field(default_factory=list)

    @property
    def early(self) -> list[Hang]:
        """Those told too early."""
        return [hang for hang in self.told if hang.early]

    def figures(self, host: str) -> str:
        """The error in ms, in words."""
        errors = sorted(1000 * hang.error for hang in self.told if hang.host == host)
        if not errors:
            return f"{host}: no hang"
        p99 = errors[min(len(errors) - 1, int(0.99 * len(errors)))]
        waits = [hang.detection for hang in self.told if hang.host == host]
        return (
            f"{host}: {len(errors)} hangs told after {min(waits):.2f} to {max(waits):.2f} s; "
            f"told - ideal in ms: least {errors[0]:.1f}, p50 {statistics.median(errors):.1f}, "
            f"p99 {p99:.1f}, most {errors[-1]:.1f}"
        )


def hang_at_random(
    node: Node, guests: list[Guest], count: int, host: str, rng: random.Random, outcome: Outcome
) -> None:
    """Hangs the guests ``count`` times in all, no more than AT_ONCE at a time."""
    seat = f"{node.root}/run/vmhb/control.sock"
    tail = _Tail(node.collectd.notifications_file)
    subjects = {
        guest.uuid: _Subject(guest, qemu_of(guest), time.time() + rng.uniform(0.0, 4.0))
        for guest in guests
    }
    begun = 0
    with contextlib.ExitStack() as undo:
        for subject in subjects.values():
            undo.callback(os.kill, subject.qemu, signal.SIGCONT)
        while begun < count or any(each.hang or each.reviving for each in subjects.values()):
            for row in tail.rows():
                _hear(subjects.get(row["plugin_instance"]), row, seat, rng, outcome)
            now = time.time()
            for subject in subjects.values():
                if subject.hang is not None and now - subject.hang.at > MISSED:
                    outcome.missed.append(subject.hang)
                    _revive(subject)
                    subject.reviving, subject.next_at = False, now + 10.0
            hung = sum(each.hang is not None for each in subjects.values())
            ready = [each for each in subjects.values() if _is_ready(each, now)]
            if ready and hung < AT_ONCE and begun < count:
                subject = rng.choice(ready)
                subject.hang = Hang(host, time.time())
                os.kill(subject.qemu, signal.SIGSTOP)
                begun += 1
            time.sleep(0.005)


def _is_ready(subject: _Subject, now: float) -> bool:
    return subject.hang is None and not subject.reviving and subject.next_at <= now


def _hear(
    subject: _Subject | None, row: dict[str, Any], seat: str, rng: random.Random, outcome: Outcome
) -> None:
    if subject is None or row["type_instance"] != HEARTBEAT_LOST:
        return
    if row["severity"] == 4:
        subject.reviving = False
        # A guest that has just come back answers a while before it hangs again.
        subject.next_at = time.time() + rng.uniform(2 * INTERVAL, 6 * INTERVAL)
    elif subject.hang is not None:
        hang = subject.hang
        hang.told = row["at"]
        exchanges = ask(seat, {"command": "explain", "vm": subject.guest.uuid})["exchanges"]
        hang.ideal = first_unanswered(exchanges) + (MISSES - 1) * INTERVAL + TIMEOUT
        outcome.told.append(hang)
        _revive(subject)


def first_unanswered(exchanges: list[dict[str, Any]]) -> float:
    """When the first of the challenges was sent that nothing has answered since."""
    silent = float("nan")
    for exchange in reversed(exchanges):
        if exchange["rtt"] is not None:
            break
        silent = exchange["at"]
    return silent


def _revive(subject: _Subject) -> None:
    os.kill(subject.qemu, signal.SIGCONT)
    subject.hang, subject.reviving = None, True


def qemu_of(guest: Guest) -> int:
    """The guest's QEMU, seen from here."""
    return int((guest.node.run / "libvirt" / "qemu" / f"{guest.name}.pid").read_text())


class _Tail:
    """Reads the recorder's new lines."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._at = file.stat().st_size if file.exists() else 0

    def rows(self) -> list[dict[str, Any]]:
        with self._file.open("rb") as file:
            file.seek(self._at)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._at += len(whole) + len(newline)
        return [json.loads(line) for line in whole.splitlines()]


_SPIN = "while True: pass"
_WRITE = """
import os, sys
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.seek(0)
        file.write(bytes(32 << 20))
        os.fsync(file.fileno())
"""


@contextlib.contextmanager
def loaded(host: str, directory: Path) -> Iterator[None]:
    """Keeps the host's processors busy, or the disk of its state, or neither."""
    commands = {
        "idle": [],
        "busy": [[sys.executable, "-c", _SPIN]] * (os.cpu_count() or 1),
        "writing": [[sys.executable, "-c", _WRITE, str(directory / "written")]],
    }[host]
    burners = [subprocess.Popen(command) for command in commands]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
        (directory / "written").unlink(missing_ok=True)


def wait_healthy(node: Node, guests: list[Guest], within: float = 180.0) -> None:
    """Waits until the engine shows all of them as healthy."""
    seat = f"{node.root}/run/vmhb/control.sock"
    wanted = {guest.uuid for guest in guests}
    deadline = time.monotonic() + within
    while True:
        rows = ask(seat, {"command": "status"})["vms"]
        if wanted <= {row["uuid"] for row in rows if row["health"] == "healthy"}:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {len(guests)} guests are healthy")
        time.sleep(0.5)


def main(argv: list[str] | None = None) -> int:
    """Brings up a node, hangs its guests and says how that was told."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.hangs")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--guests", type=int, default=10)
    parser.add_argument("--host", choices=(*HOSTS, "all"), default="all")
    parser.add_argument("--seed", default=str(int.from_bytes(os.urandom(4), "big")))
    options = parser.parse_args(argv)
    rng, outcome = random.Random(options.seed), Outcome()
    say = sys.stdout.write
    say(f"seed {options.seed}\n")
    lab = Lab(LAB / "hangs")
    node = lab.node
    node.start()
    try:
        node.collectd.start(stanza(lab, notifier=False, HoldDown=0.0))
        guests = [
            Guest(node, name=f"hang-{number}", display_name=f"hang-{number}", extra_specs=SPECS)
            for number in range(options.guests)
        ]
        for guest in guests:
            guest.start()
        wait_healthy(node, guests, 60.0 + 20.0 * len(guests))
        hosts = HOSTS if options.host == "all" else (options.host,)
        for host in hosts:
            with loaded(host, node.run):
                hang_at_random(node, guests, options.count // len(hosts), host, rng, outcome)
            say(outcome.figures(host) + "\n")
            sys.stdout.flush()
        node.collectd.stop()
    finally:
        node.stop()
    say(f"missed {len(outcome.missed)}, early {len(outcome.early)}\n")
    return int(bool(outcome.missed or outcome.early))


if __name__ == "__main__":
    sys.exit(main())
