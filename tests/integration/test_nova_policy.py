# SPDX-License-Identifier: Apache-2.0
"""`vmhb-nova-policy` with the real openstacksdk, in front of a Keystone and a Nova of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from collectd_vmhb import nova_policy
from tests.integration.nova_stand_in import PASSWORD, PROJECT, Cloud, NovaStandIn

pytestmark = [
    pytest.mark.timeout(60),
    # The SDK warns of what it does itself.
    pytest.mark.filterwarnings("ignore"),
]

REPOSITORY = Path(__file__).parents[2]
WEB, DB, PLAIN = (f"6ba7b810-9dad-41d1-80b4-00000000000{number}" for number in (1, 2, 3))
ASKED = {"vmhb:enabled": "true", "vmhb:interval": "2"}
SERVERS = "/servers/detail"


@dataclass(frozen=True)
class Done:
    """How a run of the command ended."""

    returncode: int
    stdout: str
    stderr: str


class Desk:
    """A compute node's shell, with a clouds.yaml."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        found = importlib.util.find_spec("openstack")
        assert found, "openstacksdk is missing: script/setup test"
        self.directory = directory
        self.output = directory / "state/policies.json"
        self.output.parent.mkdir(mode=0o700)
        self.cloud = Cloud()
        self.cloud.servers["compute-1"] = {
            WEB: ("m1.vmhb", {**ASKED, "hw:cpu_policy": "dedicated"}),
            DB: ("hb.old", {"sw:wrs:guest:heartbeat": "true"}),
            PLAIN: ("m1.small", {"hw_rng:allowed": "True"}),
        }
        self.cloud.servers["compute-2"] = {}
        self.nova = NovaStandIn(self.cloud)
        self.configure(self.nova.url)

    def configure(self, url: str, password: str = PASSWORD) -> None:
        """Writes the clouds.yaml."""
        auth = {"auth_url": url, "username": "vmhb", "password": password, "project_id": PROJECT}
        auth["user_domain_id"] = "default"
        clouds = {"clouds": {"here": {"auth": auth, "region_name": "RegionOne"}}}
        # JSON is YAML.
        (self.directory / "clouds.yaml").write_text(json.dumps(clouds))

    def run(self, *arguments: str, host: str = "compute-1") -> Done:
        """Runs the command within this process: the SDK is not quickly imported."""
        given = ["--os-cloud", "here", "--host", host, "--output", str(self.output), *arguments]
        status = nova_policy.main(given)
        said = self._capsys.readouterr()
        return Done(status, said.out, said.err)

    def start(self, *arguments: str, **environment: str) -> Done:
        """Runs the command as a process of its own."""
        command = [sys.executable, "-m", "collectd_vmhb.nova_policy", "--output", str(self.output)]
        done = subprocess.run(
            [*command, *arguments],
            env={"PYTHONPATH": str(REPOSITORY), "HOME": str(self.directory), **environment},
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def fill(self) -> bytes:
        """Runs the command, which must succeed, and returns what it wrote."""
        done = self.run()
        assert (done.returncode, done.stderr) == (0, ""), done
        return self.output.read_bytes()

    def refused(self, *arguments: str, host: str = "compute-1") -> str:
        """Runs the command, which must keep the file; returns the one line that it says."""
        before = self.output.read_bytes() if self.output.exists() else None
        done = self.run(*arguments, host=host)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert (self.output.read_bytes() if self.output.exists() else None) == before
        assert "Traceback" not in done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("vmhb-nova-policy: ")
        assert line.endswith(f"{self.output} stays as it was")
        return line


@pytest.fixture(name="desk")
def _desk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    # The SDK looks for the working directory once, as it is imported.
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    desk = Desk(tmp_path, capsys)
    yield desk
    desk.nova.stop()


def extra_specs(content: bytes) -> dict[str, dict[str, str]]:
    fields = json.loads(content)
    assert fields.keys() == {"format", "extra_specs"}
    specs = fields["extra_specs"]
    assert isinstance(specs, dict)
    return specs


def test_every_vm_of_the_host_is_written_with_those_extra_specs_that_are_ours(desk: Desk) -> None:
    done = desk.run()
    assert done.stdout == f"3 VMs on compute-1, 2 to be monitored; {desk.output} written\n"
    assert (done.returncode, done.stderr) == (0, "")
    assert extra_specs(desk.output.read_bytes()) == {
        WEB: ASKED,
        DB: {"sw:wrs:guest:heartbeat": "true"},
        # Known, and not to be monitored: that is not the same as unknown.
        PLAIN: {},
    }
    assert stat.S_IMODE(desk.output.stat().st_mode) == 0o600
    assert [path for path, _ in desk.cloud.asked] == [SERVERS], "one call a host"


def test_a_file_that_is_right_is_not_written_again_and_is_as_good_as_new(desk: Desk) -> None:
    desk.fill()
    inode = desk.output.stat().st_ino
    os.utime(desk.output, (0, 0))
    assert "says so already" in desk.run().stdout
    assert desk.output.stat().st_ino == inode
    assert desk.output.stat().st_mtime > 1e9


def test_the_file_belongs_to_whom_the_directory_belongs(desk: Desk) -> None:
    nobody = 65534
    os.chown(desk.output.parent, nobody, nobody)
    desk.fill()
    made = desk.output.stat()
    assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (nobody, nobody, 0o600)


def test_pages_are_followed_to_the_last_wherever_their_links_point(desk: Desk) -> None:
    desk.cloud.page = 1
    assert extra_specs(desk.fill()).keys() == {WEB, DB, PLAIN}
    assert [query.get("marker") for _, query in desk.cloud.asked] == [None, WEB, DB]


def test_pages_without_an_end_are_given_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nova_policy, "PAGES_MAX", 3)
    server = desk.cloud.server(WEB, "compute-1", "m1", {})
    answer = {"servers": [server], "servers_links": [{"rel": "next", "href": "x"}]}
    desk.cloud.spoilt[SERVERS] = (200, json.dumps(answer))
    assert "has no end: 3 pages" in desk.refused()


def test_a_dry_run_prints_the_file_and_writes_nothing(desk: Desk) -> None:
    done = desk.run("--dry-run", "--verbose")
    assert extra_specs(done.stdout.encode())[WEB] == ASKED
    assert f"{WEB} name-0001: vmhb:enabled=true vmhb:interval=2" in done.stderr.splitlines()
    assert not desk.output.exists()
    assert (done.stdout.encode()) == desk.fill()


def test_wrong_credentials_are_one_sentence(desk: Desk) -> None:
    desk.fill()
    desk.configure(desk.nova.url, "wrong")
    assert "requires authentication" in desk.refused()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "are the credentials still valid"),
        (403, "servers:detail:get_all_tenants"),
        (404, "leads to nothing"),
        (406, "older than 16 (Pike)"),
        (500, f"{SERVERS} with status 500"),
        (503, "with status 503"),
    ],
)
def test_a_refusal_keeps_the_file_and_says_what_to_do(desk: Desk, status: int, words: str) -> None:
    desk.fill()
    desk.cloud.spoilt[SERVERS] = (status, "{}")
    assert words in desk.refused()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<html>It works!</html>", "is no Nova"),
        ('{"servers": [', "is no Nova"),
        ("[" * 100000, "is no Nova"),
        ("[]", "is no Nova"),
        ("{}", "no list of servers"),
        ('{"servers": [1]}', "no list of servers"),
        ('{"servers": [{"id": "x", "flavor": {"id": "1", "links": []}}]}', "without its flavor"),
        (
            '{"servers": [{"id": "x", "flavor": {"original_name": "m", "extra_specs": {}}}]}',
            "x is no UUID",
        ),
    ],
)
def test_an_answer_that_makes_no_sense_keeps_the_file(desk: Desk, body: str, words: str) -> None:
    desk.fill()
    desk.cloud.spoilt[SERVERS] = (200, body)
    assert words in desk.refused()


def test_a_user_who_may_not_see_extra_specs_is_told_which_right_is_missing(desk: Desk) -> None:
    desk.fill()
    desk.cloud.shows_extra_specs = False
    assert "os-flavor-extra-specs:index" in desk.refused()


def test_a_user_who_may_not_filter_by_host_is_told_which_right_is_missing(desk: Desk) -> None:
    desk.fill()
    desk.cloud.filters_by_host = False
    desk.cloud.servers["compute-2"] = {WEB: ("m1.vmhb", ASKED)}
    assert "servers:allow_all_filters" in desk.refused()


def test_a_host_that_nova_does_not_have_keeps_the_file(desk: Desk) -> None:
    desk.fill()
    assert "no compute service on a host compute-1.example.org" in desk.refused(
        host="compute-1.example.org"
    )


def test_a_host_that_was_emptied_is_believed_as_nova_has_it(desk: Desk) -> None:
    desk.fill()
    desk.cloud.servers["compute-1"] = {}
    assert extra_specs(desk.fill()) == {}


def test_a_cloud_without_nova_is_one_sentence(desk: Desk) -> None:
    desk.cloud.has_nova = False
    assert "compute" in desk.refused()


def test_a_keystone_that_is_not_there_is_one_sentence(desk: Desk) -> None:
    # Port 9 is discard's, and nobody listens.
    desk.configure("http://127.0.0.1:9/v3")
    assert "Unable to establish connection to http://127.0.0.1:9/v3" in desk.refused()


def test_a_cloud_that_clouds_yaml_does_not_have_is_one_sentence(desk: Desk) -> None:
    assert "elsewhere" in desk.refused("--os-cloud", "elsewhere")


def test_a_nova_that_says_nothing_is_given_up(desk: Desk) -> None:
    desk.fill()
    desk.cloud.mute = threading.Event()
    assert "timed out" in desk.refused("--timeout", "1")


def test_a_disk_that_takes_nothing_is_one_sentence(desk: Desk) -> None:
    desk.output = desk.directory / "clouds.yaml/policies.json"
    done = desk.run()
    assert done.returncode == 1
    assert done.stderr.startswith(f"vmhb-nova-policy: {desk.output} cannot be written: ")


@pytest.mark.parametrize("arguments", [("--hots", "x"), ("--timeout", "soon"), ("compute-1",)])
def test_a_wrong_option_is_a_matter_of_usage(desk: Desk, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        desk.run(*arguments)
    assert ended.value.code == 2


def test_as_a_process_it_says_one_line_whatever_the_sdk_says_besides(desk: Desk) -> None:
    desk.configure("http://127.0.0.1:9/v3")
    done = desk.start(OS_CLOUD="here")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done


def test_credentials_may_come_from_the_environment_alone(desk: Desk) -> None:
    (desk.directory / "clouds.yaml").unlink()
    there = {"OS_AUTH_URL": desk.nova.url, "OS_USERNAME": "vmhb", "OS_PROJECT_ID": PROJECT}
    done = desk.start("--host", "compute-1", OS_USER_DOMAIN_ID="default", **there)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "password is a required attribute" in done.stderr
    there.update(OS_USER_DOMAIN_ID="default", OS_PASSWORD=PASSWORD)
    done = desk.start("--host", "compute-1", **there)
    assert (done.returncode, done.stderr) == (0, "")
    assert extra_specs(desk.output.read_bytes()).keys() == {WEB, DB, PLAIN}
