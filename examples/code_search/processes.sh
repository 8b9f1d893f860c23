#!/usr/bin/env bash
# Runs the search as seven processes over a broker (1 WEB, 2 CTRL, 4 REPO), lets something go
# wrong in the middle, and fails if an answer is wrong for it, a file is missing or there twice,
# or a process does not end in order.
#
#   examples/code_search/processes.sh URL [--at index|verify] [--do kill|nothing|COMMAND] [FOLDER]
#
#   URL      the broker, e.g. 'amqp://guest:guest@localhost:5672/%2f?system=search'; the system
#            is for this alone, and the requests of a run that failed are gone after 10 s
#   --at     when it goes wrong: while WEB has files indexed (default), or while it asks
#   --do     what: "kill" ends CTRL.host2 with kill -9 (default); a COMMAND is run while
#            CTRL.host2 has its hands full and is stopped, e.g. 'docker restart my-rabbitmq'
#   FOLDER   what to index (default: this repository)
#
# CODE_SEARCH=PROGRAM takes one that is built already, with the feature amqp. Needs bash 4.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

url=${1:?"the URL of a broker is missing; see the head of this file"}
shift
at=index
fault=kill
folder=$root
while [ $# -gt 0 ]; do
    case $1 in
        --at) at=$2 && shift 2 ;;
        --do) fault=$2 && shift 2 ;;
        -*) echo "there is no option $1" >&2 && exit 2 ;;
        *) folder=$1 && shift ;;
    esac
done
case $at in
    index) moment='have joined' ;; # the next is that files are sent
    verify) moment='Verify' ;;
    *) echo "--at is index or verify, not $at" >&2 && exit 2 ;;
esac

program=${CODE_SEARCH:-}
if [ -z "$program" ]; then
    cargo build --manifest-path "$root/Cargo.toml" \
        --release --locked --quiet --features amqp --example code_search
    program=${CARGO_TARGET_DIR:-$root/target}/release/examples/code_search
fi

logs=$(mktemp -d)
declare -A pids=()
clean_up() {
    # Killed ones too: one that is stopped takes nothing else.
    [ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$logs"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

fail() {
    echo "FAILED: $1" >&2
    for log in "$logs"/*; do
        printf '\n-- %s\n' "${log##*/}" >&2
        tail -n 60 "$log" >&2
    done
    exit 1
}

# run ROLE HOST OUTPUT [ARGUMENTS]: starts a process.
run() {
    "$program" --url "$url" --role "$1" --host "$2" "${@:4}" >"$3" 2>&1 &
    pids[$1.$2]=$!
}

for host in host1 host2 host3 host4; do run repo $host "$logs/repo.$host"; done
for host in host1 host2; do run ctrl $host "$logs/ctrl.$host"; done
for process in "${!pids[@]}"; do
    until grep -q 'has joined' "$logs/$process"; do
        kill -0 "${pids[$process]}" || fail "$process did not join"
        sleep 0.05
    done
done

# Read as it is written, so that the middle is not missed.
mkfifo "$logs/pipe"
run web host1 "$logs/pipe" --verify "$folder"
exec 3<"$logs/pipe"
rm "$logs/pipe"
victim=${pids[ctrl.host2]}
line=
while [[ $line != *"$moment"* ]] && IFS= read -r line <&3; do
    [[ $fault == nothing || $line != *"$moment"* ]] || kill -STOP "$victim"
    printf '%s\n' "$line" >>"$logs/web.host1"
done
cat <&3 >>"$logs/web.host1" &
reader=$!
exec 3<&-

case $fault in
    nothing) ;;
    kill)
        # It was stopped first, so that it surely dies with requests in hand.
        sleep 0.5
        kill -KILL "$victim"
        unset 'pids[ctrl.host2]'
        wait "$victim" 2>/dev/null || true
        ;;
    *)
        sleep 0.5
        bash -c "$fault" >"$logs/fault" 2>&1 || fail "the command failed: $fault"
        kill -CONT "$victim"
        ;;
esac

ended=0
wait "${pids[web.host1]}" || ended=$?
unset 'pids[web.host1]'
wait $reader
[ $ended -eq 0 ] || fail "WEB.host1 found something wrong"
[ "$fault" != nothing ] || ! grep -q 'warning' "$logs/web.host1" || fail "WEB.host1 warns"

# Those that ask before those that answer.
for process in ctrl.host1 ctrl.host2 repo.host1 repo.host2 repo.host3 repo.host4; do
    pid=${pids[$process]:-}
    [ -n "$pid" ] || continue
    kill -TERM "$pid"
    wait "$pid" || fail "$process did not end well"
    unset "pids[$process]"
    grep -q '^1 of 1 instances shut down with nothing left undone' "$logs/$process" ||
        fail "$process left something undone"
done
cat "$logs/web.host1"
printf '\nPASSED: seven processes, at %s: %s\n' "$at" "$fault"
