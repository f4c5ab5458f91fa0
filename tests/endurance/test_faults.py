# SPDX-License-Identifier: Apache-2.0
"""Whatever breaks around a host in use, nothing false is told, nothing missed, and it is said.

A hundred VMs in a real collectd hang and fall ill all the while (soak.py), so that each fault finds
the engine at work.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import pytest

from tests.endurance import faults
from tests.endurance.host import Host
from tests.endurance.ledger import Ledger
from tests.endurance.soak import Soak
from tests.lab.disk import Disk

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

VMS = 100
#: Seconds that a test allows beyond each bound: this machine may do anything else meanwhile.
ROOM = 2.0
BEFORE, DURING = 5.0, 15.0


@pytest.fixture(name="soak", scope="module")
def _soak() -> Iterator[Soak]:
    """A host in use; its engine's state is on a disk of its own."""
    with Host("faults") as host:
        disk = Disk(host.node, "state")
        disk.mount()
        host.state = disk.path
        faults.bring_foreign(host)
        host.join(range(VMS))
        host.start()
        host.wait_healthy()
        seed = os.environ.get("VMHB_SEED") or str(int.from_bytes(os.urandom(4), "big"))
        yield Soak(host, Ledger(ROOM), seed)
        host.node.collectd.stop()


@contextlib.contextmanager
def story(soak: Soak, room: float = ROOM) -> Iterator[Ledger]:
    """What happens in the block happens to a host in use; nothing false, nothing missed in it."""
    # A test before may have failed half-way.
    soak.settle()
    ledger = soak.ledger = Ledger(room)
    soak.run(BEFORE)
    yield ledger
    soak.run(BEFORE)
    soak.settle()
    assert ledger.false == []
    assert ledger.missed == []
    assert soak.troubled == 0
    assert soak.host.healths().keys() == soak.host.there
    assert sum(map(len, ledger.delays.values())) > 5, "something was there to be told"


def bad_news(ledger: Ledger) -> list[str]:
    """What was told of the host that is bad."""
    return [text for _, bad, text in ledger.host if bad]


def is_well_again(ledger: Ledger) -> bool:
    """Whether the last that was told of the host is good."""
    return not ledger.host[-1][1]


def test_no_descriptors(soak: Soak) -> None:
    with story(soak) as ledger:
        with soak.without_joins(), faults.no_descriptors(soak.host):
            soak.run(DURING)
            assert "Too many open files" in bad_news(ledger)[0]
        soak.run(BEFORE)
        assert is_well_again(ledger)


def test_vms_that_come_while_there_are_no_descriptors(soak: Soak) -> None:
    new = range(VMS, VMS + 10)
    with story(soak) as ledger:
        with soak.without_joins(), faults.no_descriptors(soak.host):
            soak.host.join(new)
            soak.run(DURING)
        assert bad_news(ledger)
        soak.run(15.0)
        assert {soak.host.healths()[number] for number in new} == {"healthy"}
    soak.host.leave(new)


def test_a_full_disk(soak: Soak) -> None:
    with story(soak) as ledger:
        with faults.full_disk(soak.host.node.root / soak.host.state[1:]):
            soak.run(DURING)
            assert "No space left on device" in bad_news(ledger)[0]
        soak.run(BEFORE)
        assert is_well_again(ledger)


def test_no_memory(soak: Soak) -> None:
    with story(soak), soak.without_joins(), faults.no_memory(soak.host):
        soak.run(DURING)


@pytest.mark.parametrize("seconds", [3600.0, -86400.0], ids=["ahead", "back"])
def test_the_wall_clock_is_set(soak: Soak, seconds: float) -> None:
    with story(soak) as ledger, faults.foreign(soak.host, "clock", str(seconds)):
        soak.run(DURING)
    assert ledger.host == []


def test_libvirtd_hangs(soak: Soak) -> None:
    with story(soak) as ledger:
        with soak.without_joins(), faults.hung_libvirtd(soak.host):
            soak.run(110.0)
            assert "libvirt has not answered for a minute" in bad_news(ledger)[0]
        soak.run(20.0)
        assert is_well_again(ledger)


def test_the_notification_callback_of_another_plugin_is_slow(soak: Soak) -> None:
    with story(soak, room=ROOM + 10 * 0.3) as ledger, faults.foreign(soak.host, "slow"):
        soak.run(DURING)
    assert ledger.host == []


def test_another_plugin_holds_the_interpreter(soak: Soak) -> None:
    with story(soak) as ledger, faults.foreign(soak.host, "hold"):
        soak.run(DURING)
    assert ledger.host == []


def test_a_thousand_domains_come_in_a_minute_and_go_in_a_second(soak: Soak) -> None:
    new = range(1000, 2000)
    with story(soak) as ledger:
        for number in new:
            soak.host.join([number])
            soak.run(0.06)
        soak.run(10.0)
        healths = soak.host.healths()
        assert {healths.get(number) for number in new} == {"healthy"}
        began = time.monotonic()
        soak.host.leave(new)
        took = time.monotonic() - began
        soak.run(10.0)
        assert not soak.host.healths().keys() & set(new)
        assert took < 5.0, "so fast that it is a mass"
    assert ledger.host == []
