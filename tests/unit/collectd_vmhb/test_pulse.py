# SPDX-License-Identifier: Apache-2.0
"""The loop's pulse: who does not answer for long, and in several looks, is stuck."""

from __future__ import annotations

from concurrent.futures import Future

from collectd_vmhb.pulse import STUCK_AFTER, STUCK_LOOKS, Beat, Pulse

INTERVAL = STUCK_AFTER / STUCK_LOOKS


class Loop:
    """Answers what it is asked, when it is told to."""

    def __init__(self) -> None:
        self.questions: list[Future[None]] = []
        self.pulse = Pulse(self.ask)
        self.now = 1000.0

    def ask(self) -> Future[None]:
        self.questions.append(Future())
        return self.questions[-1]

    def answer(self) -> None:
        self.questions[-1].set_result(None)

    def look(self, after: float = INTERVAL) -> Beat:
        self.now += after
        return self.pulse.look(self.now)


def test_a_loop_that_answers_is_well() -> None:
    loop = Loop()
    for _ in range(10):
        assert loop.look() is Beat.NOTHING_NEW
        loop.answer()


def test_a_loop_that_does_not_answer_is_told_once_and_once_that_it_is_back() -> None:
    loop = Loop()
    looks = [loop.look() for _ in range(10)]
    assert looks == [Beat.NOTHING_NEW] * STUCK_LOOKS + [Beat.STUCK] + [Beat.NOTHING_NEW] * 6
    assert len(loop.questions) == 1, "questions do not pile up"
    loop.answer()
    assert [loop.look(), loop.look()] == [Beat.BACK, Beat.NOTHING_NEW]


def test_a_process_that_stood_still_does_not_accuse_its_loop() -> None:
    loop = Loop()
    loop.look()
    assert loop.look(after=3600.0) is Beat.NOTHING_NEW
    loop.answer()
    assert loop.look() is Beat.NOTHING_NEW


def test_many_looks_in_a_short_time_do_not_either() -> None:
    loop = Loop()
    assert {loop.look(after=0.1) for _ in range(100)} == {Beat.NOTHING_NEW}
