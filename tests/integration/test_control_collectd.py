# SPDX-License-Identifier: Apache-2.0
"""The operator's command `vmhb` in front of a real collectd: looking, maintenance, and audits."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.collectd_node import FAST, REPOSITORY, SETTINGS, Node, Vm
from tests.integration.stand_in import Mode

pytestmark = pytest.mark.timeout(60)

FAILURE, OKAY = 1, 4
HEALTHY, UNHEALTHY, FAILED = 2, 4, 5
LOST = "heartbeat-lost"


class Desk(Node):
    """A node with somebody at its terminal."""

    @property
    def socket(self) -> Path:
        return self.directory / "run/control.sock"

    def vmhb(self, *arguments: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """Runs the command, as the system's Python has it."""
        command = ["/usr/bin/python3", "-m", "collectd_vmhb.cli", "--socket", str(self.socket)]
        become = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups"]
        return subprocess.run(
            [*(become if user != "root" else ()), *command, *arguments],
            # Others may have no way to the repository.
            cwd=self.directory / "installed",
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )

    def says(self, *arguments: str) -> str:
        """Runs the command, which must succeed, and returns what it prints."""
        done = self.vmhb(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def start(self, *arguments: Any, **keys: Any) -> None:
        """Starts collectd; returns when the engine answers: collectd's own socket does earlier."""
        super().start(*arguments, **keys)
        self.wait(lambda: self.vmhb("status").returncode == 0, "the engine does not answer")

    def lose(self, vm: Vm) -> None:
        """Has a VM fall silent, and waits until it is reported."""
        self.wait_health(vm, HEALTHY)
        self.wait_established(vm)
        self.guest(vm.name).mode = Mode.SILENT
        self.wait_row(LOST, FAILURE, vm.uuid)


@pytest.fixture(name="node")
def _node() -> Iterator[Desk]:
    # A path that is short enough for sockets, and open, so that rights alone keep others out.
    directory = Path(tempfile.mkdtemp(prefix="vmhb-"))
    directory.chmod(0o755)
    installed = directory / "installed/collectd_vmhb"
    shutil.copytree(REPOSITORY / "collectd_vmhb", installed, ignore=lambda *_: ["__pycache__"])
    node = Desk(directory)
    try:
        yield node
    finally:
        node.close()
        shutil.rmtree(directory)


def test_an_operator_sees_what_is_wrong_and_what_to_do(node: Desk) -> None:
    web, _ = node.vm("web"), node.vm("database")
    node.vm("unasked", specs={})
    node.vm("twin"), node.vm("twin ")
    node.vms["other"] = node.vms.pop("twin ")
    node.vms["other"].name = "twin"
    node.start()
    node.lose(web)
    lines = node.says("status").splitlines()
    assert "mode report, libvirt connected" in lines[0]
    assert "4 monitored: 3 healthy, 1 failed" in lines[1]
    (row,) = (line for line in lines if line.startswith("web "))
    assert row.split()[:3] == ["web", web.uuid, "failed"]
    assert row.endswith(LOST)
    explained = node.says("explain", "web")
    incident = node.wait_row(LOST, FAILURE, web.uuid)["meta"]["incident"]
    assert f"{LOST}, failure since" in explained
    assert f"incident {incident}" in explained
    assert "next: look at the VM's console" in explained
    assert explained.count("unanswered\n") >= 3
    assert " ms" in node.says("explain", "database")
    said = json.loads(node.says("status", "--json", web.uuid))
    assert said["engine"]["pid"] == node.pid
    assert [vm["health"] for vm in said["vms"]] == ["failed"]
    unknown = node.vmhb("explain", "databaze")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.splitlines() == [
        "vmhb: no VM databaze is monitored on this host; did you mean database?"
    ]
    assert "not monitored" in node.vmhb("explain", "unasked").stderr
    node.says("pause", "unasked", "--for", "1h", "--reason", "before it is resized")
    assert "before it is resized" in node.says("status")
    ambiguous = node.vmhb("pause", "twin", "--for", "1h", "--reason", "x")
    assert ambiguous.returncode == 1
    assert node.vms["twin"].uuid in ambiguous.stderr
    assert node.vms["other"].uuid in ambiguous.stderr


def test_maintenance_outlives_a_restart_and_then_a_silent_vm_is_raised_once(node: Desk) -> None:
    web = node.vm("web")
    node.start()
    node.lose(web)
    assert "VM web" in node.says("pause", "web", "--for", "8s", "--reason", "a new disk")
    ends = time.time() + 8
    closed = node.wait_row(LOST, OKAY, web.uuid)
    assert closed["meta"]["reason"] == "maintenance"
    since = len(node.rows())
    node.wait_health(web, FAILED)
    assert "not raised: maintenance" in node.says("explain", "web")
    node.stop()
    assert not node.socket.exists()
    node.start()
    node.wait_row("open-faults", OKAY, since=since)
    node.wait(lambda: f"({LOST})" in node.says("status", "web"), "no fault is withheld")
    assert "a new disk" in node.says("explain", "web")
    assert "a new disk" in node.says("status")
    assert node.value(web, "gauge-maintenance") == 1
    assert node.about(web, since) == []
    assert time.time() < ends, "the machine is too slow for this test"
    raised = node.wait_row(LOST, FAILURE, web.uuid, since, timeout=12)
    assert raised["at"] >= ends - 1
    assert raised["meta"]["incident"] != closed["meta"]["incident"]
    time.sleep(1.5)
    assert node.about(web, since) == [(LOST, FAILURE)]
    assert node.value(web, "gauge-maintenance") == 0
    assert "maintenance is over" in node.log()


def test_the_host_with_all_its_vms_is_paused_and_resumed(node: Desk) -> None:
    vms = [node.vm("web"), node.vm("database")]
    node.start()
    for vm in vms:
        node.wait_health(vm, HEALTHY)
    node.says("pause", "--host", "--for", "1h", "--reason", "new firmware")
    for vm in vms:
        node.guest(vm.name).mode = Mode.SILENT
    for vm in vms:
        node.wait_health(vm, FAILED)
    node.guest("database").mode = Mode.HEALTHY
    node.wait_health(vms[1], HEALTHY)
    assert "maintenance  the whole host" in node.says("status")
    assert [node.about(vm) for vm in vms] == [[], []]
    none = node.vmhb("resume", "web")
    assert none.returncode == 1
    assert none.stderr == f"vmhb: VM {vms[0].uuid} has no maintenance of its own\n"
    node.says("resume", "--host")
    node.wait_row(LOST, FAILURE, vms[0].uuid)
    assert [node.about(vm) for vm in vms] == [[(LOST, FAILURE)], []]


def test_nobody_but_root_gets_in_and_a_dead_engine_is_told(node: Desk) -> None:
    node.vm("web")
    node.start()
    tried = node.vmhb("status", user="nobody")
    assert (tried.returncode, tried.stdout) == (1, "")
    assert tried.stderr == f"vmhb: no right to open {node.socket}: run vmhb as root\n"
    assert node.says("status")
    node.kill()
    assert node.socket.exists()
    dead = node.vmhb("status")
    assert dead.returncode == 1
    assert str(node.socket) in dead.stderr
    assert "systemctl status collectd" in dead.stderr
    node.start()
    assert node.says("status")
    assert node.errors() == []


def test_a_hostile_client_delays_no_heartbeat(node: Desk) -> None:
    web = node.vm("web", specs={**FAST, "vmhb:interval": "0.1"})
    node.start()
    node.wait_health(web, HEALTHY)
    beats, began = node.value(web, "derive-beats"), time.monotonic()
    clients: list[socket.socket] = []
    while time.monotonic() < began + 3:
        for line in (b"\xff\n" * 1000, b"x" * 200_000, b'{"command": "status"}\n' * 100, b""):
            client = socket.socket(socket.AF_UNIX)
            clients.append(client)
            client.connect(str(node.socket))
            client.settimeout(0.01)
            try:
                client.sendall(line)
            except OSError:
                continue
        time.sleep(0.02)
    assert node.value(web, "derive-beats") - beats >= 20
    assert node.value(web, "derive-misses") == 0
    assert node.value(web, "latency-heartbeat") < 0.05
    for client in clients:
        client.close()
    assert node.says("status", "web")
    assert "Traceback" not in node.log()


def audited(node: Desk, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Asks for an audit as soon as there may be one again."""
    while "too soon" in (done := node.vmhb("audit", *arguments)).stderr:
        time.sleep(0.5)
    return done


def test_an_operator_has_a_guest_audited(node: Desk) -> None:
    web, base = node.vm("web", Mode.EXTENDED), node.vm("base")
    node.start(SETTINGS + "AuditPace 1\n")
    for vm in (web, base):
        node.wait_health(vm, HEALTHY)
    assert node.says("audit", "web", "--check", "app", "--detailed").splitlines() == [
        "CHECK  STATUS  TOOK     TEXT",
        "app    ok      12.0 ms  detailed: looked closely",
    ]
    said = json.loads(audited(node, "web", "--json").stdout)
    assert (said["outcome"], said["level"]) == ("done", "quick")
    assert [check["name"] for check in said["checks"]] == ["app"]
    unknown = audited(node, "web", "--check", "ap")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "vmhb: VM web: it has no check ap; it has reported: app\n"
    node.guest("web").finding = None
    never = audited(node, "web", "--timeout", "2s")
    assert never.returncode == 1
    assert never.stderr == "vmhb: VM web: the guest did not answer within 2 s; see vmhb explain\n"
    other = node.vmhb("audit", "base")
    assert other.stderr == (
        "vmhb: no audit of VM base: its agent does not speak audits; vmhb-guest does\n"
    )
    assert node.vmhb("audit", "web", "--check", "a b").returncode == 1
    assert node.vmhb("audit", "web", "--timeout", "1").returncode == 2
    node.wait_health(web, HEALTHY)
    assert node.about(web) == [], "an audit without answer is no miss"
    assert "Traceback" not in node.log()


def test_a_guest_is_not_audited_faster_than_the_pace(node: Desk) -> None:
    web = node.vm("web", Mode.EXTENDED)
    node.start(SETTINGS + "AuditPace 3600\n")
    node.wait_health(web, HEALTHY)
    node.says("audit", "web")
    soon = node.vmhb("audit", "web")
    assert (soon.returncode, soon.stdout) == (1, "")
    assert soon.stderr.startswith("vmhb: no audit of VM web: too soon: ")


def test_what_a_failing_check_says_in_detail_stands_with_its_fault(node: Desk) -> None:
    web = node.vm("web", Mode.EXTENDED)
    guest = node.guest("web")
    guest.perfdata = "depth=7m;;;0;10 'two words'=2%"
    node.start(SETTINGS + "PerfdataMax 1\n")
    node.wait_health(web, HEALTHY)
    node.wait(lambda: node.value(web, "gauge-perf.app.depth") == 7.0, "no figure")
    over = "vmhb/gauge-vms-perfdata-over-2*"
    (values,) = (node.directory / "node.csv/compute-1").glob(over)
    node.wait(lambda: values.read_text().endswith(",1.000000\n"), "nobody gives too many")
    assert not list((node.directory / "node.csv/compute-1").glob("*/gauge-perf.app.two*"))
    guest.finding = "20 of 20\x1b[1m clients"
    guest.status = "critical"
    node.wait_row("check.app", FAILURE, web.uuid)
    node.wait(
        lambda: (
            "    audit: app: critical  detailed: 20 of 20 [1m clients\n"
            in node.says("explain", "web")
        ),
        "the audit is not shown",
    )
    assert "app: critical  a glance" in node.says("explain", "web")
    node.wait(lambda: "detailed audit of check app, done after" in node.log(), "not on the log")
    assert "20 of 20" not in json.dumps(node.rows()), "a guest's words stay on its host"
    time.sleep(1)
    assert node.about(web) == [("check.app", FAILURE)]


def test_a_busy_guest_is_shown_and_let_be_until_its_time_is_over(node: Desk) -> None:
    web, slow = node.vm("web", Mode.EXTENDED), node.vm("slow", Mode.EXTENDED)
    node.guest("web").busy_ms = 3_600_000
    node.start(SETTINGS + "BusyMax 8\n")
    for vm in (web, slow):
        node.wait_health(vm, HEALTHY)
    node.wait(lambda: "healthy, busy" in node.says("status", "web"), "it is not shown as busy")
    said = json.loads(node.says("status", "--json", "web"))["vms"][0]["busy"]
    assert said["reason"] == "fsck [31m"
    assert said["until"] <= time.time() + 8
    for name in ("web", "slow"):
        node.guest(name).mode = Mode.SILENT
    node.wait_row(LOST, FAILURE, slow.uuid)
    assert time.time() < said["until"], "the machine is too slow for this test"
    assert node.about(web) == []
    raised = node.wait_row(LOST, FAILURE, web.uuid, timeout=15)
    assert raised["at"] >= said["until"]
    assert "busy for 3600 s: fsck [31m; its silence is let be" in node.log()
