# SPDX-License-Identifier: Apache-2.0
"""Makes text from anywhere fit for a message or a log: one line, printable, bounded."""


def clean(text: str, limit: int) -> str:
    """Return `text` with what is not printable blanked, cut to `limit` bytes of UTF-8.

    A character is never cut in half. Direction marks and the like count as not printable: they
    could make a log line read differently from what it says.
    """
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * limit])
    return printable.strip().encode("utf-8")[:limit].decode("utf-8", "ignore").rstrip()
