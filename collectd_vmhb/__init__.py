# SPDX-License-Identifier: Apache-2.0
"""Heartbeat and health-check monitoring of OpenStack VMs, as a collectd Python plugin.

The plugin itself is ``collectd_vmhb.plugin``; ``docs/architecture.md`` shows the way of the data.
"""
