# SPDX-License-Identifier: Apache-2.0
"""Optional, for the controller: Vitrage's collectd driver, but alarms outlive its snapshots.

vitrage.conf: ``[collectd] driver = vitrage_notifier.driver.CollectdDriver``. This package must
then be importable by vitrage-graph.

Vitrage deletes, at each snapshot and when vitrage-graph restarts, what a datasource did not list
just then. Its collectd driver lists nothing and leaves that on all the same: every collectd alarm
goes, of any plugin, and comes back when somebody sends it again. Here an alarm goes when its
sender clears it; if the sender died, `vmhb-vitrage sweep` does so in its place.
"""

from __future__ import annotations

from vitrage.datasources.collectd.driver import CollectdDriver as StockDriver


class CollectdDriver(StockDriver):  # type: ignore[misc]
    """Keeps what was raised until it is cleared."""

    @staticmethod
    def should_delete_outdated_entities() -> bool:
        """Tell Vitrage to keep alarms that a snapshot does not list."""
        return False
