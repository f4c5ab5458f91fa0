#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Answers heartbeat challenges with nothing but a POSIX shell: vmhb-guest.sh [device]
# Healthy, unless the file $flag exists; its content then says why.
port=${1:-/dev/virtio-ports/org.openstack.vmhb.0}
flag=${VMHB_UNHEALTHY:-/run/vmhb/unhealthy}
sequence=0 id=$((($(date +%s) * 65599 + $$) & 1073741823))

send() { # type, further fields: in one write, framed by newlines, as the protocol asks for
    sequence=$((sequence + 1))
    printf '\n{"version":3,"revision":1,"msg_type":"%s","sequence":%d,%s}\n' "$1" $sequence "$2" >&3
}
init() { # after 5 seconds again, if nothing comes
    id=$((id + 1)) acked= patience=5
    send init '"invocation_id":'$id',"name":"'"$(uname -n)"'","heartbeat_interval_ms":1000,'\
'"vote_secs":0,"shutdown_notice_secs":0,"suspend_notice_secs":0,"resume_notice_secs":0,'\
'"restart_secs":0,"corrective_action":"log"'
}
respond() {
    health=healthy action=none text=
    if [ -e "$flag" ]; then
        health=unhealthy action=log
        # One line of plain ASCII, so that the cut splits no character; then escaped for JSON.
        text=$(tr '\n\t' '  ' <"$flag" | tr -cd ' -~' | head -c 190 | sed 's/[\\"]/\\&/g')
    fi
    send challenge_response '"heartbeat_response":'"$1"',"heartbeat_health":"'$health'",'\
'"corrective_action":"'$action'","log_msg":"'"$text"'"'
}
number() { # field, lowest: sets $value to the field's integer in $line; false if it has none
    value=${line#*\"$1\":} value=${value# } && rest=${value#"${value%%[!0-9]*}"}
    value=${value%"$rest"}
    [ ${#value} -lt 11 ] && [ "${value:--1}" -ge "$2" ] && [ "$value" -le 2147483647 ] || return
    case $rest in [,}\ ]*) ;; *) return 1 ;; esac
}
receive() { # $line of the host; what has no type or number here is no message for us
    [ ${#line} -le 1056 ] && type=${line#*\"msg_type\":} || return
    case ${type# } in
    '"init_ack"'*) number version 3 && number invocation_id $((id - 1)) &&
        [ "$value" -le $id ] && acked=yes patience=6 ;;
    '"nack"'*'"no session'*) [ "$acked" ] && acked= patience=1 ;;
    '"challenge"'*) number version 3 && number heartbeat_challenge 0 &&
        [ "$acked" ] && patience=6 && respond "$value" ;;
    esac
}
session() { # until the host goes away: the port and a clock feed one loop
    pipe=$(mktemp -u) && mkfifo -m 600 "$pipe" && exec 4<>"$pipe" && rm "$pipe" || return
    init || return # waits in the port until there is a host
    { while IFS= read -r line <&3; do printf '%s\n' "$line"; done; echo gone; } >&4 & reader=$!
    { while sleep 1 && kill -0 $$; do echo tick; done; kill $reader; } 2>&1 >&4 3>&- & clock=$!
    trap 'kill $reader $clock; send exit "\"log_msg\":\"stopped\""; exit 0' TERM INT
    while IFS= read -r line <&4 && [ "$line" != gone ]; do
        if [ "$line" != tick ]; then receive; elif [ $((patience -= 1)) -le 0 ]; then init; fi
    done
    trap - TERM INT; kill $clock; exec 4>&-
}
while :; do # `command`: a port that cannot be opened shall not end the shell
    [ -e "$port" ] && command exec 3<>"$port" && session
    exec 3>&-; sleep 1
done
