#!/bin/bash
# Every test of the workspace, one file after the other. In: what `make test` has built. Out: the
# tests' own output, and last a line of how many passed and failed; fails if one did.
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

"${CARGO:-cargo}" test --release --locked --workspace --no-fail-fast \
	--config "target.'cfg(unix)'.runner = ['timeout', '--kill-after=30', '$FILE_SECONDS']" >"$log" 2>&1 &
cargo=$!
tail -n +1 -s 0.2 -f --pid="$cargo" "$log" &
wait "$cargo"
code=$?
wait

awk -v seconds="$FILE_SECONDS" '
	/^test result: / { passed += $4; failed += $6 }
	/^ *process didn.t exit successfully: .*(exit status: 1(24|37)|SIGKILL)/ { hung++ }
	END {
		if (hung)
			printf "ended after %d s: %d of the files; the test that has no result there hangs\n", seconds, hung
		printf "%d passed, %d failed\n", passed, failed
	}' "$log"
exit "$code"
