# SPDX-License-Identifier: Apache-2.0
"""Carries the fault notifications of plugin ``vmhb`` from collectd's bus into Vitrage."""
