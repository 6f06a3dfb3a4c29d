#!/bin/bash
# Every test of the workspace, one file after the other, and some again without what hardened
# kernels refuse. In: what `make test` has built. Out: the tests' own output, and last a line of how
# many passed and failed; fails if one did.
#
# A file that takes longer than FILE_SECONDS, whose tests hang, is ended with all that it has
# started, and fails. What is printed goes through a file, so that a process that a failed test has
# left behind keeps no pipe open, for whose end somebody waits.
set -uo pipefail

: "${FILE_SECONDS:=900}"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The tests are in a process group of their own each, which does not hear of Ctrl-C.
trap 'pkill -TERM -P "$cargo"; kill "$cargo"; exit 130' INT TERM

code=0

# run ARGUMENTS: the tests that they choose.
run() {
	"${CARGO:-cargo}" test --release --locked --workspace --no-fail-fast "$@" \
		--config "target.'cfg(unix)'.runner = ['timeout', '--kill-after=30', '$FILE_SECONDS']" \
		>>"$log" 2>&1 &
	cargo=$!
	tail -n "+$(($(wc -l <"$log") + 1))" -s 0.2 -f --pid="$cargo" "$log" &
	wait "$cargo" || code=$?
	wait
}

run
export PROBE_POLICY=no-map-iter
run --test netflow_tcp --test netflow_tcp_life --test netflow_udp --test httpflow

awk -v seconds="$FILE_SECONDS" '
	/^test result: / { passed += $4; failed += $6 }
	/^ *process didn.t exit successfully: .*(exit status: 1(24|37)|SIGKILL)/ { hung++ }
	END {
		if (hung)
			printf "ended after %d s: %d of the files; the test that has no result there hangs\n", seconds, hung
		printf "%d passed, %d failed\n", passed, failed
	}' "$log"
exit "$code"
