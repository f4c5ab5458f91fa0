# SPDX-License-Identifier: Apache-2.0
"""What the checks of a VM measure is published while it is known, and no longer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from collectd_vmhb.settings import Settings
from tests.unit.collectd_vmhb.peer import POLICY, Peer

NOW = {"perf.disk.free": 7.0, "perf.load.one": 0.5}


def entry(name: str, perfdata: str) -> dict[str, object]:
    figures = {"perfdata": perfdata, "since_ms": 0, "duration_ms": 0}
    return {"name": name, "status": "ok", **figures}


@pytest.fixture(name="peer")
def _peer() -> Peer:
    peer = Peer()
    peer.open(extended=True)
    checks = [entry("disk", "free=7GB;;;0;9"), entry("load", "one=0.5")]
    peer.answer(vmhb={"checks": checks, "more": False})
    assert peer.monitor.figures() == NOW
    return peer


def test_a_figure_stays_until_the_check_says_another(peer: Peer) -> None:
    peer.live(60)
    assert peer.monitor.figures() == NOW
    peer.live(1, answering=False)
    peer.answer(vmhb={"checks": [entry("load", "one=4")]})
    assert peer.monitor.figures() == {**NOW, "perf.load.one": 4.0}


def test_no_figure_of_a_guest_that_does_not_answer(peer: Peer) -> None:
    peer.live(2.5, answering=False)
    assert peer.monitor.figures() == {}


@pytest.mark.parametrize("how", ["exit", "pause", "connect"])
def test_no_figure_without_a_session(peer: Peer, how: str) -> None:
    if how == "exit":
        peer.say(b'{"version":3,"msg_type":"exit","log_msg":"bye"}\n')
    elif how == "pause":
        peer.monitor.pause(peer.now, "paused")
    else:
        peer.monitor.connected(peer.now)
    assert peer.monitor.figures() == {}


def test_a_new_session_begins_with_none_and_a_check_that_went_takes_its_own(peer: Peer) -> None:
    peer.open(extended=True)
    peer.answer(vmhb={"checks": [entry("load", "one=2")], "more": False})
    assert peer.monitor.figures() == {"perf.load.one": 2.0}


def test_none_are_kept_where_none_are_wanted() -> None:
    peer = Peer(POLICY, replace(Settings(), perfdata_max=0))
    peer.open(extended=True)
    peer.answer(vmhb={"checks": [entry("disk", "free=7")], "more": False})
    assert peer.monitor.figures() == {}
    assert peer.monitor.checks.figures is None
