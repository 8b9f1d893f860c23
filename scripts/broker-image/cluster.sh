#!/usr/bin/env bash
# A three-node RabbitMQ cluster in Docker on a private network, and the faults
# to try on it.  Node i is the container PREFIX-i; its AMQP port is on
# 127.0.0.1:BASE_PORT+i.
#
#   cluster.sh up [IMAGE]        form the cluster (default rabbitmq:4-management)
#   cluster.sh status            who is running, partitions, memory
#   cluster.sh isolate N         cut node N off the other nodes (its clients stay)
#   cluster.sh heal N            undo isolate
#   cluster.sh pause N | unpause N      freeze the node: connections stay open, silent
#   cluster.sh kill N | start N         kill -9 | start again (data is kept)
#   cluster.sh whole             wait until every node sees all the others
#   cluster.sh down              remove everything
#
# PREFIX (gear-rmq), BASE_PORT (5700), NODES (3), MEMORY (512m per node),
# WATERMARK (300MB), PARTITIONS (pause_minority; or ignore, autoheal),
# READY_TIMEOUT (120 s)
#
# Each node is on two networks: the client network, from which the ports are
# published and on which containers cannot talk to each other, and the cluster
# network, on which alone the nodes' host names (PREFIX-nI) resolve.  `isolate`
# disconnects the second.  (The containers' own hostnames are left alone: Docker's
# DNS would resolve those on the client network as well.)
set -euo pipefail
prefix=${PREFIX:-gear-rmq} base=${BASE_PORT:-5700} n=${NODES:-3} memory=${MEMORY:-512m}
partitions=${PARTITIONS:-pause_minority} ready=${READY_TIMEOUT:-120}
say() { printf 'cluster: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
node() { case ${1-} in [1-9]) echo "$prefix-$1" ;; *) die "which node? (1..$n)" ;; esac; }
ids() { seq 1 "$n"; }

down() {
    for i in $(ids); do docker rm -f -v "$prefix-$i" >/dev/null 2>&1 || true; done
    for net in cluster client; do docker network rm "$prefix-$net" >/dev/null 2>&1 || true; done
}

# list_running came after 3.10, which has all_running; a later version may not.
running='(catch rabbit_nodes:list_running())'
running="case $running of L when is_list(L) -> L; _ -> rabbit_nodes:all_running() end"

whole() {
    local deadline=$((SECONDS + ready)) i seen
    for i in $(ids); do
        while :; do
            seen=$(timeout 20 docker exec "$prefix-$i" rabbitmqctl -q eval \
                "io:format(\"~b\", [length($running)])." 2>/dev/null | head -c 1 || true)
            [ "$seen" = "$n" ] && break
            [ $SECONDS -lt $deadline ] || {
                docker logs --tail 20 "$prefix-$i" >&2
                die "node $i does not see $n nodes after $ready s"
            }
            sleep 0.5
        done
    done
}

case ${1-} in
up)
    image=${2:-rabbitmq:4-management}
    docker image inspect "$image" >/dev/null 2>&1 || die "there is no image $image here (see build.sh)"
    down
    docker network create -o com.docker.network.bridge.enable_icc=false "$prefix-client" >/dev/null
    docker network create --internal "$prefix-cluster" >/dev/null
    conf='cluster_formation.peer_discovery_backend = classic_config'
    for i in $(ids); do conf+=$'\n'"cluster_formation.classic_config.nodes.$i = rabbit@$prefix-n$i"; done
    conf+=$'\n'"cluster_partition_handling = $partitions"
    # RabbitMQ does not see the containers' memory limit on every Docker host.
    conf+=$'\n'"vm_memory_high_watermark.absolute = ${WATERMARK:-300MB}"
    cookie=$(head -c 18 /dev/urandom | base64 | tr -dc A-Z)GEAR
    for i in $(ids); do
        # The cookie and the cluster's settings go in as files, before the start:
        # the official image and ours then behave alike.
        docker create --name "$prefix-$i" --add-host "$prefix-n$i:127.0.0.1" --network "$prefix-client" \
            --memory "$memory" -e RABBITMQ_NODENAME="rabbit@$prefix-n$i" \
            -p "127.0.0.1:$((base + i)):5672" "$image" >/dev/null
        docker network connect --alias "$prefix-n$i" "$prefix-cluster" "$prefix-$i"
        work=$(mktemp -d)
        mkdir -p "$work/var/lib/rabbitmq" "$work/etc/rabbitmq/conf.d"
        printf %s "$cookie" > "$work/var/lib/rabbitmq/.erlang.cookie"
        chmod 400 "$work/var/lib/rabbitmq/.erlang.cookie"
        printf '%s\n' "$conf" > "$work/etc/rabbitmq/conf.d/50-cluster.conf"
        owner=$(docker run --rm --entrypoint sh "$image" -c 'echo $(id -u rabbitmq):$(id -g rabbitmq)')
        tar -C "$work" --owner="${owner%:*}" --group="${owner#*:}" --numeric-owner -c \
            var/lib/rabbitmq/.erlang.cookie etc/rabbitmq/conf.d/50-cluster.conf | docker cp - "$prefix-$i:/"
        rm -rf "$work"
    done
    for i in $(ids); do docker start "$prefix-$i" >/dev/null; done
    whole
    say "$n nodes run; AMQP on 127.0.0.1:$((base + 1))..$((base + n))"
    ;;
status)
    for i in $(ids); do
        docker ps -a --filter "name=^$prefix-$i\$" --format '{{.Names}}: {{.Status}}'
        answer=$(timeout 20 docker exec "$prefix-$i" rabbitmqctl -q eval \
            "io:format(\"running ~0p~n\", [$running])." 2>/dev/null) || answer="does not answer"
        echo "  ${answer%%$'\n'*}"
    done
    docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' $(for i in $(ids); do echo "$prefix-$i"; done)
    ;;
isolate) c=$(node "${2-}"); docker network disconnect "$prefix-cluster" "$c"; say "$c is cut off" ;;
heal)    c=$(node "${2-}"); docker network connect --alias "$prefix-n$2" "$prefix-cluster" "$c"; say "$c is back" ;;
pause | unpause | start) c=$(node "${2-}"); docker "$1" "$c" >/dev/null; say "$c: $1" ;;
kill)    c=$(node "${2-}"); docker kill -s KILL "$c" >/dev/null; say "$c: killed" ;;
whole)   whole; say "all $n nodes see each other" ;;
down)    down; say "removed" ;;
*) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
