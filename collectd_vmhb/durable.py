# SPDX-License-Identifier: Apache-2.0
"""Replaces a file: readers and power cuts find the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Replaces ``path`` with mode 0600; raises OSError, and then the old one is still whole.

    The file belongs to whom its directory belongs, so that root may write for another user.
    """
    replace_by_pieces(path, [content])


def replace_by_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Does what `replace` does; other threads have their turn after each piece."""
    fresh = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    # A link that the directory's owner may put there just now is not followed: root writes here.
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for piece in pieces:
            file.write(piece)
            file.flush()
        owner = path.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fsync(descriptor)
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
