# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.policy import KEYS, Decision, Policy, bad_policy, policy_for
from collectd_vmhb.settings import Settings

SETTINGS = Settings()
DEFAULT = Policy(
    interval=1.0,
    timeout=0.9,
    miss_threshold=5,
    recovery_threshold=3,
    grace_period=300.0,
    required=False,
    channel="org.openstack.vmhb.0",
)
#: Far from the defaults, so that a bound mixed up with another one shows.
TIGHT = Settings(
    interval=4.0,
    interval_min=2.0,
    interval_max=8.0,
    timeout=3.0,
    timeout_min=1.0,
    timeout_max=5.0,
    miss_threshold=4,
    miss_threshold_min=3,
    miss_threshold_max=6,
    recovery_threshold=2,
    recovery_threshold_max=7,
    grace_period=50.0,
    grace_period_max=60.0,
    required=True,
    channel_name="one",
    channels_allowed=("one", "two"),
)


def enabled(**specs: str) -> dict[str, str]:
    return {"vmhb:enabled": "true", **{f"vmhb:{key}": value for key, value in specs.items()}}


def complaints(decision: Decision) -> list[str]:
    return [str(problem) for problem in decision.problems]


@pytest.mark.parametrize("word", ["1", "t", "true", "on", "y", "yes", "True", "YES", " on\n"])
@pytest.mark.parametrize("key", ["vmhb:enabled", "sw:wrs:guest:heartbeat"])
def test_novas_words_for_true_enable(key: str, word: str) -> None:
    assert policy_for({key: word}, SETTINGS) == Decision(DEFAULT, ())


@pytest.mark.parametrize("word", ["0", "f", "false", "off", "n", "no", "False", "NO", " off "])
@pytest.mark.parametrize("key", ["vmhb:enabled", "sw:wrs:guest:heartbeat"])
def test_novas_words_for_false_disable(key: str, word: str) -> None:
    assert policy_for({key: word}, SETTINGS) == Decision(None, ())


@pytest.mark.parametrize(
    "specs",
    [None, {}, {"hw:cpu_policy": "dedicated"}, {"vmhb:interval": "abc"}, {"vmhb:note": "x"}],
    ids=["unknown", "empty", "foreign", "not enabled", "not enabled, unknown key"],
)
def test_a_flavor_that_does_not_ask_is_left_in_peace(specs: dict[str, str] | None) -> None:
    assert policy_for(specs, SETTINGS) == Decision(None, ())


@pytest.mark.parametrize(
    ("ours", "alias", "monitored"), [("true", "false", True), ("false", "true", False)]
)
def test_our_key_wins_over_the_alias(ours: str, alias: str, monitored: bool) -> None:
    decision = policy_for({"sw:wrs:guest:heartbeat": alias, "vmhb:enabled": ours}, SETTINGS)
    assert (decision.policy is not None) is monitored


@pytest.mark.parametrize("key", ["vmhb:enabled", "sw:wrs:guest:heartbeat"])
def test_an_unclear_switch_is_off_and_told(key: str) -> None:
    decision = policy_for({key: "perhaps", "vmhb:interval": "abc"}, SETTINGS)
    assert decision.policy is None
    assert complaints(decision) == [f'{key}="perhaps": true or false is allowed; false is used']


@pytest.mark.parametrize("key", ["vmhb:enable", "vmhb:Enabled", "VMHB:enabled", "vmhb:enabeld"])
def test_a_misspelt_switch_is_told(key: str) -> None:
    decision = policy_for({key: "true"}, SETTINGS)
    assert decision.policy is None
    assert complaints(decision) == [f'{key}="true": no such key; did you mean vmhb:enabled?']


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ({"interval": "2"}, {"interval": 2.0, "timeout": 1.8}),
        ({"interval": " 0.5 "}, {"interval": 0.5, "timeout": 0.45}),
        ({"timeout": "0.3"}, {"timeout": 0.3}),
        ({"timeout": "1"}, {"timeout": 1.0}),
        ({"interval": "10", "timeout": "4"}, {"interval": 10.0, "timeout": 4.0}),
        ({"miss_threshold": "2"}, {"miss_threshold": 2}),
        ({"recovery_threshold": "1"}, {"recovery_threshold": 1}),
        ({"grace_period": "0"}, {"grace_period": 0.0}),
        ({"required": "yes"}, {"required": True}),
        ({"channel": "cgcs.heartbeat"}, {"channel": "cgcs.heartbeat"}),
    ],
)
def test_the_flavor_chooses_within_the_bounds(
    specs: dict[str, str], expected: dict[str, Any]
) -> None:
    decision = policy_for(enabled(**specs), SETTINGS)
    assert decision == Decision(dataclasses.replace(DEFAULT, **expected), ())


@pytest.mark.parametrize(
    ("specs", "expected", "complaint"),
    [
        (
            {"interval": "abc"},
            {},
            'vmhb:interval="abc": a number of seconds from 2 to 8 is allowed; 4 is used',
        ),
        (
            {"interval": "nan"},
            {},
            'vmhb:interval="nan": a number of seconds from 2 to 8 is allowed; 4 is used',
        ),
        (
            {"interval": "-inf"},
            {},
            'vmhb:interval="-inf": a number of seconds from 2 to 8 is allowed; 4 is used',
        ),
        (
            {"interval": ""},
            {},
            'vmhb:interval="": a number of seconds from 2 to 8 is allowed; 4 is used',
        ),
        (
            {"interval": "1.9"},
            {"interval": 2.0, "timeout": 2.0},
            'vmhb:interval="1.9": a number of seconds from 2 to 8 is allowed; 2 is used',
        ),
        (
            {"interval": "9"},
            {"interval": 8.0},
            'vmhb:interval="9": a number of seconds from 2 to 8 is allowed; 8 is used',
        ),
        (
            {"timeout": "0.5"},
            {"timeout": 1.0},
            'vmhb:timeout="0.5": a number of seconds from 1 to 4 (the interval) is allowed; '
            "1 is used",
        ),
        (
            {"timeout": "4.5"},
            {"timeout": 4.0},
            'vmhb:timeout="4.5": a number of seconds from 1 to 4 (the interval) is allowed; '
            "4 is used",
        ),
        (
            {"interval": "8", "timeout": "6"},
            {"interval": 8.0, "timeout": 5.0},
            'vmhb:timeout="6": a number of seconds from 1 to 5 is allowed; 5 is used',
        ),
        (
            {"interval": "2", "timeout": "soon"},
            {"interval": 2.0, "timeout": 2.0},
            'vmhb:timeout="soon": a number of seconds from 1 to 2 (the interval) is allowed; '
            "2 is used",
        ),
        (
            {"miss_threshold": "2"},
            {"miss_threshold": 3},
            'vmhb:miss_threshold="2": a whole number from 3 to 6 is allowed; 3 is used',
        ),
        (
            {"miss_threshold": "99"},
            {"miss_threshold": 6},
            'vmhb:miss_threshold="99": a whole number from 3 to 6 is allowed; 6 is used',
        ),
        (
            {"miss_threshold": "4.5"},
            {"miss_threshold": 4},
            'vmhb:miss_threshold="4.5": a whole number from 3 to 6 is allowed; 4 is used',
        ),
        (
            {"recovery_threshold": "0"},
            {"recovery_threshold": 1},
            'vmhb:recovery_threshold="0": a whole number from 1 to 7 is allowed; 1 is used',
        ),
        (
            {"recovery_threshold": "8"},
            {"recovery_threshold": 7},
            'vmhb:recovery_threshold="8": a whole number from 1 to 7 is allowed; 7 is used',
        ),
        (
            {"grace_period": "-1"},
            {"grace_period": 0.0},
            'vmhb:grace_period="-1": a number of seconds from 0 to 60 is allowed; 0 is used',
        ),
        (
            {"grace_period": "61"},
            {"grace_period": 60.0},
            'vmhb:grace_period="61": a number of seconds from 0 to 60 is allowed; 60 is used',
        ),
        (
            {"required": "maybe"},
            {"required": True},
            'vmhb:required="maybe": true or false is allowed; true is used',
        ),
        (
            {"channel": "org.qemu.guest_agent.0"},
            {"channel": "one"},
            'vmhb:channel="org.qemu.guest_agent.0": one or two is allowed; one is used',
        ),
        ({"intervall": "2"}, {}, 'vmhb:intervall="2": no such key; did you mean vmhb:interval?'),
        ({"note": "hello"}, {}, 'vmhb:note="hello": no such key'),
    ],
)
def test_a_mistake_is_told_and_monitoring_goes_on(
    specs: dict[str, str], expected: dict[str, Any], complaint: str
) -> None:
    decision = policy_for(enabled(**specs), TIGHT)
    usual = Policy(4.0, 3.0, 4, 2, 50.0, True, "one")
    assert decision.policy == dataclasses.replace(usual, **expected)
    assert complaints(decision) == [complaint]


def test_all_mistakes_are_told_together_and_unknown_keys_last() -> None:
    decision = policy_for(enabled(interval="x", miss_threshold="y", zzz="1", aaa="2"), SETTINGS)
    assert [problem.key for problem in decision.problems] == [
        "vmhb:interval",
        "vmhb:miss_threshold",
        "vmhb:aaa",
        "vmhb:zzz",
    ]


@pytest.mark.parametrize(
    ("settings", "specs", "timeout"),
    [
        (Settings(timeout=0.5), {}, 0.5),
        (Settings(timeout=0.5), {"interval": "0.2"}, 0.2),
        (Settings(timeout_max=10.0), {"interval": "60"}, 10.0),
        (Settings(timeout_min=0.1), {"interval": "0.1"}, 0.1),
    ],
    ids=["operator's", "under the interval", "under TimeoutMax", "over TimeoutMin"],
)
def test_a_default_timeout_gives_way_without_a_complaint(
    settings: Settings, specs: dict[str, str], timeout: float
) -> None:
    decision = policy_for(enabled(**specs), settings)
    assert decision.policy is not None
    assert (decision.policy.timeout, decision.problems) == (timeout, ())


def test_what_a_flavor_says_is_repeated_short_and_printable() -> None:
    decision = policy_for(enabled(interval="\x1b[31m\n" + "9" * 300 + "!"), SETTINGS)
    value = str(decision.problems[0]).split('"')[1]
    assert value == "?[31m?" + "9" * 55 + "..."
    assert len(value) == 64


spec_values = st.one_of(
    st.text(max_size=80),
    st.floats().map(str),
    st.integers().map(str),
    st.sampled_from(["true", "no", "cgcs.heartbeat", "two", "1e999", "9" * 5000]),
)
any_specs = st.dictionaries(
    st.sampled_from([*KEYS, "sw:wrs:guest:heartbeat"]) | st.text().map("vmhb:{}".format),
    spec_values,
)


@given(any_specs, st.sampled_from([SETTINGS, TIGHT]), st.booleans())
def test_no_flavor_raises_or_leaves_the_bounds(
    specs: dict[str, str], settings: Settings, force: bool
) -> None:
    if force:
        specs = {**specs, "vmhb:enabled": "true"}
    decision = policy_for(specs, settings)
    for problem in decision.problems:
        assert str(problem).isprintable()
        assert problem.key in specs
    policy = decision.policy
    assert policy is not None or not force
    if policy is None:
        return
    assert settings.interval_min <= policy.interval <= settings.interval_max
    assert settings.timeout_min <= policy.timeout <= min(settings.timeout_max, policy.interval)
    assert settings.miss_threshold_min <= policy.miss_threshold <= settings.miss_threshold_max
    assert 1 <= policy.recovery_threshold <= settings.recovery_threshold_max
    assert 0 <= policy.grace_period <= settings.grace_period_max
    assert policy.channel in settings.channels_allowed


def test_all_mistakes_of_a_flavor_make_one_fault_that_another_value_makes_anew() -> None:
    specs = {"vmhb:enabled": "true", "vmhb:interval": "soon", "vmhb:required": "perhaps"}
    faults = [
        bad_policy(
            "vm", policy_for({**specs, **more}, SETTINGS).problems, ", in the policy file", 1.0
        )
        for more in ({}, {"vmhb:interval": "later"})
    ]
    assert faults[0].text == (
        'flavor extra spec vmhb:interval="soon": a number of seconds from 0.1 to 60 is allowed; '
        "1 is used (and 1 more), in the policy file"
    )
    assert faults[0].reason == "vmhb:interval=soon, vmhb:required=perhaps"
    assert faults[1].reason == "vmhb:interval=later, vmhb:required=perhaps"
    assert set(faults[0].details) == {"vmhb:interval", "vmhb:required"}
