# SPDX-License-Identifier: Apache-2.0
"""Real guests that hang at random moments are all told of, and none too early (hangs.py)."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Cloud
from tests.e2e.hangs import HOSTS, SPECS, Outcome, hang_at_random, loaded, wait_healthy
from tests.lab.guest import Guest

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

GUESTS, HANGS = 4, 30


@pytest.fixture(scope="module")
def hanging(cloud: Cloud) -> Iterator[list[Guest]]:
    guests = [cloud.lab.boot(f"hang-{number}", extra_specs=SPECS) for number in range(GUESTS)]
    wait_healthy(cloud.lab.node, guests)
    yield guests
    for guest in guests:
        guest.destroy()
        guest.undefine()


@pytest.mark.parametrize("host", HOSTS)
def test_hangs_at_random_moments(
    cloud: Cloud, hanging: list[Guest], host: str, capfd: pytest.CaptureFixture[str]
) -> None:
    seed = os.environ.get("VMHB_SEED") or str(int.from_bytes(os.urandom(4), "big"))
    outcome = Outcome()
    node = cloud.lab.node
    with loaded(host, node.run):
        hang_at_random(node, hanging, HANGS // len(HOSTS), host, random.Random(seed), outcome)
    with capfd.disabled():
        sys.stdout.write(f"\nVMHB_SEED={seed}; {outcome.figures(host)}\n")
    assert len(outcome.told) == HANGS // len(HOSTS)
    assert outcome.missed == []
    assert outcome.early == []
    # The goal is 100 ms at p99, on a host that does nothing else; this host may do anything.
    assert max(hang.error for hang in outcome.told) < 2.0
