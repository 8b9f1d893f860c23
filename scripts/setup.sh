#!/usr/bin/env bash
# Makes sure that the tests find a RabbitMQ, and says nothing where one is.
#
# In this order, as the tests look for it (tests/amqp):
#   1. GEAR_TEST_AMQP_URL is set: nothing to do
#   2. Docker: the image GEAR_TEST_RABBITMQ_IMAGE (rabbitmq:4-management; none: no Docker) is
#      here, or is pulled, or is built from Debian's packages by broker-image/build.sh
#   3. rabbitmq-server: installed, or on a Debian-like system as root installed by apt-get. Its
#      system service is neither started nor enabled: the tests start brokers of their own.
# Otherwise one line says what to install, and the exit status is 1.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
image=${GEAR_TEST_RABBITMQ_IMAGE:-rabbitmq:4-management}
say() { printf 'setup: %s\n' "$*" >&2; }

# Installs Debian packages without starting their services.
install() {
    command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 1
    say "apt-get install $* (services are not started)"
    local policy=/usr/sbin/policy-rc.d made= log status=0
    # Keeps invoke-rc.d from starting anything, unless the system has a policy of its own.
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
        made=1
    fi
    log=$(mktemp)
    { apt-get install -y --no-install-recommends "$@" ||
        { apt-get update && apt-get install -y --no-install-recommends "$@"; }; } \
        </dev/null >"$log" 2>&1 || status=$?
    [ $status = 0 ] || tail -n 5 "$log" >&2
    rm -f "$log"
    [ -z "$made" ] || rm -f "$policy"
    return $status
}
export DEBIAN_FRONTEND=noninteractive

native() {
    { [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server; } >/dev/null &&
        command -v epmd >/dev/null
}

docker_image() {
    [ "$image" != none ] && command -v docker >/dev/null || return 1
    docker image inspect "$image" >/dev/null 2>&1 && return 0
    docker version >/dev/null 2>&1 || return 1
    say "getting the image $image (some minutes, once)"
    "$here/broker-image/build.sh" "$image" && return 0
    # Neither here nor to be had from a registry: it is built, and that needs debootstrap.
    ! command -v debootstrap >/dev/null && install debootstrap &&
        PULL_TIMEOUT=0 "$here/broker-image/build.sh" "$image"
}

[ -n "${GEAR_TEST_AMQP_URL-}" ] && exit 0
docker_image && exit 0
if [ -n "${GEAR_TEST_RABBITMQ_IMAGE-}" ] && [ "$image" != none ]; then
    say "no image $image: install Docker, or unset GEAR_TEST_RABBITMQ_IMAGE"
    exit 1
fi
native && exit 0
if install rabbitmq-server; then
    if [ -d /run/systemd/system ]; then
        systemctl disable --now rabbitmq-server >/dev/null 2>&1 || true
    fi
    say "rabbitmq-server is installed; its system service is switched off"
    native && exit 0
fi
say "no RabbitMQ for the tests: install Docker or rabbitmq-server (on Debian: apt-get install rabbitmq-server), or set GEAR_TEST_AMQP_URL"
exit 1
