#!/bin/bash
# The root folder of the machines of the matrix. In: the cache folder, and PACKAGES, what tests
# need. Out: CACHE/root-SUMMARY.ext4, of this machine's own distribution, so that what was built
# here runs there; its path is printed. What is there already is taken as it is.
set -euo pipefail

cache=$1
. /etc/os-release
list=$(echo "$PACKAGES" kmod | tr -s ' \t\n' ' ')
image=$cache/root-$VERSION_CODENAME-$(sha256sum <<<"$list" | cut -c1-8).ext4
echo "$image"
[[ -e $image ]] && exit 0

uri=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' \
	| awk -v name="$VERSION_CODENAME" '$2 == name { print $1; exit }')
[[ -n $uri ]] || { echo "no mirror of $VERSION_CODENAME is configured" >&2; exit 1; }
work=$(mktemp -d "$cache/root.XXXXXX")
trap 'rm -rf "$work"' EXIT
log=$cache/root.log
# shellcheck disable=SC2001 # not a single replacement
if ! debootstrap --variant=minbase --include="$(sed 's/ *$//; s/ /,/g' <<<"$list")" \
	"$VERSION_CODENAME" "$work/root" "$uri" >"$log" 2>&1; then
	tail -5 "$log" >&2
	exit 1
fi
rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
mkdir -p "$work/root/job" "$work/root/lib/modules"
echo vm >"$work/root/etc/hostname"
printf '127.0.0.1 localhost vm\n::1 localhost\n' >"$work/root/etc/hosts"
size=$(du -sm "$work/root" | cut -f1)
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$work/root" "$work/image" "$((size * 5 / 4 + 768))M" >/dev/null
mv "$work/image" "$image"
