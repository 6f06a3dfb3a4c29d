#!/bin/bash
# What a machine of the matrix does, as its first process: runs the tests of /job/vm/plan one
# after the other, looks at what the collector attaches, writes all results to the fourth disk as
# a tar archive, and ends the machine. One line per test file goes to the console.
set -uo pipefail

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
. /job/vm/environment
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777,size=75% tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
ln -sf /proc/self/fd /dev/fd
hostname vm
ip link set lo up
# Tests look for the files of the repository where it was when they were built.
mkdir -p "$SOURCE"
mount --bind /job "$SOURCE"
cd "$SOURCE" || exit 1
export EXTERNALS_DIR=/job/externals RUST_BACKTRACE=0

results=/run/results
mkdir "$results"
uname -r >"$results/release"
say() { echo "vm: $*" >/dev/console; }

# After each test, so that they are there if the machine hangs in the next one.
save() {
	tar -C "$results" -cf /dev/vdd .
	sync
}

# All that can be attached, attached: which hooks, and what the verifier made of the programs.
census() {
	local listen=127.0.0.1:16061
	"$EXTERNALS_DIR/datakit-ebpf" run --output file --enabled ebpf-net,ebpf-bash,ebpf-conntrack \
		--l7net-enabled httpflow,httpflow-tls --status-listen "$listen" --log "$results/census.log" --log-level debug \
		--pidfile /run/census.pid ${PROBE_POLICY:+--probe-policy "$PROBE_POLICY"} \
		>/dev/null 2>"$results/census.stderr" &
	local collector=$! seen=
	for _ in {1..600}; do
		sleep 0.5
		kill -0 "$collector" 2>/dev/null || break
		curl -sf -o "$results/status.json" "http://$listen/status" || continue
		seen=$(python3 -c '
import json, sys
plugins = json.load(open(sys.argv[1]))["plugins"]
done = all(plugin["state"] in ("running", "failed") or plugin["probes"] for plugin in plugins)
print("yes" if plugins and done else "")' "$results/status.json")
		[[ -n $seen ]] && break
	done
	kill "$collector" 2>/dev/null
	wait "$collector"
	say "census ${seen:-not complete}"
}

run() {
	local name=$1 limit=$2 executable=$3 started=$SECONDS
	shift 3
	timeout -k 10 "$limit" "$executable" --test-threads=1 "$@" >"$results/$name.log" 2>&1
	echo $? >"$results/$name.code"
	save
	say "$name $(($SECONDS - started)) s: $(grep '^test result' "$results/$name.log" || echo "exit code $(<"$results/$name.code")")"
}

say "up after $(cut -d' ' -f1 /proc/uptime) s"
census
while read -r name limit executable filters; do
	# shellcheck disable=SC2086 # several words
	run "$name" "$limit" "$executable" $filters
done </job/vm/plan
dmesg >"$results/dmesg"
touch "$results/complete"
save
say 'down'
echo b >/proc/sysrq-trigger
sleep 60
