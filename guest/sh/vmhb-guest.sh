#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Answers heartbeat challenges with nothing but a POSIX shell: vmhb-guest.sh [device]
# Healthy, unless the file $flag exists; its content then says why.
port=${1:-/dev/virtio-ports/org.openstack.vmhb.0}
flag=${VMHB_UNHEALTHY:-/run/vmhb/unhealthy}
sequence=0 beat=

send() { # type, further fields: in one write, framed by newlines, as the protocol asks for
    sequence=$((sequence + 1))
    printf '\n{"version":3,"revision":1,"msg_type":"%s","sequence":%d,%s}\n' "$1" $sequence "$2" >&3
}

init() {
    send init '"invocation_id":'"$id"',"name":"'"$(uname -n)"'","heartbeat_interval_ms":1000,'\
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
    send challenge_response '"heartbeat_response":'"$1"',"heartbeat_health":"'"$health"'",'\
'"corrective_action":"'"$action"'","log_msg":"'"$text"'"'
}

number() { # field, line
    value=${2#*\"$1\":} value=${value# }
    echo "${value%%[!0-9]*}"
}

session() { # until the host goes away; a loop in the background minds its silence
    id=$((($(date +%s) * 65599 + $$) & 2147483647)) acked= beat=$(mktemp)
    init || return # waits in the port until there is a host
    while sleep 5 3>&-; do
        if [ -s "$beat" ]; then : >"$beat"; else init; fi # no challenge: say (again) who we are
    done &
    trap 'send exit "\"log_msg\":\"stopped\""; kill $!; rm -f "$beat"; exit 0' TERM INT
    while IFS= read -r line <&3; do
        case $line in
        *'"init_ack"'*) [ "$(number invocation_id "$line")" = "$id" ] && acked=yes ;;
        *'"nack"'*'"no session'*) init ;;
        *'"challenge"'*)
            [ "$acked" ] && echo >"$beat" && respond "$(number heartbeat_challenge "$line")" ;;
        esac
    done
    kill $!
    trap - TERM INT
}

while :; do # `command`: a port that cannot be opened shall not end the shell
    [ -e "$port" ] && command exec 3<>"$port" && session
    exec 3>&-
    rm -f "$beat"; sleep 1
done
