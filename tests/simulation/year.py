# SPDX-License-Identifier: Apache-2.0
r"""A year of a busy cloud: what is planned raises no alarm, and no failure among it is missed.

    PYTHONPATH=.:guest .lab/venv/dev/bin/python -m tests.simulation.year \
        [--vms 500] [--seed TEXT] [--processes 1] [--blind]

Each VM of 500 is migrated every week, rebooted every month, paused, snapshotted, saved, resized;
each of their 50 hosts has its collectd restarted every month, stands still now and then, and loses
its libvirtd: 40,400 events. Each is played on the shipped engine with the time around it; the idle
time between is left out. Two failures a VM are among them. ``--blind`` withholds the VMs' states
from the engine, as if it watched the heartbeat alone. Ends with 1 after a false alarm or a miss.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from collectd_vmhb.settings import Settings
from collectd_vmhb.verdict import HEARTBEAT_LOST
from tests.simulation.cloud import Cloud
from tests.simulation.node import Node, played_channels
from tests.simulation.vm import RTT, Vm

SETTINGS = Settings()
INTERVAL, TIMEOUT, MISSES = 2.0, 1.8, 3
SPECS = {
    "vmhb:enabled": "true",
    "vmhb:interval": str(INTERVAL),
    "vmhb:miss_threshold": str(MISSES),
}
VMS_A_HOST = 10
VM_YEAR = {
    "migrate": 52,
    "reboot": 12,
    "pause": 6,
    "snapshot": 4,
    "resize": 2,
    "save": 1,
    "hard_reboot": 1,
}
HOST_YEAR = {"restart": 12, "stall": 8, "freeze": 4, "libvirt": 4}
FAILURES_A_VM = 2
#: Detection after a hang: the figures of docs/operations.md, Timing.
SOONEST = (MISSES - 1) * INTERVAL + TIMEOUT - RTT
LATEST = MISSES * INTERVAL + TIMEOUT + 0.01
#: The same after a grace period, which can end in the middle of a challenge, plus libvirt's time.
LATEST_AFTER_GRACE = (MISSES + 1) * INTERVAL + TIMEOUT + 0.6


@dataclass
class Tally:
    """What came of it."""

    events: int = 0
    failures: int = 0
    false: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.events += other.events
        self.failures += other.failures
        self.false += other.false
        self.missed += other.missed


class VmYear:
    """One VM on two hosts."""

    def __init__(self, seed: str, aware: bool) -> None:
        self.seed = seed
        self.cloud = Cloud(seed)
        self.rng = self.cloud.rng
        self.nodes = [Node(self.cloud, SETTINGS, aware) for _ in range(2)]
        self.vm = Vm(self.nodes[0], "vm", SPECS)
        self.tally = Tally()
        self._seen = [0, 0]

    def play(self) -> Tally:
        """Plays the year."""
        for node in self.nodes:
            node.start()
        self.vm.start(self.rng.uniform(5.0, 60.0))
        self.cloud.run(70.0)
        year = [name for name, count in VM_YEAR.items() for _ in range(count)]
        failures = ["hang", "hang_while_paused", "no_boot", "hang_while_restarted", "agent_dies"]
        year += [f"fail_{self.rng.choice(failures)}" for _ in range(FAILURES_A_VM)]
        self.rng.shuffle(year)
        for event in year:
            self.cloud.run(self.rng.uniform(5.0, 25.0))
            self._expect_nothing("before " + event)
            getattr(self, "_" + event)()
            self.cloud.run(self.rng.uniform(15.0, 35.0))
            self._expect_nothing(event)
        self.tally.events = len(year) - FAILURES_A_VM
        self.tally.failures = FAILURES_A_VM
        return self.tally

    @property
    def node(self) -> Node:
        return self.vm.node

    def _new_alarms(self) -> list[tuple[float, str]]:
        """What was told since the last call: when, and which fault."""
        told = []
        for number, node in enumerate(self.nodes):
            rows = node.alarms.raised
            told += [(row[0], row[2]) for row in rows[self._seen[number] :]]
            self._seen[number] = len(rows)
        return told

    def _expect_nothing(self, event: str) -> None:
        for at, fault in self._new_alarms():
            self.tally.false.append(f"{self.seed}: {event}: {fault} at {at - 1000:.2f}")

    # -- what is planned --------------------------------------------------------------------

    def _migrate(self) -> None:
        (other,) = (node for node in self.nodes if node is not self.node)
        self.vm.pause()
        self.cloud.run(self.rng.choice((0.05, 0.3, 2.0, 15.0)))
        self.vm.move(other)

    def _reboot(self) -> None:
        if self.rng.random() < 0.7:
            self.vm.stop_agent()
            self.cloud.run(self.rng.uniform(0.5, 30.0))
        self.vm.reset(self.rng.uniform(2.0, 110.0))
        self.cloud.run(115.0)

    def _pause(self) -> None:
        self.vm.pause()
        self.cloud.run(self.rng.uniform(5.0, 120.0))
        self.vm.resume()

    def _snapshot(self) -> None:
        for _ in range(self.rng.randint(1, 3)):
            self.vm.pause()
            self.cloud.run(self.rng.uniform(0.2, 20.0))
            self.vm.resume()
            self.cloud.run(self.rng.uniform(0.2, 5.0))

    def _save(self) -> None:
        self.vm.save()
        self.cloud.run(self.rng.uniform(5.0, 60.0))
        self.vm.restore()

    def _resize(self) -> None:
        specs = {**SPECS, "vmhb:interval": str(self.rng.choice((1.0, 4.0)))}
        self._off_and_on(specs)
        self.cloud.run(30.0)
        self._off_and_on(SPECS)

    def _hard_reboot(self) -> None:
        self._off_and_on(SPECS)

    def _off_and_on(self, specs: dict[str, str]) -> None:
        self.vm.stop()
        self.vm.undefine()
        self.cloud.run(self.rng.uniform(0.2, 5.0))
        self.vm.node.vms[self.vm.uuid] = self.vm
        self.vm.specs = specs
        self.vm.start(self.rng.uniform(5.0, 60.0))
        self.cloud.run(65.0)

    # -- what is not ------------------------------------------------------------------------

    def _fail_hang(self) -> None:
        began = self.cloud.now
        self.vm.hang()
        self._expect_loss("hang", began + SOONEST, began + LATEST)
        self._recover()

    def _fail_agent_dies(self) -> None:
        began = self.cloud.now
        self.vm.kill_agent()
        self._expect_loss("agent dies", began + SOONEST, began + LATEST)
        self._recover()

    def _fail_hang_while_paused(self) -> None:
        self.vm.pause()
        self.cloud.run(self.rng.uniform(0.1, 60.0))
        self.vm.hang()
        self.vm.resume()
        self._expect_loss_after("hang while paused", SETTINGS.grace_after_resume)
        self._recover()

    def _fail_no_boot(self) -> None:
        self.vm.reset(None)
        self._expect_loss_after("no boot", SETTINGS.grace_after_reboot)
        self._recover()

    def _fail_hang_while_restarted(self) -> None:
        self.node.kill()
        self.vm.hang()
        self.cloud.run(self.rng.uniform(0.1, 30.0))
        self.node.start()
        self._expect_loss_after("hang while restarted", SETTINGS.grace_after_resume)
        self._recover()

    def _expect_loss_after(self, what: str, grace: float) -> None:
        counts = self.cloud.now + grace
        soonest = counts + (MISSES - 1) * TIMEOUT
        self._expect_loss(what, soonest, counts + LATEST_AFTER_GRACE)

    def _expect_loss(self, what: str, soonest: float, latest: float) -> None:
        # On disk, and then told: what that takes is not the detection's.
        self.cloud.run(latest + 0.05 - self.cloud.now)
        told = self._new_alarms()
        if [fault for _, fault in told] != [HEARTBEAT_LOST]:
            self.tally.missed.append(f"{self.seed}: {what}: told {told}")
        elif told[0][0] < soonest:
            self.tally.false.append(f"{self.seed}: {what}: {soonest - told[0][0]:.2f} s too early")

    def _recover(self) -> None:
        """Somebody resets it; the alarm ends when its hold-down does."""
        self.vm.reset(self.rng.uniform(2.0, 60.0))
        self.cloud.run(100.0)
        if self.node.alarms.open:
            self.tally.false.append(f"{self.seed}: the alarm stays")


class HostYear:
    """One host with its VMs."""

    def __init__(self, seed: str, aware: bool) -> None:
        self.seed = seed
        self.cloud = Cloud(seed)
        self.rng = self.cloud.rng
        self.node = Node(self.cloud, SETTINGS, aware)
        self.vms = [Vm(self.node, f"vm-{number}", SPECS) for number in range(VMS_A_HOST)]
        self.tally = Tally()

    def play(self) -> Tally:
        """Plays the year."""
        self.node.start()
        for vm in self.vms:
            vm.start(self.rng.uniform(5.0, 60.0))
        self.cloud.run(70.0)
        year = [name for name, count in HOST_YEAR.items() for _ in range(count)]
        self.rng.shuffle(year)
        for event in year:
            self.cloud.run(self.rng.uniform(2.0, 15.0))
            getattr(self, "_" + event)()
            self.cloud.run(self.rng.uniform(15.0, 35.0))
        self.tally.events = len(year)
        self.tally.false = [
            f"{self.seed}: {uuid or 'the host'}: {fault} at {at - 1000:.2f}"
            for at, uuid, fault, _ in self.node.alarms.raised
        ]
        return self.tally

    def _restart(self) -> None:
        end = self.rng.choice((self.node.stop, self.node.kill))
        end()
        self.cloud.run(self.rng.uniform(0.2, 20.0))
        self.node.start()

    def _stall(self) -> None:
        self.node.stall(self.rng.uniform(0.5, 10.0))
        self.cloud.run(10.0)

    def _freeze(self) -> None:
        self.node.freeze(self.rng.uniform(0.5, 20.0))
        self.cloud.run(20.0)

    def _libvirt(self) -> None:
        self.node.lose_libvirt()
        self.cloud.run(self.rng.uniform(1.0, 50.0))
        self.node.find_libvirt()


def play(seed: str, vms: Iterable[int], hosts: Iterable[int], aware: bool) -> Tally:
    """Plays the years of some VMs and some hosts, by their numbers."""
    logging.disable(logging.CRITICAL)
    tally = Tally()
    with played_channels():
        for number in vms:
            tally.add(VmYear(f"{seed}/vm-{number}", aware).play())
        for number in hosts:
            tally.add(HostYear(f"{seed}/host-{number}", aware).play())
    return tally


def play_all(seed: str, vms: int, processes: int, aware: bool = True) -> Tally:
    """Plays the year of a cloud of so many VMs."""
    shares = max(processes, math.ceil(vms / 25))
    hosts = math.ceil(vms / VMS_A_HOST)
    tally = Tally()
    with ProcessPoolExecutor(processes) as pool:
        jobs = [
            pool.submit(play, seed, range(share, vms, shares), range(share, hosts, shares), aware)
            for share in range(shares)
        ]
        for job in jobs:
            tally.add(job.result())
    return tally


def main(argv: list[str] | None = None) -> int:
    """Plays a year and says what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.year")
    parser.add_argument("--vms", type=int, default=500)
    parser.add_argument("--seed", default=str(int.from_bytes(os.urandom(4), "big")))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--blind", action="store_true")
    options = parser.parse_args(argv)
    say = sys.stdout.write
    say(f"seed {options.seed}, {options.vms} VMs\n")
    began = time.monotonic()
    tally = play_all(options.seed, options.vms, options.processes, not options.blind)
    for line in (*tally.false[:20], *tally.missed[:20]):
        say(line + "\n")
    say(
        f"{tally.events} planned events, {len(tally.false)} false alarms; "
        f"{tally.failures} failures, {len(tally.missed)} missed; "
        f"{time.monotonic() - began:.0f} s\n"
    )
    return int(bool(tally.false or tally.missed))


if __name__ == "__main__":
    sys.exit(main())
