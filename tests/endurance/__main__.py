# SPDX-License-Identifier: Apache-2.0
"""A soak: the shipped engine in a real collectd, and guests that are never left alone.

    .lab/venv/dev/bin/python -m tests.endurance [--minutes 60] [--vms 1000] [--real 3] [--seed TEXT]

Stand-ins hang, fall ill, leave and join at random; real guests, in QEMU, hang. A ledger compares
what was true with what was told: the status is 0 if nothing was false and nothing missed, and if
memory, descriptors and threads of collectd stayed as they were once they had warmed up. Needs
root, as script/setup test does.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.endurance.host import Host
from tests.endurance.judge import judge
from tests.endurance.ledger import Ledger
from tests.endurance.soak import Soak

#: Seconds between two lines on how it goes.
SAID = 60.0


def warm_up(seconds: float) -> float:
    """Returns the part of so many seconds after which nothing grows any more."""
    return min(seconds / 2, max(120.0, seconds / 10))


def main() -> int:
    """Runs it and returns the status."""
    parser = argparse.ArgumentParser(prog="python -m tests.endurance", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--vms", type=int, default=1000, help="stand-ins for guests")
    parser.add_argument("--real", type=int, default=3, help="guests in QEMU beside them")
    parser.add_argument("--room", type=float, default=1.0, help="s beyond each bound, for noise")
    parser.add_argument("--seed", default=str(int.from_bytes(os.urandom(4), "big")))
    wanted = parser.parse_args()
    print(f"--seed {wanted.seed}", flush=True)
    ledger = Ledger(wanted.room)
    with Host() as host:
        host.join(range(wanted.vms))
        host.join_real(range(wanted.vms, wanted.vms + wanted.real))
        host.start()
        took = host.wait_healthy()
        print(f"{len(host.there)} VMs healthy after {took:.1f} s", flush=True)
        soak = Soak(host, ledger, wanted.seed)
        began = time.monotonic()
        until = began + wanted.minutes * 60
        while (left := until - time.monotonic()) > 0:
            soak.run(min(SAID, left))
            done = (time.monotonic() - began) / 60
            memory = soak.usage.figures["memory"][-1] / 1024
            print(f"{done:6.1f} min  {ledger.verdict()}  {memory:.1f} MiB", flush=True)
        soak.settle()
        errors = host.errors()
    verdict = judge(soak, ledger, errors, since=began + warm_up(60 * wanted.minutes))
    print(verdict.text)
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
