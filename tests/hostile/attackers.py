# SPDX-License-Identifier: Apache-2.0
"""Guests that try to hurt their host, one thread for each; what they can do stands in ATTACKS.

``python -m tests.hostile.attackers DIRECTORY FIRST ATTACK...`` listens on DIRECTORY/<n>.sock, n
from FIRST on, one guest for each ATTACK. All of them answer as they should until a line comes on
standard input; from then on they attack, until standard input ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

_CHALLENGE = re.compile(rb'"heartbeat_challenge":(\d+)')
_AUDIT = re.compile(rb'"msg_type":"audit".*?"id":(\d+)')
_CAPS = ["checks", "audit", "busy", "interval"]
#: What a terminal or a log would obey, and what looks like something else.
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31mERROR\r\n[2026-01-01] fake line\x00\x9b1m\u202egnp\u2028"


def message(msg_type: str, **fields: Any) -> bytes:
    """Builds one line as an honest agent would."""
    head = {"version": 3, "revision": 1, "msg_type": msg_type, "sequence": 1}
    return b"\n" + json.dumps({**head, **fields}).encode() + b"\n"


def init(name: Any = "guest", caps: Any = None, invocation_id: int = 7, **ours: Any) -> bytes:
    """Asks for a session."""
    extension = {"caps": _CAPS if caps is None else caps, "max_line": 16384, **ours}
    return message(
        "init", invocation_id=invocation_id, name=name, heartbeat_interval_ms=1000, vmhb=extension
    )


def answer(value: Any, healthy: str = "healthy", log_msg: str = "", **more: Any) -> bytes:
    """Answers a challenge."""
    return message(
        "challenge_response",
        heartbeat_response=value,
        heartbeat_health=healthy,
        corrective_action="none",
        log_msg=log_msg,
        **more,
    )


def check(
    name: str, status: str = "critical", text: str = "", perfdata: str = ""
) -> dict[str, Any]:
    """Builds one check's result."""
    said = {"text": text, "perfdata": perfdata, "since_ms": 0, "duration_ms": 1}
    return {"name": name, "status": status, **said}


def report(*checks: Mapping[str, Any], more: bool = False) -> dict[str, Any]:
    """Builds the report of a response."""
    return {"checks": list(checks), "rev": 1, "more": more}


def _raw(text: str) -> bytes:
    return b"\n" + text.encode() + b"\n"


Lines = Iterator[bytes]
#: (the last challenge, how often it was called) -> what is sent.
Sends = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Attack:
    """What one guest does: ``answers`` each challenge, and says ``unasked`` what it likes."""

    about: str
    answers: Sends = lambda value, _: answer(value)
    unasked: Sends = lambda value, _: b""
    #: Seconds between two of what is unasked.
    pace: float = 0.0
    #: It reads what the host sends.
    reads: bool = True
    #: Half a minute of it is a fault.
    is_fault: bool = True


def _checks(names: Iterator[str], status: str = "critical", **more: str) -> dict[str, Any]:
    return report(*(check(name, status, **more) for name in names))


def _names(kind: str, turn: int, count: int = 64) -> Iterator[str]:
    return (f"{kind}-{turn}-{number}" for number in range(count))


def _alternating(value: int, turn: int) -> bytes:
    status = ("critical", "warning", "ok", "unknown")[turn % 4]
    return answer(value, vmhb=_checks(_names("flap", 0), status))


def _new_each_time(value: int, turn: int) -> bytes:
    return init(invocation_id=turn) + answer(value, vmhb=_checks(_names("new", turn)))


def _texts(value: int, turn: int) -> bytes:
    # Six to a line, 66 in all: as many as are kept, each as long as may be, four bytes a letter.
    names = (f"text-{turn % 11}-{number}" for number in range(6))
    # Written raw: escaped, only a third of it would fit into a line.
    fat = json.dumps(
        {
            "vmhb": _checks(
                names, "warning", text="\U0001f525" * 300 + "x" * 724, perfdata="y" * 512
            )
        },
        ensure_ascii=False,
    )
    return answer(value).replace(b"}\n", b", " + fat[1:].encode() + b"\n")


def _perfdata(value: int, turn: int) -> bytes:
    figures = " ".join(f"label{turn}x{number}=1e{number % 400};1;2;3;4" for number in range(20))
    return answer(value, vmhb=_checks(_names("perf", 0, 8), "ok", perfdata=figures))


def _collisions(value: int, turn: int) -> bytes:
    names = (
        "heartbeat-lost",
        "guest-misbehaves",
        "open-faults",
        "..",
        "check.x",
        "perf.x.y",
        "host",
    )
    other = "6ba7b810-9dad-41d1-80b4-000000000000"
    # At first alone: with each answer it would be an init storm, as a challenge follows an init.
    opening = init(name=other) if turn < 3 else b""
    return opening + answer(
        value, vmhb=_checks(iter((*names, other))), uuid=other, host="compute-2", plugin_instance=""
    )


def _lies(value: int, turn: int) -> bytes:
    lies: tuple[Any, ...] = (_CAPS * 400, [[], {}, None, 1e308], "checks", {"checks": True}, [])
    return (
        init(caps=lies[turn % len(lies)], max_line=2**31 - 1 if turn % 2 else 256)
        + message("audit_result", id=turn + 1, outcome="done", checks=[check("a")] * 64, more=True)
        + answer(value, vmhb={**_checks(_names("lie", 0, 8)), "busy": {"reason": "x", "for_ms": 1}})
    )


#: Makes the search for a published client's unescaped text look as far as it can.
_BACKTRACKING = _raw('{"version":3,' + '"msg_type":"challenge_response",' * 30 + '"x')

ATTACKS: dict[str, Attack] = {
    "none": Attack("does nothing wrong: what the others are compared with", is_fault=False),
    "flood": Attack("garbage at full speed", unasked=lambda *_: _raw('{"version":3,[' * 4000)),
    "tiny-lines": Attack("the shortest lines at full speed", unasked=lambda *_: b"1\n" * 20_000),
    "blank-lines": Attack("nothing but newlines", unasked=lambda *_: b"\n" * 40_000),
    "byte-by-byte": Attack(
        "one byte each 0.1 s",
        answers=lambda *_: b"",
        unasked=lambda _, turn: answer(1)[turn % 100 : turn % 100 + 1],
        pace=0.1,
        is_fault=False,
    ),
    "megabyte-lines": Attack("lines of a megabyte", unasked=lambda *_: _raw("x" * 1_000_000)),
    "deep-nesting": Attack("a line of brackets", unasked=lambda *_: _raw("[" * 16_000)),
    "deep-objects": Attack("a line of objects", unasked=lambda *_: _raw('{"":' * 4_000)),
    "many-keys": Attack(
        "lines full of keys",
        unasked=lambda *_: _raw("{" + ",".join(f'"{n}":{n}' for n in range(1000)) + "}"),
    ),
    "huge-integers": Attack(
        "numbers of thousands of digits",
        answers=lambda value, turn: b"".join(
            _raw(answer(value).decode().strip().replace(f": {value}", f": {number}"))
            for number in ("9" * 15_000, "9" * 4_300, "1e999", "NaN", "-1", "1" * 400 + ".5")
        ),
    ),
    "duplicate-keys": Attack(
        "each key twice, the second otherwise",
        answers=lambda value, _: (
            answer(value)[:-2]
            + b',"heartbeat_response":1,"heartbeat_health":"healthy","msg_type":"exit"}\n'
        ),
        is_fault=False,
    ),
    "wrong-types": Attack(
        "each value of another type",
        answers=lambda value, _: answer(str(value)) + answer([value]) + answer({"a": value}),
    ),
    "invalid-utf8": Attack(
        "bytes that are no text",
        answers=lambda value, _: answer(value).replace(b'""', b'"\xff\xfe\xc0\x80\xed\xa0\x80"'),
        is_fault=False,
    ),
    "escapes": Attack(
        "control characters for logs and terminals",
        answers=lambda value, turn: (
            init(name=ESCAPES)
            + answer(value, "unhealthy", ESCAPES, vmhb=_checks(_names("esc", 0, 8), text=ESCAPES))
            + message(ESCAPES)
            + (message("exit", log_msg=ESCAPES) if turn % 4 == 3 else b"")
        ),
    ),
    "replays": Attack("each answer again and again", answers=lambda value, _: answer(value) * 100),
    "guesses": Attack(
        "answers to challenges that nobody made",
        answers=lambda *_: b"",
        unasked=lambda *_: answer(random.getrandbits(31)) * 10,
        pace=0.25,
    ),
    "init-storm": Attack(
        "asks for sessions without end",
        unasked=lambda _, turn: init(invocation_id=turn),
    ),
    "leaves": Attack(
        "comes and leaves", unasked=lambda *_: init() + message("exit", log_msg="bye")
    ),
    "never-reads": Attack("writes, and reads nothing", unasked=lambda *_: init(), reads=False),
    "capability-lies": Attack("claims what it cannot", answers=_lies),
    "new-checks": Attack("64 new failed checks each time", answers=_new_each_time),
    "flapping-checks": Attack(
        "64 checks that turn each time", answers=_alternating, unasked=_alternating
    ),
    "long-texts": Attack(
        "as much text as is kept", answers=_texts, unasked=_texts, pace=0.3, is_fault=False
    ),
    "perfdata-bombs": Attack("new figures each time", answers=_perfdata, is_fault=False),
    "collisions": Attack("the names of others", answers=_collisions, is_fault=False),
    "busy-for-years": Attack(
        "is busy for ten years",
        answers=lambda *_: b"",
        unasked=lambda *_: answer(1, vmhb={"busy": {"reason": ESCAPES, "for_ms": 315360000000}}),
        pace=0.25,
    ),
    "backtracking": Attack("lines that are slow to search", unasked=lambda *_: _BACKTRACKING),
}


class Attacker:
    """One guest's end of one channel, served by a thread of its own."""

    def __init__(self, path: Path, attack: Attack, begun: threading.Event) -> None:
        self._attack = attack
        self._begun = begun
        self._challenge = 1
        self._turn = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(init())
                self._be_honest(connection)
                self._be_hostile(connection)

    def _be_honest(self, connection: socket.socket) -> None:
        connection.settimeout(0.1)
        while not self._begun.is_set():
            for value in self._challenges(connection):
                connection.sendall(answer(value, vmhb=report(check("a", "ok"))))

    def _be_hostile(self, connection: socket.socket) -> None:
        attack, due = self._attack, 0.0
        while True:
            wait = max(0.0, due - time.monotonic()) if attack.unasked(1, 0) else 0.5
            connection.settimeout(wait or 0.0001)
            for _ in self._challenges(connection) if attack.reads else ():
                self._say(connection, attack.answers)
            if time.monotonic() >= due:
                due = time.monotonic() + attack.pace
                self._say(connection, attack.unasked)

    def _challenges(self, connection: socket.socket) -> Iterator[int]:
        try:
            data = connection.recv(65536)
        except TimeoutError:
            return
        if not data:
            raise ConnectionResetError
        for number in _CHALLENGE.findall(data):
            self._challenge = int(number)
            yield self._challenge

    def _say(self, connection: socket.socket, what: Sends) -> None:
        self._turn += 1
        # A host that does not read for a second is right to do so.
        connection.settimeout(1.0)
        with contextlib.suppress(TimeoutError):
            connection.sendall(what(self._challenge, self._turn))


def main(directory: Path, first: int, names: list[str]) -> None:
    """Serves until standard input ends."""
    # On a real host they have processors of their own: here they must not take the engine's.
    os.nice(19)
    begun = threading.Event()
    for number, name in enumerate(names, first):
        Attacker(directory / f"{number}.sock", ATTACKS[name], begun)
    print("ready", flush=True)
    for _ in sys.stdin:
        begun.set()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
