#!/usr/bin/env bash
# Provides a RabbitMQ image for the tests, under the tag they use.
#
#   build.sh [--force] TAG [SUITE]
#
#   TAG    the image to provide, e.g. rabbitmq:4-management
#   SUITE  Debian suite whose rabbitmq-server package to use when the image has
#          to be built here (bookworm: 3.10, trixie: 4.0, sid: newest); by
#          default the one that comes nearest to TAG
#
#   build.sh rabbitmq:4-management
#   build.sh rabbitmq:4.3-management sid
#
# In this order:
#   1. an image TAG is here already (and not an outdated build of ours): nothing to do
#   2. `docker pull TAG` (the official image), if a registry answers
#   3. build it from Debian packages with debootstrap (needs root and debootstrap)
#
# --force        skip 1 and 2, and make the base afresh
# DEBIAN_MIRROR  default: the mirror that this machine's apt uses
# PULL_TIMEOUT   seconds allowed for the pull, default 120; 0: do not pull
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf 'broker-image: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

force=
[ "${1-}" = --force ] && { force=1; shift; }
[ $# -ge 1 ] && [ $# -le 2 ] || { sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
tag=$1 suite=${2-}
[ -n "$suite" ] || case ${tag##*:} in
    3*) suite=bookworm ;;
    4 | 4-* | 4.0*) suite=trixie ;;
    *) suite=sid ;;
esac
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null | grep -v -- -security | head -n 1 || true)}
base=gear-rabbitmq-base:$suite

command -v docker >/dev/null || die "docker is not installed"
docker info >/dev/null 2>&1 || die "the Docker daemon does not answer (DOCKER_HOST=${DOCKER_HOST-unset})"

recipe=$suite-$(sha256sum <"$here/Dockerfile" | cut -c1-16)
label=gear.broker-image.recipe
if [ -z "$force" ] && docker image inspect "$tag" >/dev/null 2>&1; then
    have=$(docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$tag" 2>/dev/null || true)
    case $have in
        "$recipe") say "$tag is here and up to date"; exit 0 ;;
        "" | "<no value>") say "$tag is here (not built by this script); kept. Use --force to replace it"; exit 0 ;;
        *) say "$tag was built here by another version of the recipe ($have); building it again" ;;
    esac
elif [ -z "$force" ] && [ "${PULL_TIMEOUT:-120}" != 0 ]; then
    say "pulling $tag"
    if timeout "${PULL_TIMEOUT:-120}" docker pull "$tag" >&2; then
        say "$tag pulled"
        exit 0
    fi
    say "no registry gave us $tag; building it from Debian $suite"
fi

if [ -n "$force" ] || ! docker image inspect "$base" >/dev/null 2>&1; then
    command -v debootstrap >/dev/null || die "debootstrap is not installed (apt-get install debootstrap)"
    [ "$(id -u)" = 0 ] || die "debootstrap needs root; run this script as root"
    script=/usr/share/debootstrap/scripts/$suite
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid   # a suite newer than this debootstrap
    work=$(mktemp -d "${TMPDIR:-/tmp}/broker-image.XXXXXX")
    trap 'rm -rf --one-file-system "$work"' EXIT
    [ -n "$mirror" ] || die "apt knows no Debian mirror here; set DEBIAN_MIRROR"
    say "debootstrap $suite from ${mirror%/} (a minute or two)"
    if ! debootstrap --variant=minbase --include=rabbitmq-server \
            "$suite" "$work/root" "${mirror%/}" "$script" >"$work/log" 2>&1; then
        tail -n 20 "$work/log" "$work/root/debootstrap/debootstrap.log" >&2 2>/dev/null || true
        die "debootstrap failed"
    fi
    # Nothing a broker needs.
    rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/* "$work"/root/var/log/* \
           "$work"/root/usr/share/{doc,man,locale,info}/* "$work"/root/debootstrap
    mkdir -p "$work/root/var/log/rabbitmq"
    say "importing $base"
    tar -C "$work/root" --numeric-owner --one-file-system -c . | docker import - "$base" >/dev/null
fi

say "building $tag from $base"
# The classic builder: BuildKit would look for a frontend in a registry.
out=$(DOCKER_BUILDKIT=0 docker build --build-arg "BASE=$base" --build-arg "RECIPE=$recipe" \
    -t "$tag" -f "$here/Dockerfile" "$here" 2>&1) || { printf '%s\n' "$out" >&2; die "docker build failed"; }
version=$(docker run --rm --entrypoint dpkg-query "$tag" -W -f '${Version}' rabbitmq-server)
say "$tag is ready: rabbitmq-server $version"
