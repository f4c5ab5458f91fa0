# SPDX-License-Identifier: Apache-2.0
"""Where the `stopwatch` ends: imported by collectd after the plugin that is measured."""

from __future__ import annotations

import collectd

from tests.lab.stopwatch import stopwatch

collectd.register_notification(stopwatch.end, name="stopwatch-end")
