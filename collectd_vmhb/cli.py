# SPDX-License-Identifier: Apache-2.0
"""The command `vmhb`: asks the engine of this host through its control socket, and nothing else.

Exit status: 0 done, 1 not done (one line on stderr says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from collectd_vmhb import display
from collectd_vmhb.control import ControlError, ask
from collectd_vmhb.maintenance import HOST
from collectd_vmhb.settings import Settings
from collectd_vmhb.wording import nearest, shown

#: UUIDs of one name that an error lists.
LISTED_MAX = 5
#: Seconds between two looks at an audit that runs: at first, and at last.
POLL_FIRST = 0.05
POLL_LAST = 0.5

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A VM's name need not fit the terminal's character set.
        sys.stdout.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        _say(options.run(options))
    except ControlError as error:
        sys.stderr.write(f"vmhb: {error}\n")
        return 1
    except BrokenPipeError:
        # `vmhb status | head`: the rest is not wanted. Nothing may be flushed at exit, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmhb", description="Looks into the VM heartbeat engine of this host; for root."
    )
    default = str(Settings.control_socket)
    parser.add_argument(
        "--socket", metavar="PATH", default=default, help=f"ControlSocket (default: {default})"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    status = commands.add_parser("status", help="the engine, and a line for each VM")
    status.add_argument("--json", action="store_true", help="for machines")
    status.add_argument("vm", nargs="?", metavar="UUID|NAME", help="this VM alone")
    status.set_defaults(run=_status)

    explain = commands.add_parser("explain", help="all that is known of one VM")
    explain.add_argument("vm", metavar="UUID|NAME")
    explain.set_defaults(run=_explain)

    audit = commands.add_parser("audit", help="have a VM run its health checks now")
    audit.add_argument("vm", metavar="UUID|NAME")
    audit.add_argument("--check", default="", metavar="NAME", help="this one alone")
    audit.add_argument("--detailed", action="store_true", help="at the level of that name")
    audit.add_argument(
        "--timeout", type=seconds, metavar="1m30s", help="how long it may take (AuditTimeout)"
    )
    audit.add_argument("--json", action="store_true", help="for machines")
    audit.set_defaults(run=_audit)

    pause = commands.add_parser(
        "pause", help="begin a maintenance: no fault is raised until it ends"
    )
    _add_target(pause)
    pause.add_argument(
        "--for", required=True, type=seconds, dest="seconds", metavar="1h30m", help="how long"
    )
    pause.add_argument("--reason", required=True, metavar="TEXT", help="why, for whoever looks")
    pause.set_defaults(run=_pause)

    resume = commands.add_parser("resume", help="end a maintenance before its time")
    _add_target(resume)
    resume.set_defaults(run=_resume)

    detach = commands.add_parser(
        "detach", help="take the channel out of a VM that is not monitored any more"
    )
    detach.add_argument("vm", metavar="UUID|NAME")
    detach.set_defaults(run=_detach)
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("vm", nargs="?", metavar="UUID|NAME")
    target.add_argument("--host", action="store_true", help="this host with all its VMs")


def seconds(text: str) -> float:
    """Reads a duration such as 90s, 15m or 1h30m; raises ArgumentTypeError for anything else."""
    if not re.fullmatch(r"(\d{1,9}[smhd])+", text):
        raise argparse.ArgumentTypeError(f"{shown(text)}: use a duration such as 90s, 15m or 1h30m")
    return float(sum(int(part[:-1]) * _UNITS[part[-1]] for part in re.findall(r"\d+\w", text)))


# -- the commands ---------------------------------------------------------------------------


def _status(options: argparse.Namespace) -> str:
    said = ask(options.socket, {"command": "status"})
    if options.vm is not None:
        said["vms"] = [find(said, options.vm)]
    if options.json:
        return json.dumps(said, indent=1)
    if options.vm is not None:
        return display.table(said["vms"], time.time())
    return display.status(said, time.time())


def _explain(options: argparse.Namespace) -> str:
    vm = find(ask(options.socket, {"command": "status"}), options.vm)
    said = ask(options.socket, {"command": "explain", "vm": vm["uuid"]})
    return display.account(said, time.time())


def _audit(options: argparse.Namespace) -> str:
    vm = find(ask(options.socket, {"command": "status"}), options.vm)
    request = {"check": options.check, "detailed": options.detailed, "seconds": options.timeout}
    try:
        audit = ask(options.socket, {"command": "audit", "vm": vm["uuid"], **request})
    except ControlError as error:
        raise ControlError(f"no audit of VM {shown(vm['name'])}: {error}") from None
    audit, vm = _ended(options, vm["uuid"], audit)
    said = json.dumps(audit, indent=1) if options.json else display.audit(audit)
    if audit["outcome"] != "done":
        if audit["checks"] or options.json:
            _say(said)
        raise ControlError(f"VM {shown(vm['name'])}: {display.why_not_done(audit, vm)}")
    return said


def _ended(options: argparse.Namespace, uuid: str, audit: Any) -> tuple[Any, Any]:
    """Waits until an audit is over; returns it, and the VM with all that is known of it."""
    number, wait = audit["id"], POLL_FIRST
    while True:
        time.sleep(wait)
        wait = min(2 * wait, POLL_LAST)
        vm = ask(options.socket, {"command": "explain", "vm": uuid})
        audit = vm["audit"]
        if audit is None or audit["id"] != number:
            raise ControlError("the VM was started anew, or another audit has begun meanwhile")
        # The engine ends every audit by itself, so this has an end.
        if audit["outcome"] != "running":
            return audit, vm


def _pause(options: argparse.Namespace) -> str:
    uuid, name = _target(options)
    request = {"vm": uuid, "seconds": options.seconds, "reason": options.reason}
    begun = ask(options.socket, {"command": "pause", **request})
    return f"{name}: maintenance until {display.clock(begun['until'])}"


def _resume(options: argparse.Namespace) -> str:
    uuid, name = _target(options)
    ask(options.socket, {"command": "resume", "vm": uuid})
    return f"{name}: maintenance is over"


def _detach(options: argparse.Namespace) -> str:
    said = ask(options.socket, {"command": "status"})
    vm = find({"vms": said["vms"] + said["unmonitored"], "unmonitored": []}, options.vm)
    name = f"VM {shown(vm['name'])} ({vm['uuid']})"
    try:
        channel = ask(options.socket, {"command": "detach", "vm": vm["uuid"]})
    except ControlError as error:
        raise ControlError(f"{name} keeps its channel: {error}") from None
    return f"{name}: {channel} is detached"


def _target(options: argparse.Namespace) -> tuple[str, str]:
    """Returns whose maintenance it is, and how to call it."""
    if options.host:
        return HOST, "this host with all its VMs"
    said = ask(options.socket, {"command": "status"})
    # Work may well begin with a VM that is shut off.
    vm = find({"vms": said["vms"] + said["unmonitored"], "unmonitored": []}, options.vm)
    return vm["uuid"], f"VM {shown(vm['name'])} ({vm['uuid']})"


def find(said: Mapping[str, Any], wanted: str) -> Any:
    """Returns the VM of that UUID or name; raises ControlError if that is none, or several."""
    vms = said["vms"]
    found = _called(vms, wanted)
    if len(found) == 1:
        return found[0]
    if found:
        uuids = ", ".join(vm["uuid"] for vm in found[:LISTED_MAX])
        more = ", ..." if len(found) > LISTED_MAX else ""
        raise ControlError(f"{len(found)} VMs are named {shown(wanted)}: take one of {uuids}{more}")
    for vm in _called(said["unmonitored"], wanted)[:1]:
        raise ControlError(f"VM {shown(wanted)} is on this host and not monitored: {vm['why']}")
    meant = nearest(wanted, [name for vm in vms for name in (vm["name"], vm["uuid"])])
    hint = f"; did you mean {shown(meant)}?" if meant else "; vmhb status lists those that are"
    raise ControlError(f"no VM {shown(wanted)} is monitored on this host{hint}")


def _called(vms: Sequence[Any], wanted: str) -> list[Any]:
    found = [vm for vm in vms if vm["uuid"] == wanted.lower()]
    return found or [vm for vm in vms if vm["name"] == wanted]


if __name__ == "__main__":
    sys.exit(main())
