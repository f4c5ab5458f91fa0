# SPDX-License-Identifier: Apache-2.0
"""Fuzzes one subject, guided by coverage: ``python -m tests.fuzz SUBJECT [libFuzzer's options]``.

script/fuzz installs what this needs and runs all of them; ``--keep SUBJECT DIRECTORY`` takes what
libFuzzer left there into the corpus, ``--begin`` writes there what to begin with.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["collectd_vmhb", "vmhb_guest"]):
    from tests.fuzz.subjects import SUBJECTS

from tests.fuzz import corpus


def main() -> None:
    """Does what the command line says."""
    if sys.argv[1] == "--begin":
        directory = Path(sys.argv[3])
        for number, each in enumerate(corpus.begin(sys.argv[2])):
            (directory / f"begin-{number}").write_bytes(each)
    elif sys.argv[1] == "--keep":
        corpus.keep(sys.argv[2], [path.read_bytes() for path in Path(sys.argv[3]).iterdir()])
    else:
        # libFuzzer's -merge begins processes of its own, by a shell, from the first word on.
        again = f"{sys.executable} -m tests.fuzz {sys.argv[1]}"
        atheris.Setup([again, *sys.argv[2:]], SUBJECTS[sys.argv[1]])
        # The agent's log: a fuzzer makes it say a line for every input.
        with Path(os.devnull).open("w") as sys.stderr:
            atheris.Fuzz()


if __name__ == "__main__":
    main()
