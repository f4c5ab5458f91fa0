# SPDX-License-Identifier: Apache-2.0
"""The sweep beside a real broker and a real Vitrage, with collectd daemons for compute nodes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from tests.controller.conftest import SWEEPER, TOPIC, Controller, lost, until, uuid
from tests.controller.node import PERIOD, Node
from tests.controller.test_driver import OURS
from tests.lab.certificates import make_certificate
from tests.lab.ear import Ear
from tests.lab.layout import ROOT
from vitrage_notifier.transport import OsloTransport

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

#: What the sweep and two loaded cores may add to a bound.
ROOM = 20.0
#: How long the notifiers may take to come back; for less than a minute's outage this is enough.
GRACE = 30.0


class Sweeping:
    """The command `vmhb-vitrage sweep`, running."""

    def __init__(self, controller: Controller, at: Path, url: str = "") -> None:
        self._controller = controller
        self.at = at
        at.mkdir()
        self._url = at / "url"
        self._url.touch(mode=0o600)
        self._url.write_text(f"{url or controller.broker.url}\n")
        self._log = at / "sweep.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, pool: str = "vmhb-sweep") -> None:
        argv = ["sweep", "--transport-url-file", str(self._url), "--state-dir", str(self.at)]
        argv += [
            "--grace",
            "30",
            "--pool",
            pool,
            "--repeat",
            str(PERIOD),
            "--repeat-for",
            str(3 * PERIOD),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._controller.argv(*argv), env=self._controller.env(), stdout=log, stderr=log
            )

    def started(self, pool: str = "vmhb-sweep") -> None:
        """Start it, and wait until it hears."""
        said = self.log().count("hears the notifiers")
        self.start(pool)
        until(lambda: self.log().count("hears the notifiers") > said, 60, self.log)

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def stop(self) -> float:
        """End it as systemd does; return the seconds that took."""
        assert self._process is not None
        began = time.monotonic()
        self._process.terminate()
        assert self._process.wait(15) == 0, self.log()
        self._process = None
        return time.monotonic() - began


@pytest.fixture(name="sweep")
def _sweep(controller: Controller, tmp_path: Path) -> Iterator[Sweeping]:
    sweep = Sweeping(controller, tmp_path / "sweep")
    yield sweep
    sweep.kill()


@pytest.fixture(name="node")
def _node(controller: Controller, tmp_path: Path) -> Iterator[Callable[[str], Node]]:
    nodes: list[Node] = []

    def start(host: str) -> Node:
        node = Node(tmp_path / host, host, controller.broker.url)
        nodes.append(node)
        node.start()
        return node

    yield start
    for node in nodes:
        node.kill()


@pytest.fixture(name="cloud", params=["", OURS], ids=["stock-driver", "our-driver"])
def _cloud(controller: Controller, request: pytest.FixtureRequest) -> Iterator[Controller]:
    controller.vitrage.conf = request.param
    controller.vitrage.be_ready()
    yield controller
    controller.vitrage.conf = ""


@pytest.mark.long
def test_a_node_dies_with_twenty_faults_and_its_vms_start_on_another(
    cloud: Controller, sweep: Sweeping, node: Callable[[str], Node]
) -> None:
    sweep.started()
    first, second = node("compute-1"), node("compute-2")
    for number in range(20):
        cloud.vitrage.announce_instance(uuid(number), f"vm-{number}", "compute-1", "p-1")
        first.says(uuid(number), "heartbeat-lost", f"old-{number}")
    first.lists(f"old-{number}" for number in range(20))
    second.lists([])
    cloud.lists({"VM heartbeat lost": 20})

    first.kill()
    for number in range(20):
        cloud.vitrage.announce_instance(uuid(number), f"vm-{number}", "compute-2", "p-1")
    for number in (3, 7):
        second.says(uuid(number), "heartbeat-lost", f"new-{number}")
    cloud.lists({"VM heartbeat lost": 2}, within=2 * PERIOD + ROOM)
    assert incidents(cloud) == {"new-3", "new-7"}
    cloud.lists({"VM heartbeat lost": 2, "VM heartbeat engine silent": 1}, within=PERIOD + ROOM)
    (silent,) = [row for row in cloud.vitrage.alarms_now() if "silent" in row["name"]]
    assert cloud.vitrage.resource(silent["vitrage_resource_id"])["Data Source ID"] == "compute-1"

    # Its engine finds none of the VMs; the notifier has the old faults on its disk.
    first.start()
    first.lists([])
    cloud.lists({"VM heartbeat lost": 2}, within=2 * PERIOD + ROOM)
    assert incidents(cloud) == {"new-3", "new-7"}


@pytest.mark.long
def test_neither_its_own_death_nor_the_brokers_makes_the_sweep_accuse_anybody(
    controller: Controller, sweep: Sweeping, node: Callable[[str], Node]
) -> None:
    controller.vitrage.be_ready()
    sweep.started()
    compute = node("compute-1")
    compute.says(uuid(1), "heartbeat-lost", "kept")
    compute.lists(["kept"])
    controller.lists({"VM heartbeat lost": 1})
    until(lambda: "1 alarms are vouched for, 1 hosts speak" in sweep.log(), 20, sweep.log)
    sweep.kill()
    time.sleep(3 * PERIOD)
    sweep.started()
    time.sleep(PERIOD)
    controller.broker.stop()
    time.sleep(4 * PERIOD)
    controller.broker.start()
    until(lambda: sweep.log().count("hears the notifiers") == 3, 60, sweep.log)
    controller.vitrage.alarms_now(60)
    time.sleep(3 * PERIOD)
    controller.lists({"VM heartbeat lost": 1}, within=PERIOD)
    assert "collectd.alarm" not in sweep.log(), "an accusation"
    compute.kill()
    controller.lists({}, within=GRACE + 2 * PERIOD + ROOM)


@pytest.mark.long
def test_a_second_sweep_in_the_pool_is_noticed_and_one_in_its_own_pool_is_welcome(
    controller: Controller, sweep: Sweeping, tmp_path: Path
) -> None:
    controller.vitrage.be_ready()
    sweep.started()
    other = Sweeping(controller, tmp_path / "other")
    try:
        other.started("another-pool")
        assert "another sweep" not in sweep.log() + other.log()
        other.kill()
        other.start()
        until(lambda: "another sweep listens in the pool vmhb-sweep" in sweep.log(), 90, sweep.log)
    finally:
        other.kill()
    assert sweep.stop() < 10


@pytest.mark.long
def test_a_host_that_is_taken_out_of_service_is_not_silent(
    controller: Controller, sweep: Sweeping, node: Callable[[str], Node]
) -> None:
    controller.vitrage.be_ready()
    sweep.started()
    compute = node("compute-1")
    compute.lists([])
    until(lambda: "1 hosts speak" in sweep.log(), 20, sweep.log)
    compute.kill()
    controller.lists({"VM heartbeat engine silent": 1}, within=3 * PERIOD + ROOM)
    url = str(sweep.at / "url")
    done = controller.command("sweep", "--transport-url-file", url, "--retire", "compute-1")
    assert done.stdout == "compute-1: the sweep is told\n"
    controller.lists({})


def test_vitrage_gets_its_copies_all_the_same(controller: Controller, sweep: Sweeping) -> None:
    controller.vitrage.be_ready()
    sweep.started()
    alarms = [lost(number, f"copy-{number}") for number in range(20)]
    controller.raises(*alarms)
    controller.lists({"VM heartbeat lost": 20})
    until(lambda: "20 alarms are vouched for" in sweep.log(), 10, sweep.log)
    controller.clears(*alarms)
    controller.lists({})


def url_of(controller: Controller, tenant: str, way: str = "") -> str:
    """Where a tenant finds the broker; `way` is what stands in the URL's query."""
    broker = controller.broker
    port = broker.tls_port if "ssl=true" in way else broker.port
    return f"rabbit://{tenant}:{tenant}@127.0.0.1:{port}/{tenant}{way}"


@pytest.mark.parametrize(
    ("tenant", "way"),
    [
        (SWEEPER.name, ""),
        pytest.param(SWEEPER.name, "?ssl=true&ssl_ca_file={ca}", marks=pytest.mark.long),
        pytest.param("quorum", "?rabbit_quorum_queue=true", marks=pytest.mark.long),
    ],
    ids=["plain", "tls", "quorum"],
)
def test_the_rights_that_the_page_gives_to_its_user_are_enough(
    controller: Controller, tmp_path: Path, tenant: str, way: str
) -> None:
    page = (ROOT / "docs/vitrage.md").read_text()
    assert f"'{SWEEPER.configure}' \\\n    '{SWEEPER.write}' '{SWEEPER.read}'" in page
    way = way.format(ca=controller.certificate.ca)
    everything = url_of(controller, tenant, way).replace(f"{tenant}:{tenant}@", "guest:guest@")
    with Ear(everything) as vitrage:
        sweep = Sweeping(controller, tmp_path / "sweep", url_of(controller, tenant, way))
        try:
            sweep.started()
            notifier = OsloTransport(everything, TOPIC, 10.0)
            notifier.send(*lost(1, "rights").event(True, 2.0))
            notifier.close()
            until(
                lambda: "collectd.alarm.ok" in [e.event_type for e in vitrage.wait_for(0, 0.0)],
                20,
                sweep.log,
            )
        finally:
            sweep.kill()


@pytest.mark.long
@pytest.mark.parametrize(
    ("tenant", "way", "says"),
    [
        ("no-configure", "", "cannot listen (403)"),
        ("no-read", "", "cannot listen (403)"),
        ("no-write", "", "does not count the time: cannot send (403)"),
        (SWEEPER.name, "?ssl=true&ssl_ca_file={other}", "cannot send (tls)"),
        ("quorum", "", "(406)"),
    ],
    ids=["no-configure", "no-read", "no-write", "another authority", "other queues"],
)
def test_what_the_broker_refuses_is_named_and_accuses_nobody(
    controller: Controller, tmp_path: Path, tenant: str, way: str, says: str
) -> None:
    way = way.format(other=make_certificate(tmp_path / "other").ca)
    everything = url_of(controller, tenant).replace(f"{tenant}:{tenant}@", "guest:guest@")
    quorum = "?rabbit_quorum_queue=true" if tenant == "quorum" else ""
    sweep = Sweeping(controller, tmp_path / "sweep", url_of(controller, tenant, way))
    with Ear(everything + quorum) as vitrage:
        try:
            sweep.start()
            until(lambda: says in sweep.log(), 90, sweep.log)
            assert "Traceback" not in sweep.log()
            assert f":{tenant}@" not in sweep.log()
            assert sweep.stop() < 10
        finally:
            sweep.kill()
        assert [e for e in vitrage.wait_for(0, 0.0) if e.event_type != "vmhb.echo"] == []


def test_a_url_file_that_others_may_read_is_refused(controller: Controller, tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text(controller.broker.url)
    path.chmod(0o644)
    done = controller.command("sweep", "--transport-url-file", str(path))
    assert done.returncode == 1
    assert "chmod 0600" in done.stderr
    assert "--transport-url-file" in done.stderr
    path.chmod(0o600)
    path.write_text("pigeon://somewhere/")
    done = controller.command(
        "sweep", "--transport-url-file", str(path), "--state-dir", str(tmp_path)
    )
    assert done.returncode == 1
    assert "--transport-url-file" in done.stderr
    assert "Traceback" not in done.stderr


def incidents(controller: Controller) -> set[str]:
    rows = controller.vitrage.alarms_now()
    return {row["resource_name"].rpartition("/")[2] for row in rows if "lost" in row["name"]}
