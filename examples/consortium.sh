#!/usr/bin/env bash
# A consortium on one machine: a server and three hospitals, each with its own home, keys, patients and (as root, where
# the machine allows it) network, from nothing to the table of results; then the same campaign in one process, whose
# numbers must be the same. It takes some minutes, needs no step by hand, and leaves nothing behind.
#
#     examples/consortium.sh                  in network namespaces if possible, else on loopback
#     examples/consortium.sh --loopback       on loopback
#     examples/consortium.sh --keep DIR       in a new folder DIR, which stays
#     examples/consortium.sh --trust target   with contributions that the server cannot read
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH="$here/../.venv/bin:$PATH"
unset HTTPS_PROXY https_proxy ALL_PROXY all_proxy # everybody is on this machine
export PYTHONUNBUFFERED=1
sites=(north south harbour)
loopback='' keep='' trust=server
while [ $# -gt 0 ]; do
    case $1 in
        --loopback) loopback=yes ;;
        --keep) keep=$2 && shift ;;
        --trust) trust=$2 && shift ;;
        *) sed -n '2,9s/^# \?//p' "${BASH_SOURCE[0]}" && exit 2 ;;
    esac
    shift
done
if [ -n "$keep" ]; then mkdir -p "$keep" && work=$(cd "$keep" && pwd); else work=$(mktemp -d); fi
tag=fm$$ # of our namespaces and links, so that nobody else's are touched
pids=() spaces=()

say() { printf '\n== %s\n' "$*"; }

# Run a command on a party's machine: in its namespace, where it has one.
on() {
    local party=$1 && shift
    if [ -n "$loopback" ]; then "$@"; else ip netns exec "$tag-$party" "$@"; fi
}

# The same in the background, with a log; `up` runs until it is told to stop.
start() {
    local party=$1 && shift
    if [ -n "$loopback" ]; then "$@" >"$work/$party.log" 2>&1 &
    else ip netns exec "$tag-$party" "$@" >"$work/$party.log" 2>&1 &
    fi
    pids+=($!)
}

clean_up() {
    local code=$?
    trap - EXIT
    trap '' INT TERM # once is enough
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    for space in "${spaces[@]}"; do ip netns delete "$space" || true; done
    ip link delete "$tag" 2>/dev/null || true
    if [ $code -ne 0 ]; then
        for log in "$work"/*.log; do [ -e "$log" ] && printf '\n-- the end of %s\n' "$log" && tail -n 20 "$log"; done
    fi
    [ -n "$keep" ] || rm -rf "$work"
    exit $code
}
trap clean_up EXIT
trap 'exit 130' INT TERM
trap '' PIPE # whoever reads this may go away first

# A namespace a party, each with one link to a bridge that has no way out.
network() {
    [ "$(id -u)" = 0 ] && ip netns add "$tag-server" 2>/dev/null || return 1
    spaces+=("$tag-server")
    ip link add "$tag" type bridge 2>/dev/null || return 1
    ip link set "$tag" up
    local number=1 party
    for party in server "${sites[@]}"; do
        if [ "$party" != server ]; then ip netns add "$tag-$party" && spaces+=("$tag-$party"); fi
        ip link add "$tag$number" type veth peer name eth0 netns "$tag-$party" || return 1
        ip link set "$tag$number" master "$tag" up
        ip -n "$tag-$party" link set lo up
        ip -n "$tag-$party" address add "10.231.77.$number/24" dev eth0
        ip -n "$tag-$party" link set eth0 up
        number=$((number + 1))
    done
}

# Wait until a command succeeds, for a minute at most.
until_it_works() {
    local what=$1 && shift
    for _ in $(seq 120); do "$@" >/dev/null 2>&1 && return; sleep 0.5; done
    echo "$what did not come up within a minute" >&2 && return 1
}

if [ -z "$loopback" ] && network; then
    say "four network namespaces on a bridge without a way out"
    host=10.231.77.1 port=8443
else
    say "all on loopback"
    loopback=yes host=127.0.0.1
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fi

campaign=$work/campaign.toml
python3 "$here/consortium/same.py" trust "$trust" "$here/consortium/campaign.toml" >"$campaign"

say "the patients of three hospitals"
fedmerge phantom "$work/patients" --cases 10

say "the coordinator founds the consortium and starts its server"
server=$work/server
fedmerge server init "$server" --name brains --host "$host" --port "$port" | tee "$work/invitation"
authority=$(sed -n 's/.*--ca-fingerprint \([^ ]*\).*/\1/p' "$work/invitation")
start server fedmerge server up --server "$server"
until_it_works "the front door" on server bash -c "exec 3<>/dev/tcp/$host/$port"

for site in "${sites[@]}"; do
    home=$work/$site
    role=$(sed -n 's/^role = "\(.*\)"/\1/p' "$here/consortium/$site.toml")
    say "$site joins; the coordinator hears its fingerprint and approves"
    on "$site" fedmerge site join --server "$host:$port" --ca-fingerprint "$authority" --name "$site" \
        --role "$role" --home "$home" | tee "$work/$site.joined"
    heard=$(sed -n 's/.*telephone: //p' "$work/$site.joined")
    on server fedmerge server approve "$home/request.json" --server "$server" --fingerprint "$heard"

    say "$site fills in its own file, checks, and starts"
    cp "$here/consortium/$site.toml" "$home/site.toml"
    mv "$work/patients/$site" "$home/cases"
    on "$site" fedmerge site check --home "$home" --campaign "$campaign"
    start "$site" fedmerge site up --home "$home" --shared-user # one user for all, which a hospital should not do
done

say "the coordinator runs the campaign"
on server fedmerge run "$campaign" --server "$server"
on server fedmerge status --server "$server"

say "what left north, and whether its log is whole"
fedmerge audit verify "$work/north" "$server" | tee "$work/verdict"
grep -q "all of them are there" "$work/verdict" # the server's log has heads of north's
fedmerge audit show "$work/north" --out "$work/north.html"

if [ "$trust" = target ]; then
    say "what the server has of the contributions, and what the target has"
    find "$server/runs/consortium/out/server/sealed" -type f
    find "$work/harbour/private" -path "*/results/*" -type f
    fedmerge audit verify "$work/north" "$work/harbour" # the seals told harbour heads of north's log
    [ ! -e "$server/runs/consortium/out/server/contributions" ]
fi

say "the same campaign in one process"
python3 "$here/consortium/same.py" campaign "$campaign" "${sites[@]/#/$work/}" >"$work/simulated.toml"
fedmerge simulate "$work/simulated.toml" --out "$work/simulated"

say "the numbers of both"
python3 "$here/consortium/same.py" compare "$server/runs/consortium/out" "$work/simulated"
