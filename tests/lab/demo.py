# SPDX-License-Identifier: Apache-2.0
"""The main job, end to end: a guest goes silent, Vitrage shows it; it comes back, the alarm goes.

`script/demo` sets up what this needs and then runs it.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Callable

from tests.lab.collectd_daemon import Row
from tests.lab.guest import CHANNEL, Guest
from tests.lab.lab import Lab
from tests.lab.layout import RUN, LabError
from tests.lab.rollout import roll_out

INTERVAL, TIMEOUT, MISSES = 1.0, 0.9, 5
#: Instead of 30 s, so that the alarm of a short demonstration may go soon.
HOLD_DOWN = 5.0
#: What a loaded machine may add between the verdict and the notification, in seconds.
ROOM = 0.5


class Demo:
    """Plays the timeline on a lab and prints it as it happens."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._began = time.monotonic()

    def bring_up(self) -> None:
        """Start everything real: libvirtd, RabbitMQ, Vitrage, and collectd with what is ours."""
        print(
            "Starting a private compute node, RabbitMQ and Vitrage (nothing of this host is used)"
        )
        self._lab.up(_say_part)
        print("Rolling the product out to them with its Ansible roles")
        roll_out(self._lab, _say_part, HoldDown=HOLD_DOWN)

    def play(self) -> None:
        """Tell the whole story; LabError where it does not come out as documented."""
        print("\nThe timeline (seconds since the first VM was started)")
        self._began = time.monotonic()
        web, db, plain = self._boot()
        self._established(web, "the Python agent")
        self._established(db, "the sh client")
        self._untouched(plain)
        self._silence(web)
        self._sick_application(web)
        self.say("done: every alarm came, named the VM, and went")

    def say(self, text: str) -> None:
        """Print one line of the timeline."""
        print(f"{time.monotonic() - self._began:7.1f}  {text}", flush=True)

    def _boot(self) -> tuple[Guest, Guest, Guest]:
        asks = {"vmhb:enabled": "true", "vmhb:interval": f"{INTERVAL:g}"}
        web = self._lab.boot("web-1", image="python", extra_specs=asks)
        db = self._lab.boot("db-1", image="sh", extra_specs=asks)
        plain = self._lab.boot("plain-1", image="sh", extra_specs={})
        self.say("three QEMU guests start, none with our channel in its definition:")
        for guest, what in ((web, "asks"), (db, "asks"), (plain, "does not ask")):
            self.say(f"  {guest.display_name:8} {guest.uuid}  its flavor {what}")
        return web, db, plain

    def _established(self, guest: Guest, agent: str) -> None:
        self._wait(
            lambda: self._value(guest, "gauge-health") == 2.0,
            90,
            f"{guest.display_name} is not established",
        )
        rtt = self._value(guest, "latency-heartbeat")
        ms = "?" if rtt is None else f"{rtt * 1000:.1f}"
        self.say(f"{guest.display_name}: heartbeat established with {agent}, RTT {ms} ms")

    def _untouched(self, guest: Guest) -> None:
        guest.wait_booted()
        xml = guest.domain.XMLDesc()
        if f"name='{CHANNEL}'" in xml or self._value(guest, "gauge-health") is not None:
            raise LabError(f"{guest.display_name} does not ask, and was touched all the same")
        self.say(f"{guest.display_name}: no channel, no heartbeat, as its flavor does not ask")

    def _silence(self, guest: Guest) -> None:
        low = (MISSES - 1) * INTERVAL + TIMEOUT
        high = MISSES * INTERVAL + TIMEOUT
        seen = self._mark()
        before = time.time()
        guest.stop_agent()
        after = time.time()
        self.say(f"{guest.display_name}: the agent is frozen (SIGSTOP): nothing answers any more")
        failed = self._notified(guest, "heartbeat-lost", bad=True, since=seen)
        at = float(failed["at"])
        self.say(
            f"{guest.display_name}: FAILED after {at - after:.1f} to {at - before:.1f} s "
            f"(documented: {low:.1f} to {high:.1f} s)"
        )
        self.say(f"  collectd: {failed['message']}")
        if at - before < low - 0.1 or at - after > high + ROOM:
            raise LabError("the detection time lies outside the documented bound")
        self._alarm_comes(guest, "VM heartbeat lost")
        guest.continue_agent()
        self.say(f"{guest.display_name}: the agent goes on (SIGCONT)")
        self._notified(guest, "heartbeat-lost", bad=False, since=seen)
        self._alarm_goes(guest)

    def _sick_application(self, guest: Guest) -> None:
        seen = self._mark()
        guest.break_check("the application does not answer")
        self.say(f"{guest.display_name}: health check 'app' inside the guest turns critical")
        failed = self._notified(guest, "check.app", bad=True, since=seen)
        self.say(f"  collectd: {failed['message']}")
        self._alarm_comes(guest, "VM health check failed: app")
        guest.mend_check()
        self.say(f"{guest.display_name}: the application is well again")
        self._notified(guest, "check.app", bad=False, since=seen)
        self._alarm_goes(guest)

    # -- what others show -------------------------------------------------------------------

    def _alarm_comes(self, guest: Guest, name: str) -> None:
        rows = self._lab.vitrage.wait_for(lambda rows: any(r["name"] == name for r in rows), 30)
        self.say("vitrage alarm list --all shows it:")
        for line in self._lab.vitrage.cli("alarm", "list", "--all", *_COLUMNS).splitlines():
            print(f"         {line}")
        against = [self._lab.vitrage.resource(row["vitrage_resource_id"]) for row in rows]
        if [resource["Data Source ID"] for resource in against] != [guest.uuid]:
            raise LabError(f"the alarm is not against {guest.uuid} alone, but against {against}")
        self.say(f"  where that resource is instance {guest.uuid}, {guest.display_name}")

    def _alarm_goes(self, guest: Guest) -> None:
        self._lab.vitrage.wait_for(lambda rows: not rows, 30)
        self.say(f"{guest.display_name}: recovered; vitrage alarm list --all is empty again")

    def _mark(self) -> int:
        return len(self._lab.node.collectd.notifications())

    def _notified(self, guest: Guest, fault: str, *, bad: bool, since: int) -> Row:
        def wanted(row: Row) -> bool:
            mine = row["plugin_instance"] == guest.uuid and row["type_instance"] == fault
            return mine and (row["severity"] != _OKAY) is bad

        return self._lab.node.collectd.wait_for(wanted, 60, since)

    def _value(self, guest: Guest, name: str) -> float | None:
        host = self._lab.node.hostname
        try:
            answer = self._lab.node.collectd.ask(f'GETVAL "{host}/vmhb-{guest.uuid}/{name}"')
        except LabError:
            return None
        return float(answer[0].partition("=")[2])

    def _wait(self, ready: Callable[[], bool], timeout: float, failure: str) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            if time.monotonic() > deadline:
                raise LabError(f"{failure} within {timeout:g} s: see {self._lab.node.collectd.log}")
            time.sleep(0.1)


def _say_part(part: str, seconds: float) -> None:
    print(f"  {part:18} {seconds:.1f} s", flush=True)


_OKAY = 4
_COLUMNS = ("-c", "Name", "-c", "Resource Type", "-c", "Resource ID", "-c", "Severity")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="script/demo", description="Show VM heartbeat monitoring on real parts."
    )
    parser.add_argument("command", nargs="?", choices=["up", "down"], default="up")
    parser.add_argument("--keep", action="store_true", help="leave everything running in the end")
    arguments = parser.parse_args()
    lab = Lab(bare=True)
    if arguments.command == "down":
        lab.down()
        print("everything that script/demo started is gone; rm -r .lab also removes what it set up")
        return 0
    try:
        demo = Demo(lab)
        demo.bring_up()
        demo.play()
    except (LabError, KeyboardInterrupt) as error:
        print(f"\nscript/demo: {error or 'interrupted'}", file=sys.stderr)
        print(f"the logs are below {RUN}; script/demo down removes them", file=sys.stderr)
        lab.down(keep_logs=True)
        return 1
    if arguments.keep:
        print(_LOOK_AROUND.format(run=RUN))
    else:
        lab.down()
    return 0


_LOOK_AROUND = """
All of it goes on. Look around with
  {run}/bin/vitrage alarm list --all
  {run}/bin/virsh list
  tail -f {run}/compute-0/run/collectd/notifications.jsonl
  tail -f {run}/compute-0/run/collectd/collectd.log
and end it with
  script/demo down"""


if __name__ == "__main__":
    sys.exit(main())
