# SPDX-License-Identifier: Apache-2.0
"""A cloud without hosts, on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.cloud import Cloud
from tests.simulation.node import played_channels


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with played_channels():
        yield Cloud(1)
