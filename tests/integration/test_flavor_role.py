# SPDX-License-Identifier: Apache-2.0
"""The role vmhb_flavor with the real Ansible and openstacksdk, in front of a cloud of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.nova_stand_in import PASSWORD, PROJECT, Cloud, NovaStandIn

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]

ROOT = Path(__file__).parents[2]
ANSIBLE = ROOT / ".lab/venv/ansible/bin/ansible-playbook"
FRESH, OLD, BARE, VOLUME, OTHER = (f"6ba7b810-9dad-41d1-80b4-00000000000{n}" for n in range(5))
ASKS = {"vmhb:enabled": "true"}
AGENT = {"hw_qemu_guest_agent": "yes"}
IMAGE = ("70a599e0-31e7-49b7-b260-868f441e862b", "debian-12")


class Operator:
    """Runs the role against a cloud."""

    def __init__(self, directory: Path) -> None:
        assert ANSIBLE.exists(), "Ansible is missing: script/setup test"
        self._directory = directory
        self.cloud = Cloud()
        self.cloud.flavors = {"m1.hb": {"hw:cpu_policy": "dedicated"}, "m1.small": {}}
        self.cloud.images[IMAGE] = {"os_distro": "debian"}
        self.nova = NovaStandIn(self.cloud)
        self.password = PASSWORD

    def run(self, *options: str, **variables: Any) -> dict[str, Any]:
        """Runs the role, which must succeed; returns what its tasks said, by their modules."""
        done = self._play(options, [variables])
        assert done["stats"]["localhost"]["failures"] == 0, done
        found: dict[str, Any] = {"changed": done["stats"]["localhost"]["changed"], "report": []}
        for task in done["plays"][0]["tasks"]:
            result = task["hosts"]["localhost"]
            found["report"] += result.get("report", [])
            found["diff"] = result.get("diff") or found.get("diff")
        return found

    def refused(self, *cases: dict[str, Any]) -> list[str]:
        """Runs the role once a case, which must change nothing; returns the sentence of each."""
        done = self._play((), cases)
        assert self.cloud.changed == []
        return [self._sentence(play) for play in done["plays"]]

    def _sentence(self, play: dict[str, Any]) -> str:
        results = [task["hosts"]["localhost"] for task in play["tasks"]]
        failed = next(result for result in results if result.get("failed"))
        assert "Traceback" not in str(failed)
        sentence = str(failed["msg"])
        assert "\n" not in sentence
        return sentence

    def _play(self, options: Sequence[str], cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
        playbook = self._directory / "play.yml"
        playbook.write_text(json.dumps([self._play_of(case) for case in cases]))
        done = subprocess.run(
            [ANSIBLE, *options, playbook],
            env={
                "PATH": f"{ANSIBLE.parent}:/usr/bin:/bin",
                "HOME": str(self._directory),
                "ANSIBLE_ROLES_PATH": str(ROOT / "ansible/roles"),
                "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
                "LC_ALL": "C.UTF-8",
            },
            cwd=self._directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert PASSWORD not in done.stdout
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
        return answer

    def _play_of(self, variables: dict[str, Any]) -> dict[str, Any]:
        auth = {
            "OS_AUTH_URL": self.nova.url,
            "OS_USERNAME": "admin",
            "OS_PASSWORD": self.password,
            "OS_USER_DOMAIN_ID": "default",
            "OS_PROJECT_ID": PROJECT,
            "OS_REGION_NAME": "RegionOne",
        }
        given = {f"vmhb_flavor_{name}": value for name, value in variables.items()}
        # The SDK is where the tests run.
        python = {"ansible_python_interpreter": sys.executable}
        return {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            # One play goes on to the next; who runs it looks for what failed.
            "ignore_errors": True,
            "roles": [{"role": "vmhb_flavor", "vars": {"vmhb_flavor_environment": auth, **given}}],
            "vars": python,
        }


@pytest.fixture(name="operator")
def _operator(tmp_path: Path) -> Iterator[Operator]:
    operator = Operator(tmp_path)
    yield operator
    operator.nova.stop()


def test_flavors_and_images_are_set_once_and_taken_back(operator: Operator) -> None:
    cloud = operator.cloud
    wanted = {"flavors": ["m1.hb"], "images": ["debian-12"]}
    specs = {"vmhb:enabled": True, "vmhb:interval": 2}

    looked = operator.run("--check", "--diff", **wanted, specs=specs)
    assert cloud.changed == []
    assert looked["diff"]["after"]["flavor m1.hb"]["vmhb:interval"] == "2"

    assert operator.run(**wanted, specs=specs)["changed"] == 1
    assert cloud.flavors["m1.hb"] == {
        "hw:cpu_policy": "dedicated",
        "vmhb:enabled": "true",
        "vmhb:interval": "2",
    }
    assert cloud.images[IMAGE]["hw_qemu_guest_agent"] == "yes"
    assert cloud.flavors["m1.small"] == {}

    assert operator.run(**wanted, specs=specs)["changed"] == 0
    operator.run(**wanted, specs=ASKS)
    assert "vmhb:interval" not in cloud.flavors["m1.hb"], "what is not wanted any more goes"

    operator.run(**wanted, state="absent")
    assert cloud.flavors["m1.hb"] == {"hw:cpu_policy": "dedicated"}
    assert cloud.images[IMAGE] == {"os_distro": "debian"}
    assert operator.run(**wanted, state="absent")["changed"] == 0


def test_what_others_have_set_on_an_image_is_theirs(operator: Operator) -> None:
    operator.cloud.images[IMAGE] = {"hw_qemu_guest_agent": "True"}
    assert operator.run(images=["debian-12"])["changed"] == 0
    operator.run(images=[IMAGE[0]], state="absent")
    assert operator.cloud.images[IMAGE] == {"hw_qemu_guest_agent": "True"}


def test_the_report_names_each_vm_under_what_is_to_be_done(operator: Operator) -> None:
    cloud = operator.cloud
    cloud.page = 2
    cloud.servers["compute-1"] = {
        FRESH: ("m1.hb", ASKS),
        OLD: ("m1.hb", {"hw:cpu_policy": "dedicated"}),
        BARE: ("m1.hb", ASKS),
    }
    cloud.servers["compute-2"] = {VOLUME: ("m1.hb", ASKS), OTHER: ("m1.small", {})}
    cloud.made_from = {FRESH: AGENT, OLD: AGENT, BARE: {}, VOLUME: None}

    report = operator.run(flavors=["m1.hb"])["report"]

    groups = "\n".join(report).split("for each of them:")
    resize, controller, unknown, reboot = groups[:4]
    assert OLD in resize
    assert BARE in controller
    assert VOLUME in unknown
    assert FRESH in reboot
    assert OLD not in controller + unknown + reboot
    assert FRESH not in resize + controller + unknown
    assert OTHER not in "\n".join(report)
    for step in ("resize confirm VM", "nova-manage image_property set VM", "reboot --hard VM"):
        assert any(step in line for line in report)


def test_a_nova_that_does_not_tell_image_properties_is_asked_on_the_host(
    operator: Operator,
) -> None:
    operator.cloud.newest = "2.95"
    operator.cloud.servers["compute-1"] = {FRESH: ("m1.hb", ASKS)}
    report = operator.run(flavors=["m1.hb"])["report"]
    assert any("grep virtio-serial" in line for line in report)


def test_bad_input_is_one_sentence_and_changes_nothing(operator: Operator) -> None:
    operator.cloud.images[("another", "suse")] = operator.cloud.images[("a third", "suse")] = {}
    expected: dict[str, dict[str, Any]] = {
        "name a flavor or an image": {},
        "there is no flavor m1.hbb": {"flavors": ["m1.hb", "m1.hbb"]},
        "there is no image arch": {"flavors": ["m1.hb"], "images": ["arch"]},
        "several images are called suse": {"flavors": ["m1.hb"], "images": ["suse"]},
        "vmhb:enabeld is no extra spec of ours": {
            "flavors": ["m1.hb"],
            "specs": {"vmhb:enabeld": "true"},
        },
        "vmhb_flavor_specs is empty": {"flavors": ["m1.hb"], "specs": {}},
    }
    sentences = operator.refused(*expected.values())
    for beginning, sentence in zip(expected, sentences):
        assert beginning in sentence


def test_a_cloud_that_refuses_is_named_and_left_as_it_was(operator: Operator) -> None:
    wanted = {"flavors": ["m1.hb"]}
    operator.cloud.is_admin = False
    assert "needs the role that its policy asks for" in operator.refused(wanted)[0]
    operator.cloud.is_admin, operator.cloud.shows_extra_specs = True, False
    operator.cloud.servers["compute-1"] = {FRESH: ("m1.hb", ASKS)}
    assert "os-flavor-extra-specs:index" in operator.refused(wanted)[0]
    operator.password = "wrong"
    assert "requires authentication" in operator.refused(wanted)[0]
