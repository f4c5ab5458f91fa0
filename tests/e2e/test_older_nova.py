# SPDX-License-Identifier: Apache-2.0
"""A guest whose domain XML tells no extra specs, as before Nova 32: the other sources, for real."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectd_vmhb import nova_policy
from collectd_vmhb.control import ask
from tests.e2e.conftest import SPECS, Cloud
from tests.integration.nova_stand_in import PASSWORD, PROJECT, NovaStandIn
from tests.integration.nova_stand_in import Cloud as NovaCloud
from tests.lab.guest import Guest
from tests.lab.product import stanza

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(240),
    # The SDK warns of what it does itself.
    pytest.mark.filterwarnings("ignore"),
]

FLAVOR = "m1.vmhb"


@pytest.fixture(name="old", scope="module")
def _old(cloud: Cloud) -> Iterator[Guest]:
    guest = cloud.lab.boot("old", extra_specs=None)
    yield guest
    guest.destroy()
    guest.undefine()


@pytest.fixture(name="nova")
def _nova(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NovaStandIn]:
    """A Keystone and a Nova that know the guest, and a clouds.yaml (JSON is YAML) for them."""
    nova = NovaStandIn(NovaCloud({cloud.lab.node.hostname: {}}))
    auth = {"auth_url": nova.url, "username": "vmhb", "password": PASSWORD, "project_id": PROJECT}
    auth["user_domain_id"] = "default"
    (tmp_path / "clouds.yaml").write_text(json.dumps({"clouds": {"here": {"auth": auth}}}))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    yield nova
    nova.stop()


def policies(cloud: Cloud) -> Path:
    return cloud.lab.node.root / "run/vmhb/policies.json"


def source(cloud: Cloud, guest: Guest) -> str:
    path = f"{cloud.lab.node.root}/run/vmhb/control.sock"
    said: str = ask(path, {"command": "explain", "vm": guest.uuid})["policy"]["source"]
    return said


def hangs_and_recovers(cloud: Cloud, guest: Guest) -> None:
    mark = cloud.mark()
    guest.stop_agent()
    cloud.notified(guest, "heartbeat-lost", bad=True, since=mark)
    cloud.alarm("VM heartbeat lost")
    guest.continue_agent()
    cloud.notified(guest, "heartbeat-lost", bad=False, since=mark)
    cloud.no_alarm()


def test_what_nova_answers_is_how_the_guest_is_monitored(
    cloud: Cloud, old: Guest, nova: NovaStandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    host = cloud.lab.node.hostname
    nova.cloud.servers[host] = {old.uuid: (FLAVOR, SPECS)}
    command = ["--os-cloud", "here", "--host", host, "--output", str(policies(cloud))]
    assert nova_policy.main(command) == 0, capsys.readouterr().err
    cloud.healthy(old)
    assert source(cloud, old) == "the policy file"
    hangs_and_recovers(cloud, old)
    nova.cloud.servers[host] = {old.uuid: ("m1.small", {})}
    assert nova_policy.main(command) == 0, capsys.readouterr().err
    path = f"{cloud.lab.node.root}/run/vmhb/control.sock"
    while old.uuid not in [vm["uuid"] for vm in ask(path, {"command": "status"})["unmonitored"]]:
        time.sleep(0.2)


def test_the_name_of_its_flavor_is_how_the_guest_is_monitored(cloud: Cloud, old: Guest) -> None:
    policies(cloud).unlink(missing_ok=True)
    words = tuple(f"{key}={value}" for key, value in SPECS.items())
    named = stanza(cloud.lab, HoldDown=0.0, FlavorPolicy=("*.vmhb", *words))
    cloud.collectd.stop()
    cloud.collectd.start(named)
    try:
        cloud.healthy(old)
        assert source(cloud, old) == 'FlavorPolicy "*.vmhb"'
        hangs_and_recovers(cloud, old)
    finally:
        cloud.collectd.stop()
        cloud.collectd.start(cloud.stanza)
