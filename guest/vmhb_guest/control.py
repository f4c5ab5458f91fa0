# SPDX-License-Identifier: Apache-2.0
"""Answers root's questions about the agent, on a socket of its own."""

from typing import Callable, List, Mapping

from .line_server import LineServer, Message, Peer
from .part import Part
from .status import CheckResult

#: What answers one kind of question: its fields and the time in, the fields of the answer out.
#: Raises ValueError for a question that is wrong.
Answer = Callable[[Message, float], Message]


class Control(Part):
    """Answers each message at `server` by its msg_type."""

    def __init__(self, server: LineServer, answers: Mapping[str, Answer]) -> None:
        self._server = server
        self._answers = answers

    @property
    def deadline(self) -> float:
        """When `tick` has something to do."""
        return self._server.deadline

    def filenos(self) -> List[int]:
        """Return what to poll for reading."""
        return self._server.filenos()

    def tick(self, now: float) -> List[CheckResult]:
        """Answer what was asked."""
        for peer, message in self._server.receive(now):
            if message is not None:
                self._answer(peer, message, now)
        return []

    def stop(self) -> None:
        """Hang up."""
        self._server.close()

    def _answer(self, peer: Peer, message: Message, now: float) -> None:
        answer = self._answers.get(str(message.get("msg_type")))
        if answer is None:
            peer.refuse("msg_type must be one of %s" % ", ".join(sorted(self._answers)))
            return
        try:
            peer.accept(**answer(message, now))
        except ValueError as error:
            peer.refuse(str(error))
