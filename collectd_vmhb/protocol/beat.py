# SPDX-License-Identifier: Apache-2.0
"""The two lines that every beat consists of, written and read without JSON.

Nearly all that passes between host and guest is a challenge and the answer of a guest that is
well. Their bytes are known beforehand; `messages` is what they mean, and tests hold that against
every line that is written or read here.
"""

from __future__ import annotations

import re

#: As our agent and the published client write it, byte by byte; `messages.decode` reads all else.
_PLAIN_ANSWER = re.compile(
    rb'\n?\{"version":3,"revision":1,"msg_type":"challenge_response","sequence":[1-9]\d{0,9},'
    rb'"heartbeat_response":([1-9]\d{0,9}),"heartbeat_health":"healthy",'
    rb'"corrective_action":"(?:none|log|reboot|stop)","log_msg":""\}\n'
)


def challenge_line(sequence: int, value: int) -> bytes:
    """Returns what `messages.encode` makes of a challenge."""
    return (
        b'\n{"version":3,"revision":1,"msg_type":"challenge","sequence":%d,'
        b'"heartbeat_challenge":%d}\n' % (sequence, value)
    )


def plain_answer(data: bytes) -> int | None:
    """Returns the challenge that is answered, if that by a guest that is well is all of ``data``.

    None says nothing: it may be an answer with more in it, or no answer at all.
    """
    answer = _PLAIN_ANSWER.fullmatch(data)
    return None if answer is None else int(answer[1])
