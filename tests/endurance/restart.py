# SPDX-License-Identifier: Apache-2.0
"""For how long nobody watches while collectd is restarted: of each VM, challenge to challenge.

    .lab/venv/dev/bin/python -m tests.endurance.restart [--vms 1000] [--rounds 3]

The status is 0 if no VM was without a challenge for more than GAP_MAX seconds in any round. Needs
root, as script/setup test does.
"""

from __future__ import annotations

import argparse
import sys
import time

from bench.goals import part
from tests.endurance.host import Host

#: Seconds from the last challenge before to the first one after.
GAP_MAX = 2.0
#: Seconds in which every VM must be back.
AFTER = 8.0


def gaps(host: Host) -> tuple[float, list[float]]:
    """Restarts collectd; returns how long it was away, and the longest silence of each VM."""
    numbers = sorted(host.there - host.real.keys())
    host.order("silences", numbers)
    began = time.monotonic()
    host.node.collectd.stop()
    stopped = time.monotonic() - began
    host.start()
    # Nobody asks for a status meanwhile: a thousand rows take the interpreter's time.
    time.sleep(AFTER)
    return stopped, [float(gap) for gap in host.order("silences", numbers).values()]


def main() -> int:
    """Prints a line for each restart and returns the status."""
    parser = argparse.ArgumentParser(prog="python -m tests.endurance.restart", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--vms", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    worst = 0.0
    with Host("restart") as host:
        host.join(range(wanted.vms))
        host.start()
        host.wait_healthy()
        print("round  stopped  gap p50      p99      max   s", flush=True)
        for number in range(1, wanted.rounds + 1):
            time.sleep(5)
            stopped, each = gaps(host)
            figures = (stopped, part(each, 0.5), part(each, 0.99), max(each))
            print(f"{number:>5}", *(f"{figure:8.2f}" for figure in figures), flush=True)
            worst = max(worst, *each)
    print(f"longest gap {worst:.2f} s, goal {GAP_MAX:g} s")
    return 0 if worst <= GAP_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
