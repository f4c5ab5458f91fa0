# SPDX-License-Identifier: Apache-2.0
"""The engine in a real collectd, between libvirt's test driver and guests that may be hostile."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.collectd_node import FAST, SETTINGS, Node
from tests.integration.stand_in import Mode

pytestmark = pytest.mark.timeout(60)

FAILURE, WARNING, OKAY = 1, 2, 4
HEALTHY, FAILED, PAUSED = 2, 5, 6

INTERVAL, TIMEOUT, MISSES = 0.2, 0.18, 3
#: The documented bounds (collectd_vmhb/detector.py), for a guest that answers within 20 ms.
EARLIEST = (MISSES - 1) * INTERVAL + TIMEOUT - 0.02
LATEST = MISSES * INTERVAL + TIMEOUT + 0.01
#: What a busy machine may add until the notification is on disk and delivered.
NOISE = 1.0

HOSTILE = [mode for mode in Mode if mode not in (Mode.HEALTHY, Mode.SILENT)]


@pytest.fixture(name="bare")
def _bare() -> Iterator[Node]:
    """A node with nothing on it, in a path that is short enough for sockets."""
    yield from _node()


@pytest.fixture(name="node", scope="module")
def _busy() -> Iterator[Node]:
    """A node with VMs of every kind, whose collectd runs."""
    for node in _node():
        node.vm("healthy")
        node.vm("stops")
        node.vm("unasked", specs={})
        node.vm("misspelt", specs={**FAST, "vmhb:interval": "fast"})
        node.vm("uncontrolled", channel=False)
        node.vm("paused", mode=None, specs={**FAST, "vmhb:required": "true"}, paused=True)
        node.vm("mute", mode=Mode.SILENT, specs={**FAST, "vmhb:required": "true"})
        for mode in HOSTILE:
            node.vm(mode.name, mode)
        node.start()
        yield node


def _node() -> Iterator[Node]:
    directory = Path(tempfile.mkdtemp(prefix="vmhb-"))
    node = Node(directory)
    try:
        yield node
    finally:
        node.close()
        shutil.rmtree(directory)


def listed(row: dict[str, object]) -> list[str]:
    """The incidents that an open-faults notification lists."""
    meta = row["meta"]
    assert isinstance(meta, dict)
    assert (meta["part"], meta["parts"]) == (1, 1)
    incidents = json.loads(meta["incidents"])
    assert isinstance(incidents, list)
    return incidents


# -- one node, many VMs -------------------------------------------------------------------------


def test_a_healthy_vm_has_values_and_no_notification(node: Node) -> None:
    vm = node.vms["healthy"]
    node.wait_health(vm, HEALTHY)
    (health,) = node.ask(f'GETVAL "compute-1/vmhb-{vm.uuid}/gauge-health"')
    assert health == "value=2.000000e+00"
    listing = "\n".join(node.ask("LISTVAL"))
    for name in ("gauge-health", "latency-heartbeat", "derive-beats", "derive-misses"):
        assert f"compute-1/vmhb-{vm.uuid}/{name}" in listing
    assert node.value(vm, "derive-beats") > 0
    assert 0 < node.value(vm, "latency-heartbeat") < TIMEOUT
    assert node.about(vm) == []


def test_the_first_handshake_follows_the_first_complete_reconcile(node: Node) -> None:
    row = node.wait_row("open-faults", OKAY)
    before = [r["meta"]["incident"] for r in node.rows() if r["at"] < row["at"]]
    assert sorted(listed(row)) == sorted(before)


def test_a_lost_heartbeat_is_told_in_time_and_so_is_its_return(node: Node) -> None:
    vm, guest = node.vms["stops"], node.guest("stops")
    node.wait_health(vm, HEALTHY)
    guest.mode, hung = Mode.SILENT, time.time()
    lost = node.wait_row("heartbeat-lost", FAILURE, vm.uuid)
    assert EARLIEST <= lost["at"] - hung <= LATEST + NOISE
    assert "stops" in lost["message"]
    assert lost["meta"]["instance_name"] == "stops"
    assert lost["meta"]["project"] == "p-1"
    assert hung - 1 < lost["meta"]["since"] <= hung + 0.1
    guest.mode = Mode.HEALTHY
    well = node.wait_row("heartbeat-lost", OKAY, vm.uuid)
    assert well["meta"]["incident"] == lost["meta"]["incident"]
    assert well["meta"]["reason"] == "recovered"
    assert node.about(vm) == [("heartbeat-lost", FAILURE), ("heartbeat-lost", OKAY)]


def test_a_vm_whose_flavor_does_not_ask_is_never_connected_to(node: Node) -> None:
    node.wait_health(node.vms["healthy"], HEALTHY)
    assert node.guest("healthy").connections == 1
    assert node.guest("unasked").connections == 0
    assert node.about(node.vms["unasked"]) == []


def test_a_bad_policy_is_one_warning_that_says_what_is_wrong(node: Node) -> None:
    vm = node.vms["misspelt"]
    row = node.wait_row("bad-policy", WARNING, vm.uuid)
    for word in ("VM misspelt", "vmhb:interval", "fast", "number of seconds"):
        assert word in row["message"]
    # Monitored all the same.
    node.wait_health(vm, HEALTHY)
    assert node.about(vm) == [("bad-policy", WARNING)]


def test_a_vm_without_controller_cannot_be_monitored_and_is_not_called_lost(node: Node) -> None:
    vm = node.vms["uncontrolled"]
    row = node.wait_row("cannot-monitor", WARNING, vm.uuid)
    assert "hw_qemu_guest_agent=yes" in row["message"]
    time.sleep(max(0.0, row["at"] + 1 + LATEST - time.time()))
    assert node.about(vm) == [("cannot-monitor", WARNING)]


def test_a_paused_vm_is_left_in_peace(node: Node) -> None:
    vm = node.vms["paused"]
    node.wait_health(vm, PAUSED)
    assert node.about(vm) == []


def test_a_required_vm_that_never_answers_is_not_established(node: Node) -> None:
    vm = node.vms["mute"]
    node.wait_row("not-established", WARNING, vm.uuid)
    assert node.about(vm) == [("not-established", WARNING)]


def test_hostile_guests_disturb_neither_neighbour_nor_memory(node: Node) -> None:
    vm = node.vms["healthy"]
    node.wait_health(vm, HEALTHY)
    for mode in HOSTILE:
        assert node.guest(mode.name).connections > 0, mode
    beats, memory = node.value(vm, "derive-beats"), node.rss()
    time.sleep(2.5)
    assert node.value(vm, "derive-beats") - beats >= 10
    assert node.value(vm, "derive-misses") == 0
    assert node.rss() - memory < 4 * 2**20
    flood = node.value(node.vms[Mode.FLOOD.name], "derive-bytes_in")
    assert 0 < flood < 5e6, "a guest's flood is read at the pace that its budget allows"
    assert "Traceback" not in node.log()
    assert node.errors() == []


@pytest.mark.parametrize("mode", [Mode.NAN, Mode.TOO_LONG, Mode.HALF_LINE], ids=lambda m: m.name)
def test_what_is_no_answer_is_no_beat(node: Node, mode: Mode) -> None:
    vm = node.vms[mode.name]
    node.wait_health(vm, 1)
    assert node.value(vm, "derive-beats") == 0


def test_a_wrong_answer_is_counted_and_is_no_beat(node: Node) -> None:
    vm = node.vms[Mode.WRONG.name]
    node.wait_health(vm, 1)
    assert node.value(vm, "derive-beats") == 0
    assert node.value(vm, "derive-wrong") > 0


def test_a_guests_text_cannot_break_the_log_and_stays_on_the_host(node: Node) -> None:
    vm = node.vms[Mode.SURROGATE.name]
    row = node.wait_row("check.app", FAILURE, vm.uuid)
    assert row["message"] == "VM SURROGATE: health check app is critical"
    assert "the guest says: half   pair" in node.log()
    assert "half" not in json.dumps(row)
    assert node.guest(Mode.SURROGATE.name).connections == 1


def test_a_lost_heartbeat_carries_its_evidence_to_other_plugins(node: Node) -> None:
    row = node.wait_row("heartbeat-lost", FAILURE, node.vms["stops"].uuid)
    evidence = json.loads(row["meta"]["evidence"])
    assert evidence["domain"] == "running"
    assert evidence["exchanges"].count(":-") >= MISSES
    low, middle, high = map(float, evidence["rtt_ms"].split("/"))
    assert 0 < low <= middle <= high
    # libvirt's test driver counts nothing.
    assert evidence["reading"] == "not-measured"


@pytest.mark.parametrize(("setting", "words"), [("redacted", "half pair"), ("full", "half   pair")])
def test_a_guests_words_leave_the_host_only_if_the_operator_says_so(
    bare: Node, setting: str, words: str
) -> None:
    vm = bare.vm("web", Mode.SURROGATE)
    bare.start(f'{SETTINGS}\nEvidenceText "{setting}"')
    row = bare.wait_row("check.app", FAILURE, vm.uuid)
    assert json.loads(row["meta"]["evidence"])["guest_text"] == words
    assert "half" not in row["message"]


def test_the_config_gate_beside_the_daemon_disturbs_nothing(node: Node) -> None:
    vm, guest = node.vms["healthy"], node.guest("healthy")
    node.wait_health(vm, HEALTHY)
    node.wait_established(vm)
    misses, connections = node.value(vm, "derive-misses"), guest.connections
    status, log = node.gate()
    assert status == 0
    assert "another engine holds" in log
    assert not (node.directory / "gate.jsonl").exists()
    node.wait_established(vm)  # what the daemon saved was not replaced
    assert guest.connections == connections
    assert node.value(vm, "derive-misses") == misses


# -- the engine dies and comes back -------------------------------------------------------------


def test_an_open_fault_survives_kills_and_ends_once(bare: Node) -> None:
    vm, guest = bare.vm("web"), bare.guest("web")
    bare.start()
    bare.wait_health(vm, HEALTHY)
    bare.wait_established(vm)
    guest.mode = Mode.SILENT
    incident = bare.wait_row("heartbeat-lost", FAILURE, vm.uuid)["meta"]["incident"]
    bare.kill()

    # Still lost: said again under the same incident, and nothing else.
    since = len(bare.rows())
    bare.start()
    assert listed(bare.wait_row("open-faults", OKAY, since=since)) == [incident]
    time.sleep(1 + LATEST)
    rows = bare.rows(since)
    assert [(row["type_instance"], row["severity"]) for row in rows] == [
        ("heartbeat-lost", FAILURE),
        ("open-faults", OKAY),
    ]
    assert rows[0]["meta"]["incident"] == incident
    bare.kill()

    # Recovered meanwhile: its end is told, once.
    since = len(bare.rows())
    guest.mode = Mode.HEALTHY
    bare.start()
    well = bare.wait_row("heartbeat-lost", OKAY, vm.uuid, since)
    assert well["meta"]["incident"] == incident
    bare.kill()

    # Killed just after the end: nothing is open, nothing is told twice.
    since = len(bare.rows())
    bare.start()
    assert listed(bare.wait_row("open-faults", OKAY, since=since)) == []
    bare.wait_health(vm, HEALTHY)
    assert bare.about(vm, since) == []


def test_a_vm_that_dies_while_the_engine_is_away_is_found_lost(bare: Node) -> None:
    vm, guest = bare.vm("web"), bare.guest("web")
    bare.start()
    bare.wait_established(vm)
    bare.kill()
    guest.mode, began = Mode.SILENT, time.time()
    bare.start()
    row = bare.wait_row("heartbeat-lost", FAILURE, vm.uuid)
    assert row["at"] - began >= 1, "GraceAfterResume is kept"


def test_a_vm_that_is_gone_when_the_engine_returns_is_cleared(bare: Node) -> None:
    vm = bare.vm("web", channel=False)
    bare.start()
    incident = bare.wait_row("cannot-monitor", WARNING, vm.uuid)["meta"]["incident"]
    bare.kill()
    since = len(bare.rows())
    del bare.vms["web"]
    bare.start()
    assert listed(bare.wait_row("open-faults", OKAY, since=since)) == []
    gone = bare.wait_row("cannot-monitor", OKAY, vm.uuid, since)
    assert gone["meta"]["incident"] == incident
    assert "gone" in gone["meta"]["reason"]


def test_an_established_vm_whose_channel_closes_again_and_again_is_lost(bare: Node) -> None:
    vm, guest = bare.vm("web"), bare.guest("web")
    bare.start()
    bare.wait_health(vm, HEALTHY)
    guest.mode = Mode.CLOSES
    bare.wait_row("heartbeat-lost", FAILURE, vm.uuid)


# -- collectd in other ways ---------------------------------------------------------------------


def test_a_wrong_configuration_is_told_by_key_and_collectd_lives(bare: Node) -> None:
    bare.vm("web")
    guest = bare.guest("web")
    bare.start("IntervalMax 1e\nIntervall 1\nMode report\nTimeout 2\nInterval 1")
    log = bare.log()
    errors = [line for line in log.splitlines() if "[error]" in line]
    for words in (("IntervalMax",), ("Intervall", "Interval?"), ("Timeout 2", "Interval 1")):
        assert any(all(word in line for word in words) for line in errors), (words, log)
    row = bare.wait_row("engine-impaired", FAILURE)
    assert "off on this host" in row["message"]
    assert "Traceback" not in log
    assert guest.connections == 0
    assert bare.ask("LISTVAL") == []
    assert bare.stop() < 5


def test_the_daemon_may_fork(bare: Node) -> None:
    vm = bare.vm("web")
    bare.start(foreground=False)
    bare.wait_health(vm, HEALTHY)
    assert bare.stop() < 5


def test_it_shares_the_process_with_collectds_own_virt_plugin(bare: Node) -> None:
    vm = bare.vm("web")
    virt = 'LoadPlugin virt\n<Plugin virt>\n  Connection "test:///default"\n</Plugin>\n'
    bare.start(more=virt)
    bare.wait_health(vm, HEALTHY)
    assert any("test/virt/" in line for line in bare.ask("LISTVAL"))
    assert bare.stop() < 5
    assert "left behind" not in bare.log()


def test_without_libvirt_collectd_runs_and_is_told_once(bare: Node) -> None:
    bare.start(uri="qemu+unix:///system?socket=/nonexistent")
    time.sleep(2.5)
    assert bare.log().count("libvirt is away") == 1
    assert "Traceback" not in bare.log()
    assert bare.stop() < 5
    assert bare.rows() == []
