# SPDX-License-Identifier: Apache-2.0
"""A certificate authority of the lab's own, and what it has signed."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.layout import LabError

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificate:
    """Files in PEM format."""

    ca: Path
    certificate: Path
    key: Path


def make_certificate(directory: Path, names: str = "IP:127.0.0.1,DNS:localhost") -> Certificate:
    """Make an authority in `directory` that has signed a certificate for `names`."""
    directory.mkdir(parents=True, exist_ok=True)
    at = {name: directory / name for name in ("ca.pem", "ca.key", "pem", "key", "csr", "names")}
    at["names"].write_text(f"subjectAltName={names}\n")
    authority = ("-keyout", at["ca.key"], "-out", at["ca.pem"], "-subj", "/CN=lab authority")
    _openssl("req", "-x509", "-days", "30", *_KEY, *authority)
    request = ("-keyout", at["key"], "-out", at["csr"], "-subj", "/CN=lab")
    _openssl("req", *_KEY, *request)
    signing = ("-CA", at["ca.pem"], "-CAkey", at["ca.key"], "-CAcreateserial", "-days", "30")
    _openssl("x509", "-req", "-in", at["csr"], *signing, "-extfile", at["names"], "-out", at["pem"])
    return Certificate(at["ca.pem"], at["pem"], at["key"])


def _openssl(*arguments: str | Path) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise LabError("openssl is not installed: apt-get install openssl")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"openssl {arguments[0]} fails: {done.stderr.strip()}")
