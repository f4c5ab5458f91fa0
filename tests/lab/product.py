# SPDX-License-Identifier: Apache-2.0
"""The collectd stanza of the product under test, as the README gives it, for a lab's node."""

from __future__ import annotations

from typing import Union

from tests.lab.lab import Lab

Value = Union[str, float, bool, tuple[str, ...]]


def stanza(lab: Lab, *, notifier: bool = True, **settings: Value) -> str:
    """Return the stanza of both plugins; `settings` are keys of <Module vmhb>."""
    keys = {"StateDir": "/run/vmhb", **settings}
    engine = "".join(f"    {key} {_literal(value)}\n" for key, value in keys.items())
    blocks = f'  Import "collectd_vmhb.plugin"\n  <Module vmhb>\n{engine}  </Module>\n'
    if notifier:
        blocks += (
            '  Import "vitrage_notifier.plugin"\n  <Module vitrage_notifier>\n'
            f'    TransportUrl "{lab.vitrage.broker_url}"\n    StateDir "/run/vmhb"\n'
            "  </Module>\n"
        )
    return f"<Plugin python>\n{blocks}</Plugin>\n"


def _literal(value: Value) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_literal, value))
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
