#!/bin/bash
# The kernel matrix: each kernel in a machine of its own, emulated, with this machine's build in
# it, some of them at once. `make vm-test` sets what it needs:
#
#   KERNELS    versions, such as "6.1 6.12"
#   POLICIES   probe policies to run each under: auto, no-kprobe, ...
#   TESTS      test files to run, instead of all of tests.list
#   MACHINES   so many at once; one runs one test at a time, which seldom keeps two cores busy
#   CACHE      where kernels and the root folder are kept
#   TARGET     cargo's target folder
#   EXTERNALS  the build
#   PACKAGES   what tests need of Debian
#
# Out: a table of kernels and tests, and all logs in TARGET/vm. Fails if a test, or a kernel, does.
set -euo pipefail

# As a whole, so that it is read before it runs: somebody may edit it meanwhile.
{
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
out=$TARGET/vm
# The slowest whole run, with room; a machine that hangs is ended.
: "${MACHINE_SECONDS:=5400}"

((MACHINES > 0)) || { echo "MACHINES is a number above 0, not $MACHINES" >&2; exit 1; }
mkdir -p "$CACHE" "$out"
work=$(mktemp -d "$out/work.XXXXXX")
trap 'jobs -p | xargs -r kill 2>/dev/null || true; wait || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# The names of tests.list that are wanted, each with its seconds and filters.
wanted() {
	local name rest
	while read -r name rest; do
		[[ -z $name || $name == [#!-]* ]] && continue
		[[ -z ${TESTS:-} || " $TESTS " == *" $name "* ]] && echo "$name $rest"
	done <"$here/tests.list"
}

# A mistyped name would be machines without tests, which pass.
found=" $(wanted | awk '{ printf "%s ", $1 }')"
for name in ${TESTS:-}; do
	[[ $found == *" $name "* ]] || { echo "tests/vm/tests.list has no test $name that is run" >&2; exit 1; }
done

# Every file of system tests is run or left out by name.
for file in "$source"/tests/tests/*.rs; do
	name=$(basename "$file" .rs)
	grep -Eq "^(- )?$name( |\$)" "$here/tests.list" || { echo "tests.list does not say what becomes of $name" >&2; exit 1; }
done

# Cargo names the executables: "unit:PACKAGE" for a library's own tests, or the file's name.
executables() {
	python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("reason") != "compiler-artifact" or not message.get("executable"):
        continue
    target, package = message["target"], message["package_id"]
    if "test" in target["kind"]:
        print(target["name"], message["executable"])
    elif message["profile"]["test"] and "bin" not in target["kind"]:
        print("unit:" + package.rpartition("#")[2].rpartition("@")[0] if "@" in package
              else "unit:" + package.rpartition("#")[0].rpartition("/")[2], message["executable"])
' | sed 's/^unit:net /unit:ebpf-net /; s/^unit:bash /unit:ebpf-bash /; s/^unit:conntrack /unit:ebpf-conntrack /'
}

echo 'vm-test: builds the tests'
# The same packages as "make test", so that nothing is built twice.
[[ -z $(wanted) ]] || (cd "$source" && cargo test --release --locked --no-run --message-format=json --quiet \
	--workspace) | executables >"$work/executables"

# The job, as the machines see it at /job: the repository's files, the build, the tests, the plan.
job=$work/job
mkdir -p "$job/vm" "$job/target/release/deps" "$job/externals"
(cd "$source" && git ls-files -z --cached --others --exclude-standard | tar -c --null -T - --ignore-failed-read) \
	| tar -x --no-same-owner -C "$job"
cp -r "$EXTERNALS"/. "$job/externals"
while read -r name seconds filters; do
	executable=$(awk -v name="$name" '$1 == name { print $2 }' "$work/executables")
	[[ -n $executable ]] || { echo "there is no test $name, which tests.list names" >&2; exit 1; }
	cp "$executable" "$job/target/release/deps/"
	echo "${name/:/-} $seconds /job/target/release/deps/$(basename "$executable") $filters"
done < <(wanted) >"$work/plan"

# The plan, less what tests.list leaves out on a kernel or under a policy: "! WHERE TEST reason",
# where the test is a file, or one of a file as FILE::NAME.
plan_of() {
	awk -v kernel="$1" -v policy="$2" '
		NR == FNR {
			if ($1 != "!" || ($2 != kernel && $2 != policy && $2 != "any"))
				next
			split($3, parts, "::")
			file = parts[1]
			sub(":", "-", file)
			if (parts[2] == "")
				left_out[file] = 1
			else
				skips[file] = skips[file] " --skip " parts[2]
			next
		}
		!($1 in left_out) { print $0 skips[$1] }
	' "$here/tests.list" "$work/plan"
}

root=$("$here/root.sh" "$CACHE")

# prepare KERNEL POLICY: the disk with a machine's job, and an empty folder for its results.
prepare() {
	local kernel=$1 policy=$2 results=$out/$1-$2
	cat >"$job/vm/environment" <<-END
		SOURCE=$source
		export TEST_PATIENCE=2 CONNECTIONS=1000
		$([[ $policy == auto ]] || echo "export PROBE_POLICY=$policy")
	END
	plan_of "$kernel" "$policy" >"$job/vm/plan"
	mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$job" "$work/$kernel-$policy.ext4" \
		"$(($(du -sm "$job" | cut -f1) * 5 / 4 + 32))M" >/dev/null
	rm -rf "$results"
	mkdir -p "$results"
	cp "$job/vm/plan" "$results/"
}

# The kernel changes its own code while other processors run it, by way of a breakpoint. An emulated
# processor may still meet that when it is gone, of which the kernel says "int3"; while it boots, it
# may hang as well.
has_tripped() {
	! grep -q 'vm: ' "$1" || grep -q ' int3: 0000 ' "$1"
}

# boot KERNEL POLICY: runs one machine; its results are in $out/KERNEL-POLICY.
boot() {
	local kernel=$1 policy=$2 results=$out/$1-$2 disk=$work/$1-$2.ext4 attempt
	for attempt in 1 2 3; do
		emulate "$kernel" "$policy" "$results" "$disk"
		has_tripped "$results/console" || break
		cp "$results/console" "$results/console.$attempt"
		echo "  $kernel $policy: did not come up, or its emulator tripped: see console.$attempt" >&2
	done
	tar -x --no-same-owner -f "$disk.results" -C "$results" 2>/dev/null || true
	rm -f "$disk" "$disk.results"
}

# Runs a machine until it ends.
emulate() {
	local kernel=$1 policy=$2 results=$3 disk=$4 folder=$CACHE/kernels/$1 machine
	rm -f "$disk.results"
	truncate -s 256M "$disk.results"
	timeout "$MACHINE_SECONDS" qemu-system-x86_64 -accel tcg,thread=multi -smp 2 -cpu max -m 2048 \
		-nographic -no-reboot -nodefaults -serial "file:$results/console" \
		-kernel "$folder/vmlinuz" -initrd "$folder/initrd" \
		-append 'console=ttyS0 panic=1 quiet' \
		-drive "file=$root,if=virtio,format=raw,snapshot=on" \
		-drive "file=$folder/modules.ext4,if=virtio,format=raw,snapshot=on" \
		-drive "file=$disk,if=virtio,format=raw,snapshot=on" \
		-drive "file=$disk.results,if=virtio,format=raw" </dev/null &
	machine=$!
	trap 'kill "$machine"; exit 1' TERM
	tail -n +1 -F "$results/console" --pid="$machine" 2>/dev/null \
		| sed -un "s/^vm: /  $kernel $policy: /p" &
	wait "$machine" || true
	# Until all that it said is shown.
	wait
}

for kernel in $KERNELS; do
	if ! "$here/kernel.sh" "$kernel" "$CACHE" >"$out/kernel-$kernel.log" 2>&1; then
		tail -2 "$out/kernel-$kernel.log" >&2
		for policy in $POLICIES; do rm -rf "$out/$kernel-$policy"; done
		continue
	fi
	for policy in $POLICIES; do
		while (($(jobs -pr | wc -l) >= MACHINES)); do wait -n || true; done
		prepare "$kernel" "$policy"
		boot "$kernel" "$policy" &
	done
done
wait

python3 "$here/table.py" ${UPDATE:+--update} "$out" "$here/verifier.tsv" "$work/plan" "$KERNELS" \
	"$POLICIES"
exit
}
