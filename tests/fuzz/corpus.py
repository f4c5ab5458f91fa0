# SPDX-License-Identifier: Apache-2.0
"""Where fuzzing begins: the wire's vectors, and what was worth keeping of earlier runs.

``corpus/SUBJECT.txt`` has an input a line, in base64; a line that begins with # says of the next
what it once broke.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.fuzz.subjects import ASKED, MARK

HERE = Path(__file__).parent
VECTORS = HERE.parent / "vectors"
GUEST_VECTORS = HERE.parents[1] / "guest/vmhb_conformance/guest.jsonl"
#: Inputs kept of a run, and the longest.
KEPT_MAX, SIZE_MAX = 120, 1200


def begin(subject: str) -> list[bytes]:
    """Returns every input that a run of this subject begins with."""
    return [*_of_vectors(subject), *kept(subject)]


def kept(subject: str) -> list[bytes]:
    """Returns what earlier runs left."""
    path = HERE / f"corpus/{subject}.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [base64.b64decode(line) for line in lines if not line.startswith("#")]


def keep(subject: str, inputs: Iterable[bytes]) -> None:
    """Adds inputs, the shortest first, as many as there is room for."""
    path = HERE / f"corpus/{subject}.txt"
    path.parent.mkdir(exist_ok=True)
    known = kept(subject)
    fresh = sorted({each for each in inputs if len(each) <= SIZE_MAX} - set(known), key=len)
    with path.open("a") as file:
        for each in fresh[: KEPT_MAX - len(known)]:
            file.write(base64.b64encode(each).decode() + "\n")


def _of_vectors(subject: str) -> Iterator[bytes]:
    host = (VECTORS / "host.jsonl").read_text().splitlines()
    cases = GUEST_VECTORS.read_text().splitlines() if subject == "agent" else host
    for case in cases:
        said = [
            step["receive"].encode("latin-1", "replace")
            for step in json.loads(case)["steps"]
            if "receive" in step and len(step["receive"]) <= SIZE_MAX
        ]
        if subject == "codec":
            yield from (line for text in said for line in text.split(b"\n") if line)
        else:
            asked = b"$invocation_id" if subject == "agent" else b"$challenge"
            yield MARK.join(b"\x20" + text.replace(asked, ASKED) for text in said)
