# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

from collectd_vmhb.history import EXCHANGES_MAX, History


def test_only_the_last_exchanges_are_kept_oldest_first() -> None:
    history = History()
    assert history.exchanges() == []
    for number in range(EXCHANGES_MAX + 3):
        history.exchanged(float(number), 0.001)
    history.exchanged(99.0, math.nan)
    kept = history.exchanges()
    assert len(kept) == EXCHANGES_MAX
    assert kept[0] == (4.0, 0.001)
    assert kept[-1][0] == 99.0
    assert math.isnan(kept[-1][1])
