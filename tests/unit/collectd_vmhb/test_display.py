# SPDX-License-Identifier: Apache-2.0
"""What an operator sees, made by the engine's own view from real monitors."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from collectd_vmhb import display, verdict
from collectd_vmhb.domain import ChannelDevice, Domain, DomainState, Instance
from collectd_vmhb.evidence import Finding, Reading
from collectd_vmhb.incidents import Incident
from collectd_vmhb.maintenance import Window, Withheld
from collectd_vmhb.sources import NO_POLICIES, NOBODY, PoliciesRead, Told
from collectd_vmhb.verdict import FaultRaised, Severity
from collectd_vmhb.view import Eyes, bystander, policy_file
from tests.unit.collectd_vmhb.peer import POLICY, Peer

UUID = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
WALL = 1.7e9
DOMAIN = Domain(
    UUID,
    "instance-00000001",
    7,
    DomainState.RUNNING,
    Instance("web\x1b[31m", "p-1", "m1.small", {}),
    (ChannelDevice(POLICY.channel, "/run/port"),),
    True,
)
LOST = Incident(
    "i-1",
    UUID,
    "heartbeat-lost",
    Severity.FAILURE,
    "5 challenges unanswered",
    WALL - 252,
    "no-answer",
    {},
    "web",
    "p-1",
    0.0,
)
SOURCE = "the policy file"
WORK = Window(WALL - 60, WALL + 3600, "a new disk", 1e6)


def account(peer: Peer, *incidents: Incident, window: Window | None = None) -> str:
    eyes = Eyes(peer.now, WALL)
    faults = eyes.faults(incidents, []).get(UUID, [])
    return display.account(eyes.account(DOMAIN, peer.monitor, faults, window, SOURCE), WALL)


def status(peer: Peer, *incidents: Incident, **engine: Any) -> str:
    eyes = Eyes(peer.now, WALL)
    row = eyes.row(DOMAIN, peer.monitor, eyes.faults(incidents, []).get(UUID, []), None)
    said = {"mode": "report", "libvirt": "connected", "awareness": 2, "pid": 42}
    said.update(since=WALL - 7500, maintenance=None, faults=[], policy_file=None)
    said.update(engine)
    return display.status({"engine": said, "vms": [row], "unmonitored": []}, WALL)


def healthy() -> Peer:
    peer = Peer()
    peer.open()
    peer.answer()
    peer.live(20)
    return peer


def lost() -> Peer:
    peer = healthy()
    peer.live(7, answering=False)
    return peer


def test_a_table_has_a_line_for_each_vm_below_its_heads() -> None:
    engine, vms, _, head, row = status(lost(), LOST).splitlines()
    assert engine.split(maxsplit=1)[1] == (
        "mode report, libvirt connected, awareness 2 of 8, process 42, up 2 h 5 min"
    )
    assert vms.split(maxsplit=1)[1] == "1 monitored: 1 failed"
    assert head.split()[:3] == ["VM", "UUID", "HEALTH"]
    assert [row[head.index(name) :].split("  ")[0] for name in ("UUID", "HEALTH", "MISSES")] == [
        UUID,
        "failed",
        "6",
    ]
    assert row.endswith("heartbeat-lost")


def test_a_healthy_vm_shows_its_round_trips_and_nothing_to_do() -> None:
    text = account(healthy())
    assert "health       healthy since" in text
    assert "session open\n" in text
    assert "3 answers the recovery; from the policy file\n" in text
    assert "Faults: none" in text
    assert text.count("  0.0 ms") == 10
    assert "Round trips of these: 0.0 ms to 0.0 ms, median 0.0 ms" in text
    assert "next:" not in text


def test_a_lost_vm_says_since_when_why_and_what_to_do() -> None:
    text = account(lost(), LOST)
    assert "health       failed since" in text
    assert "heartbeat-lost, failure since" in text
    assert "(4 min 12 s), incident i-1" in text
    assert "why:  5 challenges unanswered" in text
    assert "next: look at the VM's console" in text
    assert text.count("unanswered\n") >= 6


def test_a_vm_that_never_spoke_says_so_and_how_long_it_has() -> None:
    peer = Peer()
    peer.monitor.disconnected(0.0, "/run/port: Connection refused")
    text = account(peer)
    assert "has not answered in this run, silence is forgiven for 5 min" in text
    assert "not connected (/run/port: Connection refused)" in text
    bare = Eyes(peer.now, WALL).account(
        replace(DOMAIN, channels=()), peer.monitor, [], None, SOURCE
    )
    assert "not connected (the domain has no such channel)" in display.account(bare, WALL)
    assert "Last exchanges: none" in text


def test_maintenance_is_shown_with_its_end_and_reason_and_what_it_withholds() -> None:
    peer = lost()
    eyes = Eyes(peer.now, WALL)
    fault = FaultRaised(UUID, "heartbeat-lost", Severity.FAILURE, "silent", peer.now - 5, "no")
    faults = eyes.faults([], [Withheld(fault, "web", "p-1")])[UUID]
    vm = eyes.account(DOMAIN, peer.monitor, faults, WORK, SOURCE)
    text = display.account(vm, WALL)
    assert f"maintenance  until {display.clock(WALL + 3600)}: a new disk" in text
    assert "(5 s), not raised: maintenance" in text
    assert display.table([vm], WALL).endswith("(heartbeat-lost)")


def test_the_table_of_all_vms_tells_the_reason_of_a_maintenance_once() -> None:
    peer = healthy()
    eyes = Eyes(peer.now, WALL)
    row = eyes.row(DOMAIN, peer.monitor, [], WORK)
    engine: dict[str, Any] = {"mode": "report", "libvirt": "connected", "awareness": 0, "pid": 1}
    engine.update(since=WALL, maintenance=None, faults=[], policy_file=None)
    text = display.status({"engine": engine, "vms": [row], "unmonitored": []}, WALL)
    assert f"until {display.clock(WORK.until)}: a new disk" in text
    assert text.count("a new disk") == 1
    engine.update(maintenance=row["maintenance"])
    text = display.status({"engine": engine, "vms": [row, row], "unmonitored": []}, WALL)
    assert "the whole host" in text
    assert text.count("a new disk") == 1


def test_what_was_measured_is_told_and_decides_what_to_do_next() -> None:
    peer = lost()
    evidence = {"reading": "hung", "measured": "its vCPU ran 3.9 s"}
    incident = LOST._replace(details=evidence)
    eyes = Eyes(peer.now, WALL)
    faults = eyes.faults([incident], [])[UUID]

    def explained(finding: Finding | None) -> str:
        vm = eyes.account(DOMAIN, peer.monitor, faults, None, SOURCE, finding)
        return display.account(json.loads(json.dumps(vm)), WALL)

    text = explained(None)
    assert "seen: when it was raised, its vCPU ran 3.9 s" in text
    assert "next: look at its console for a panic" in text
    assert "measured   " not in text
    text = explained(Finding(Reading.STARVED, "its vCPU ran 0.1 s"))
    assert "measured     its vCPU ran 0.1 s: it is starved" in text
    assert "next: what else runs on this host's processors?" in text
    # A new engine has nothing yet: what the last one saw still tells what to do.
    assert "next: look at its console" in explained(Finding(Reading.NOT_MEASURED, "not twice"))


def test_what_a_tenant_wrote_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in account(healthy()) + status(healthy())


def test_a_check_is_shown_with_the_guests_words_which_never_leave_this_host() -> None:
    peer = Peer()
    peer.open(extended=True)
    check = {"name": "app", "status": "critical", "text": "no reply from :8080"}
    check.update(perfdata="")
    peer.answer(vmhb={"checks": [{**check, "since_ms": 0, "duration_ms": 1}], "more": False})
    assert "  app: critical  no reply from :8080" in account(peer)
    incident = LOST._replace(name="check.app", text="health check app is critical")
    assert "next: ask the VM's owner" in account(peer, incident)


def test_the_hosts_own_faults_and_maintenance_stand_above_the_table() -> None:
    fault = {"name": "engine-impaired", "severity": "failure", "since": WALL - 60}
    fault.update(text="libvirt is away", incident="i-2", evidence={})
    peer = healthy()
    eyes = Eyes(peer.now, WALL)
    row = eyes.row(DOMAIN, peer.monitor, [], None)
    engine = {"mode": "report", "libvirt": "away", "awareness": 0, "pid": 1, "since": WALL}
    engine.update(maintenance={"until": WALL + 60, "reason": "new firmware"}, faults=[fault])
    engine.update(policy_file=None)
    off = {"uuid": "vm-2", "name": "off", "maintenance": {"until": WALL, "reason": "resized"}}
    text = display.status({"engine": engine, "vms": [row], "unmonitored": [off]}, WALL)
    places = [text.index(word) for word in ("new firmware", "VM off", "libvirt is away", "UUID")]
    assert places == sorted(places)


def test_the_policy_file_is_shown_with_its_age_and_whether_it_is_refused() -> None:
    read = PoliciesRead({"vm-1": {}, "vm-2": {}}, WALL - 180)
    peer = healthy()
    lines = status(peer, policy_file=policy_file(read)).splitlines()
    assert "policy file  2 VMs, confirmed 3 min ago" in lines
    broken = replace(read, error="line 3: ...")
    assert "2 VMs, confirmed 3 min ago, REFUSED" in status(peer, policy_file=policy_file(broken))
    assert "policy file" not in status(peer, policy_file=policy_file(NO_POLICIES))


@pytest.mark.parametrize(
    ("domain", "told", "words"),
    [
        (replace(DOMAIN, domain_id=None), Told({}, "the domain's XML"), "it is shut off"),
        (
            DOMAIN,
            Told({}, "the domain's XML"),
            "its flavor m1.small does not ask for it; so says the domain's XML",
        ),
        (
            replace(DOMAIN, instance=Instance("web", "p-1", "m1.small", None)),
            Told(None, NOBODY),
            "its domain XML tells no extra specs (Nova before 32), the policy file does not name "
            "it, and no FlavorPolicy matches its flavor m1.small",
        ),
        (replace(DOMAIN, instance=None), Told(None, NOBODY), "Nova did not make it"),
    ],
)
def test_a_vm_that_is_not_monitored_says_why(domain: Domain, told: Told, words: str) -> None:
    assert words in bystander(domain, None, told)["why"]


def test_every_fault_has_something_to_do_next() -> None:
    faults = {
        value for name, value in vars(verdict).items() if name.isupper() and isinstance(value, str)
    }
    assert set(display.NEXT) == faults


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (90061, "1 d 1 h"),
    ],
)
def test_a_span_is_told_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert display.span(seconds) == text


def test_busy_and_audits_are_shown_where_one_looks() -> None:
    peer = Peer()
    peer.open(extended=True, caps=["audit", "busy", "checks"])
    check = {"name": "app", "status": "critical", "since_ms": 0, "duration_ms": 1}
    busy = {"reason": "fsck\x07of /", "for_ms": 60000}
    peer.answer(vmhb={"checks": [check], "more": False, "busy": busy})
    (asked,) = [message for message in peer.said if message["msg_type"] == "audit"]
    found = [{**check, "text": "port 5432: refused"}]
    result = {"version": 3, "msg_type": "audit_result", "id": asked["id"], "outcome": "done"}
    failed = LOST._replace(name="check.app", text="health check app is critical")
    assert "audit: running" in account(peer, failed)
    peer.say(json.dumps({**result, "checks": found}).encode() + b"\n")
    assert "unhealthy, busy" in status(peer)
    text = account(peer, failed)
    assert "busy         until 2023-11-14" in text
    assert "as the guest says: fsck of /" in text
    why = text.index("why:  health check app is critical")
    assert (
        why < text.index("    audit: app: critical  port 5432: refused") < text.index("Health ch")
    )
    assert "Last audit, detailed, of check app, asked for at 2023" in text
    assert ": done after 0.0 s" in text
