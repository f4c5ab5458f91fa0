# SPDX-License-Identifier: Apache-2.0
"""When a message that was sent is the one that a case expects."""

import math


def matches(value: object, wanted: object) -> bool:
    """Compare as the README of tests/vectors says: `$any`, `$absent`, objects by given keys."""
    if wanted == "$any":
        return value is not None
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(
            key not in value if want == "$absent" else key in value and matches(value[key], want)
            for key, want in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(value, list)
            and len(value) == len(wanted)
            and all(map(matches, value, wanted))
        )
    if isinstance(wanted, float):
        return isinstance(value, float) and math.isclose(value, wanted)
    return type(value) is type(wanted) and value == wanted
