# SPDX-License-Identifier: Apache-2.0
"""Ten hostile guests among 200 under the shipped engine: the honest ones notice nothing.

``python -m tests.hostile`` prints the figures of each attack. Timing is judged with room here: the
machine that tests have does other things as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from tests.hostile.attackers import ATTACKS
from tests.hostile.engine import INTERVAL
from tests.hostile.scene import HOST, HOSTILE, VMS, Scene, Window, part

ALL = list(ATTACKS)[1:]
#: All of them, ten at a time.
GROUPS = [[*ALL, *ALL][at : at + HOSTILE] for at in range(0, len(ALL), HOSTILE)]
#: The attacks that did most damage before there was a bound against them.
WORST = [
    "flood",
    "tiny-lines",
    "backtracking",
    "flapping-checks",
    "new-checks",
    "long-texts",
    "init-storm",
    "escapes",
    "never-reads",
    "collisions",
]
#: As collectd and logs take it: no control characters, no half characters.
PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]*")
FAULT = re.compile(r"heartbeat-lost|guest-misbehaves|check\.[A-Za-z0-9_.-]{1,48}")


def check_nobody_else_is_concerned(seen: Window, first_hostile: int) -> None:
    assert seen.missed == seen.false == 0, "losses of honest guests"
    assert seen.values[HOST, "errors"] == 0, "the engine's own errors"
    for vm, fault, _, text in seen.notes:
        assert PRINTABLE.fullmatch(text), text
        assert FAULT.fullmatch(fault), fault
        assert vm != HOST, "this host is blamed"
        assert vm >= first_hostile or fault == "heartbeat-lost", (vm, fault)
    for line in seen.log:
        assert PRINTABLE.fullmatch(line), line


def check_texts_of_the_log(log: Sequence[str]) -> None:
    assert any("fake line" in line for line in log), "the attack that is meant for logs was made"


@pytest.mark.timeout(60)
def test_hostile_guests_cost_honest_ones_nothing() -> None:
    with Scene(WORST) as scene:
        scene.attack()
        during = scene.watch(4.0)
    check_nobody_else_is_concerned(during, scene.first_hostile)
    check_texts_of_the_log(during.log)
    assert len(during.errors) > 10
    assert during.beats > 0.8 * scene.first_hostile / INTERVAL


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("attacks", GROUPS, ids=lambda group: f"{group[0]}-to-{group[-1]}")
def test_every_attack_for_as_long_as_a_fault_takes(attacks: list[str]) -> None:
    with Scene(attacks) as scene:
        before = scene.watch(15.0)
        scene.attack()
        during = scene.watch(30.0)
    check_nobody_else_is_concerned(during, scene.first_hostile)
    assert during.beats > 0.95 * before.beats
    assert part(during.errors, 0.5) - part(before.errors, 0.5) < 0.005
    assert during.memory - before.memory < 2 * 2**20
    accused = {
        name: during.faults(number)["guest-misbehaves"]
        for number, name in enumerate(attacks, VMS - HOSTILE)
    }
    assert accused == {name: int(ATTACKS[name].is_fault) for name in attacks}
