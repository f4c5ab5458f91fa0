# SPDX-License-Identifier: Apache-2.0
"""What the engine says of itself and its VMs (JSON values) -> text for a terminal.

Times are Unix time, shown in the local zone. Names and words of guests are shown printable.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from collectd_vmhb.wording import shown

Values = Mapping[str, Any]

#: Longest text of a guest or a fault on a line.
TEXT_MAX = 300

#: What to do about a fault, by its name; ``check.`` stands for every check.
NEXT = {
    "heartbeat-lost": "look at the VM's console: a panic, no memory, no I/O? If the channel is "
    "closed, is QEMU there, and may collectd connect?",
    "check.": "ask the VM's owner; the check's own words stand below",
    "not-established": "is the agent in the image, does it run, does it open the port of this "
    "name? In the guest: vmhb-guest --check-config",
    "cannot-monitor": "do as the fault says: the image lacks hw_qemu_guest_agent=yes, or "
    "something else has the channel",
    "bad-policy": "correct the flavor as the fault says; VMs that exist keep the old one until "
    "they are resized",
    "guest-misbehaves": "find out what the VM runs on that port; heartbeats go on meanwhile",
    "engine-impaired": "do as the fault says; until then VMs of this host are not wholly watched",
    "verification": "nothing: somebody runs vmhb-vitrage verify, and it ends by itself",
}
#: What to do about a lost heartbeat, by what was read from the measurements.
NEXT_BY_READING = {
    "stopped": "virsh domstate --reason VM says why; when the cause is gone, virsh resume VM",
    "qemu-silent": "ps -o stat,wchan of its QEMU: T is stopped by a signal, D waits in this "
    "host's kernel, mostly for storage",
    "starved": "what else runs on this host's processors? See top, pinning and quotas, and "
    "whether too many vCPUs share them",
    "io-stuck": "look at the storage behind its disks, and at this host's kernel log",
    "hung": "look at its console for a panic; virsh dump VM keeps its memory for whoever asks "
    "why, virsh inject-nmi VM may wake it, a reboot ends it",
    "busy": "look into the guest: something takes all its processor time; is its agent set to "
    "run before other programs?",
    "waiting": "look at the storage behind its disks; if that is well, at the agent in the guest",
    "agent-silent": "the guest's console or ssh should work: is the agent stopped, or does it "
    "wait for something?",
}


def status(said: Values, now: float) -> str:
    """Returns the engine in a few lines, and a table of VMs."""
    engine, vms = said["engine"], said["vms"]
    healths = Counter(vm["health"] for vm in vms)
    counts = ", ".join(f"{count} {health}" for health, count in healths.most_common())
    lines = [
        f"engine       mode {engine['mode']}, libvirt {engine['libvirt']}, awareness "
        f"{engine['awareness']} of 8, process {engine['pid']}, up {span(now - engine['since'])}",
        f"VMs          {len(vms)} monitored" + (f": {counts}" if counts else ""),
    ]
    if engine["policy_file"]:
        lines.append(f"policy file  {_policy_file(engine['policy_file'], now)}")
    if engine["maintenance"]:
        lines.append(f"maintenance  the whole host, {_window(engine['maintenance'])}")
    lines += [
        f"maintenance  VM {shown(vm['name'])}, which does not run, {_window(vm['maintenance'])}"
        for vm in said["unmonitored"]
        if vm["maintenance"]
    ]
    lines += [
        f"maintenance  VM {shown(vm['name'])}, {_window(vm['maintenance'])}"
        for vm in vms
        # The host's is told once.
        if vm["maintenance"] and vm["maintenance"] != engine["maintenance"]
    ]
    for fault in engine["faults"]:
        lines += _fault(fault, now)
    if vms:
        lines += ["", table(sorted(vms, key=lambda vm: str(vm["name"])), now)]
    return "\n".join(lines)


def table(vms: Sequence[Values], now: float) -> str:
    """Returns a line for each VM below a line of heads."""
    rows = [["VM", "UUID", "HEALTH", "FOR", "MAINTENANCE", "RTT", "MISSES", "OPEN FAULTS"]]
    for vm in vms:
        since, window = vm["since"], vm["maintenance"]
        rows.append(
            [
                shown(vm["name"]),
                vm["uuid"],
                f"{vm['health']}, busy" if vm["busy"] else vm["health"],
                "-" if since is None else span(now - since),
                f"until {clock(window['until'])}" if window else "-",
                "-" if vm["rtt"] is None else milliseconds(vm["rtt"]),
                str(vm["misses"]),
                ", ".join(map(_fault_name, vm["faults"])) or "-",
            ]
        )
    return "\n".join(_columns(rows))


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    ]


def account(vm: Values, now: float) -> str:
    """Returns all that is known of one VM, the most urgent first."""
    domain, channel = vm["domain"], vm["channel"]
    lines = [
        f"VM {shown(vm['name'])}  {vm['uuid']}",
        f"health       {_health(vm, now)}",
    ]
    if vm["maintenance"]:
        lines.append(f"maintenance  {_window(vm['maintenance'])}")
    if vm["busy"]:
        until = f"until {clock(vm['busy']['until'])}"
        lines.append(f"busy         {until}, as the guest says: {_quoted(vm['busy']['reason'])}")
    obstacle = f" ({shown(channel['obstacle'], TEXT_MAX)})" if channel["obstacle"] else ""
    lines += [
        f"channel      {channel['name']}: {channel['state']}{obstacle}",
        f"domain       {domain['name']}, {domain['state']}, libvirt's id {domain['id']}; "
        f"project {shown(domain['project']) or '-'}, flavor {shown(domain['flavor']) or '-'}",
        *_measured(vm["measured"]),
        f"policy       {_policy(vm['policy'])}",
        f"counters     {', '.join(f'{name} {n}' for name, n in vm['counters'].items())}",
        "",
        "Faults" if vm["faults"] else "Faults: none",
    ]
    for fault in vm["faults"]:
        lines += _fault(fault, now, vm["measured"])
    checks = vm["checks"]
    lines += ["", "Health checks" if checks else "Health checks: none reported"]
    lines += [
        f"  {check['name']}: {check['status']}  {shown(check['text'], TEXT_MAX)}".rstrip()
        for check in checks
    ]
    if vm["audit"]:
        lines += ["", *_last_audit(vm["audit"])]
    return "\n".join([*lines, "", *_exchanges(vm["exchanges"])])


def audit(audit: Values) -> str:
    """Returns what an audit found, a line for each check."""
    rows = [["CHECK", "STATUS", "TOOK", "TEXT"]]
    rows += [
        [check["name"], check["status"], milliseconds(check["duration"]), _quoted(check["text"])]
        for check in audit["checks"]
    ]
    return "\n".join(_columns(rows)) if audit["checks"] else "the VM has no checks"


def why_not_done(audit: Values, vm: Values) -> str:
    """Says why an audit is not done, and what to do."""
    outcome, said = audit["outcome"], _quoted(audit["text"])
    if outcome == "unknown_check":
        names = ", ".join(check["name"] for check in vm["checks"]) or "none"
        return f"it has no check {audit['check']}; it has reported: {names}"
    if outcome == "timeout":
        return f"not every check ended within {audit['timeout']:g} s ({said}); see --timeout"
    if outcome == "refused":
        return f"the guest refused the audit: {said}"
    if outcome == "interrupted":
        return "the session ended before the answer; see vmhb explain"
    return f"the guest did not answer within {audit['timeout']:g} s; see vmhb explain"


def _health(vm: Values, now: float) -> str:
    words = str(vm["health"])
    if vm["since"] is not None:
        words += f" since {clock(vm['since'])} ({span(now - vm['since'])})"
    if vm["misses_in_a_row"]:
        words += f", {vm['misses_in_a_row']} misses in a row"
    if vm["health"] == "establishing":
        if not vm["established"]:
            words += ", has not answered in this run"
        grace = vm["grace_until"]
        if grace is not None and grace > now:
            words += f", silence is forgiven for {span(grace - now)}"
    return words


def _measured(measured: Values | None) -> list[str]:
    if measured is None:
        return []
    meaning = f": {measured['meaning']}" if measured["meaning"] else ""
    return [f"measured     {measured['what']}{meaning}"]


def _policy(policy: Values) -> str:
    required = ", must answer" if policy["required"] else ""
    return (
        f"every {policy['interval']:g} s, answer within {policy['timeout']:g} s; "
        f"{policy['miss_threshold']} misses in a row are a failure, "
        f"{policy['recovery_threshold']} answers the recovery{required}; "
        f"from {shown(policy['source'], TEXT_MAX)}"
    )


def _policy_file(file: Values, now: float) -> str:
    written = file["written"]
    age = "" if written is None else f", confirmed {span(now - written)} ago"
    return f"{file['vms']} VMs{age}" + (", REFUSED: see the fault" if file["error"] else "")


def _window(window: Values) -> str:
    return f"until {clock(window['until'])}: {shown(window['reason'], TEXT_MAX)}"


def _fault_name(fault: Values) -> str:
    return str(fault["name"]) if fault["incident"] else f"({fault['name']})"


def _fault(fault: Values, now: float, measured: Values | None = None) -> list[str]:
    """Returns a fault; ``measured`` is newer than what was measured when it was raised."""
    since, name = fault["since"], fault["name"]
    known = "" if since is None else f" since {clock(since)} ({span(now - since)})"
    incident, evidence = fault["incident"], fault["evidence"]
    what = f"incident {incident}" if incident else "not raised: maintenance"
    then = NEXT["check." if name.startswith("check.") else name]
    lines = [
        f"  {name}, {fault['severity']}{known}, {what}",
        f"    why:  {shown(fault['text'], TEXT_MAX)}",
    ]
    if "measured" in evidence:
        lines.append(f"    seen: when it was raised, {shown(evidence['measured'], TEXT_MAX)}")
        for reading in (evidence["reading"], measured["reading"] if measured else ""):
            then = NEXT_BY_READING.get(reading, then)
    audited = _findings(fault["audit"]) if fault.get("audit") else []
    return [*lines, *(f"    {line}" for line in audited), f"    next: {then}"]


def _last_audit(audit: Values) -> list[str]:
    what = f"check {audit['check']}" if audit["check"] else "all checks"
    took = "" if audit["took"] is None else f" after {audit['took']:.1f} s"
    asked = f"of {what}, asked for at {clock(audit['at'])}: {audit['outcome']}{took}"
    return [f"Last audit, {audit['level']}, {asked}", *(f"  {line}" for line in _findings(audit))]


def _findings(audit: Values) -> list[str]:
    lines = [
        f"audit: {check['name']}: {check['status']}  {_quoted(check['text'])}".rstrip()
        for check in audit["checks"]
    ]
    if audit["outcome"] != "done" or not lines:
        lines.append(f"audit: {audit['outcome']}  {_quoted(audit['text'])}".rstrip())
    return lines


def _quoted(text: str) -> str:
    return shown(text, TEXT_MAX)


def _exchanges(exchanges: Sequence[Values]) -> list[str]:
    if not exchanges:
        return ["Last exchanges: none"]
    lines = ["Last exchanges, the newest last"]
    for exchange in exchanges:
        at, rtt = exchange["at"], exchange["rtt"]
        moment = f"{clock(at)}.{int(at % 1 * 1000):03d}"
        lines.append(f"  {moment}  {'unanswered' if rtt is None else milliseconds(rtt)}")
    rtts = [exchange["rtt"] for exchange in exchanges if exchange["rtt"] is not None]
    if rtts:
        low, middle, high = min(rtts), statistics.median(rtts), max(rtts)
        lines.append(
            f"Round trips of these: {milliseconds(low)} to {milliseconds(high)}, "
            f"median {milliseconds(middle)}"
        )
    return lines


def clock(moment: float) -> str:
    """Returns a moment as local date and time, for a person."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def span(seconds: float) -> str:
    """Returns a duration in its two largest units."""
    left = max(0, round(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def milliseconds(seconds: float) -> str:
    """Returns a round trip."""
    return f"{seconds * 1000:.1f} ms"
