# SPDX-License-Identifier: Apache-2.0
"""vmhb-conformance, as far as it needs no guest: rules, ports, mistakes of the user."""

from __future__ import annotations

import ast
import json
import os
import pty
import sys
from pathlib import Path
from typing import Any

import pytest

from vmhb_conformance import guest, port, rules
from vmhb_conformance.__main__ import main
from vmhb_conformance.player import BrokenError, NotRunError

ROOT = Path(__file__).parents[3]
MODULES = sorted((ROOT / "guest/vmhb_conformance").glob("*.py"))
CASES = [json.loads(line) for line in (ROOT / "tests/vectors/guest.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_it_needs_python_3_6_and_nothing_else(module: Path) -> None:
    tree = ast.parse(module.read_text(), feature_version=(3, 6))
    imported = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add((node.module or "").split(".")[0])
    assert imported <= sys.stdlib_module_names - {"__future__", "dataclasses"}


def test_the_rules_are_the_cases_that_a_live_guest_can_play() -> None:
    names = {case["case"].partition(": ")[2] for case in CASES}
    loaded = rules.load()
    of_their_own = {
        "a session begins with a full report",
        "an audit has each check run once",
        "an audit of no check there is says so",
        "busy is told in each response until it is over",
    }
    assert of_their_own <= {rule.name for rule in loaded} <= names | of_their_own
    base = [case for case in CASES if case["case"].startswith("base:")]
    in_need_of_results = [case for case in base if any("result" in step for step in case["steps"])]
    assert len([rule for rule in loaded if rule.base]) == len(base) - len(in_need_of_results)
    assert loaded[-1].stops, "whoever was stopped cannot be asked any more"


def test_a_rule_that_is_optional_is_one_of_the_rules() -> None:
    optional = [rule.optional for rule in rules.load() if rule.optional]
    assert sorted(optional) == sorted(rules.OPTIONAL.values())


def test_quick_leaves_out_what_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    everything = capsys.readouterr().out
    assert main(["--list", "--quick", "--base"]) == 0
    chosen = capsys.readouterr().out
    assert "silence of 5 s leads back to init (10 s)" in everything
    assert "silence" not in chosen.replace("host's silence", "")
    assert "extension" in everything
    assert "\nextension" not in chosen
    assert set(chosen.splitlines()) < set(everything.splitlines())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give the guest's port: --socket PATH, --tty PATH or --domain NAME"),
        (["--socket", "/nonexistent"], "/nonexistent: No such file or directory"),
        (["--tty", "/nonexistent"], "/nonexistent: No such file or directory"),
        (["--socket", "x" * 200], "AF_UNIX path too long"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_without_libvirt_a_domain_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    assert main(["--domain", "vm1"]) == 2
    assert "needs python3-libvirt; or give --socket PATH" in capsys.readouterr().err


DOMAIN = """<domain><devices>
<channel type='unix'><source mode='bind' path='/run/a'/><target type='virtio' name='a'/></channel>
<channel type='unix'><target type='virtio' name='off'/></channel>
<channel type='pty'><target type='guestfwd' address='10.0.2.1' port='4600'/></channel>
</devices></domain>"""


def test_a_domain_leads_to_its_ports_socket() -> None:
    assert port.socket_in_xml(DOMAIN, "vm1", "a") == "/run/a"
    with pytest.raises(port.PortError, match=r"has no channel b \(it has: a, off\)"):
        port.socket_in_xml(DOMAIN, "vm1", "b")
    with pytest.raises(port.PortError, match="is it running"):
        port.socket_in_xml(DOMAIN, "vm1", "off")


def test_a_tty_carries_bytes_as_they_are() -> None:
    near, far = pty.openpty()
    tty = port.TtyPort(os.ttyname(far))
    tty.open()
    tty.write(b"\n{}\r\n\x03")
    assert os.read(near, 100) == b"\n{}\r\n\x03"
    os.write(near, b"\r\n\x04x")
    assert tty.read(1.0) == b"\r\n\x04x"
    assert tty.read(0.0) == b""
    tty.close()
    os.close(near)
    os.close(far)


def test_the_vectors_and_the_schema_are_the_ones_that_are_installed() -> None:
    for shown, installed in (
        ("tests/vectors/guest.jsonl", "guest/vmhb_conformance/guest.jsonl"),
        ("docs/protocol.schema.json", "guest/vmhb_conformance/protocol.schema.json"),
    ):
        assert (ROOT / shown).resolve() == ROOT / installed


class Told:
    """Stands for player and guest: what the guest says to the rules of audit and busy."""

    def __init__(self, *said: Any, caps: tuple[str, ...] = ("audit", "busy")) -> None:
        self.caps = caps
        self.said = list(said)

    def establish(self, **_: Any) -> None: ...

    def be_busy(self) -> None: ...

    def audit(self, *_: Any) -> list[Any]:
        return self.said

    def challenge(self, _: int) -> dict[str, Any]:
        return {"vmhb": self.said.pop(0)}


def part(outcome: str, *names: str) -> dict[str, Any]:
    return {"outcome": outcome, "checks": [{"name": name} for name in names]}


def busy(*times: int) -> list[dict[str, Any]]:
    return [{"busy": {"reason": "", "for_ms": left}} if left else {} for left in times]


@pytest.mark.parametrize(
    ("rule", "said", "words"),
    [
        (rules.audit_of_all, [part("done", "a"), part("done", "b")], ""),
        (rules.audit_of_all, [part("timeout")], ""),
        (rules.audit_of_all, [part("refused")], "outcome done or timeout"),
        (rules.audit_of_all, [part("done"), part("timeout")], "outcome done or timeout"),
        (rules.audit_of_all, [part("done", "a"), part("done", "a")], "each check once"),
        (rules.audit_of_none, [part("unknown_check")], ""),
        (rules.audit_of_none, [part("done")], "outcome unknown_check"),
        (rules.audit_of_none, [part("unknown_check", "a")], "without checks"),
        (rules.busy, busy(0, 2000, 1000, 0), ""),
        (rules.busy, busy(2000, 2000, 0), "for_ms below 2000"),
    ],
)
def test_who_audits_or_is_busy_wrongly_is_told(
    monkeypatch: pytest.MonkeyPatch, rule: Any, said: list[Any], words: str
) -> None:
    monkeypatch.setattr("vmhb_conformance.rules.time.sleep", lambda _: None)
    told = Told(*said)
    if not words:
        rule(told, told)
        return
    with pytest.raises(BrokenError) as caught:
        rule(told, told)
    assert words in caught.value.expected


@pytest.mark.parametrize("rule", [rules.audit_of_all, rules.audit_of_none, rules.busy])
def test_who_does_not_offer_it_is_not_asked(rule: Any) -> None:
    told = Told(caps=("checks", "interval"))
    with pytest.raises(NotRunError, match="does not offer"):
        rule(told, told)


NOTICES = ("vote", "shutdown_notice", "suspend_notice", "resume_notice", "restart")
INIT: dict[str, Any] = {
    "version": 3,
    "revision": 1,
    "msg_type": "init",
    "sequence": 1,
    "name": "web",
    **dict.fromkeys((f"{name}_secs" for name in NOTICES), 0),
    "heartbeat_interval_ms": 1000,
    "corrective_action": "log",
}


class ScriptedPort(port.SocketPort):
    """Gives each init at its time of a clock that reads move on."""

    def __init__(self, inits: list[float]) -> None:
        super().__init__("/scripted")
        self.now = 0.0
        self._inits = inits

    def monotonic(self) -> float:
        return self.now

    def read(self, timeout: float) -> bytes:
        self.now += max(timeout, 0.001)
        if not self._inits or self._inits[0] > self.now:
            return b""
        number = 1000 - len(self._inits)
        self._inits.pop(0)
        return b"\n%s\n" % json.dumps({**INIT, "invocation_id": number}).encode()


@pytest.mark.parametrize(
    ("inits", "held_up", "offends"),
    [([1.0, 2.05], 0.0, False), ([1.0, 1.5], 0.0, True), ([1.0, 2.05], 1.5, False)],
    ids=["a second apart", "too soon", "too soon for who was held up"],
)
def test_a_guest_is_not_blamed_for_a_tester_that_was_held_up(
    inits: list[float], held_up: float, offends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = ScriptedPort(inits)
    monkeypatch.setattr("vmhb_conformance.guest.time.monotonic", scripted.monotonic)
    tested = guest.Guest(scripted)
    tested.next(held_up and 0.9)
    scripted.now = max(scripted.now, held_up)
    assert tested.next(5.0) is not None
    assert tested.next(5.0) is not None
    assert ("pace" in tested.offences) is offends
