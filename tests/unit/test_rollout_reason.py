# SPDX-License-Identifier: Apache-2.0
"""What script/demo says when a role stops is the sentence that the role says."""

from __future__ import annotations

from tests.lab.rollout import reason

PUT_BACK = """\
TASK [vmhb_compute : Ask the broker to let us in] ***
fatal: [compute-0]: FAILED! => {"changed": false, "msg": "non-zero return code", "rc": 1}

TASK [vmhb_compute : Say what to do] ***
[ERROR]: Task failed: Action failed: compute-0: the broker refuses
fatal: [compute-0]: FAILED! => {"changed": false, "msg": "compute-0: the broker refuses"}

PLAY RECAP ***
compute-0                  : ok=29   changed=11   unreachable=0    failed=1
"""
IN_A_LOOP = """\
ok: [compute-0] => (item=there is no collectd)
failed: [compute-0] (item=libvirt does not answer => why?) => {"item": {}, "msg": "no libvirt"}
"""


def test_the_last_word_counts() -> None:
    assert reason(PUT_BACK) == "compute-0: the broker refuses"


def test_an_item_of_a_loop_has_a_say() -> None:
    assert reason(IN_A_LOOP) == "no libvirt"


def test_what_is_no_result_is_given_as_it_is() -> None:
    assert reason("[ERROR]: rollout.yml: no such file\n") == "[ERROR]: rollout.yml: no such file"
