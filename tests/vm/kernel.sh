#!/bin/bash
# A stock Debian kernel for the matrix. In: a version such as 6.1, and the cache folder. Out: in
# CACHE/kernels/VERSION its image (vmlinuz), an initramfs that finds the disks (initrd), its
# modules as an ext4 image (modules.ext4) and its full name (release). What is there already is
# taken as it is; delete the folder for a newer one.
#
# It does not touch this machine's own lists of packages: each suite has a private apt state. Where
# the packages come from is read from this machine's apt configuration.
set -euo pipefail

version=$1
cache=$2
folder=$cache/kernels/$version
[[ -e $folder/release ]] && exit 0

# Suites that may have it, the best first.
case $version in
	5.10) suites='bullseye-security bullseye' ;;
	6.1) suites='bookworm-security bookworm' ;;
	6.12) suites='bookworm-security bookworm-backports' ;;
	*) suites='trixie-backports' ;;
esac

# $1: a pattern of suites, out of this machine's own configuration.
mirror() {
	apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Label: '"$1" \
		| awk 'NR == 1 { print $1 }'
}

# Uses the state of the suite for an apt program: ask SUITE PROGRAM ARGUMENT...
ask() {
	local state=$cache/apt/$1 program=$2
	shift 2
	"$program" -qq -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=- \
		-o Dir::State="$state" -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" \
		-o APT::Sandbox::User=root -o Acquire::Languages=none "$@"
}

refresh() {
	local suite=$1 state=$cache/apt/$1 uri
	case $suite in
		*-security) uri=$(mirror Debian-Security) ;;
		*) uri=$(mirror Debian) ;;
	esac
	[[ -n $uri ]] || { echo "no mirror of Debian is configured that may have $suite" >&2; return 1; }
	mkdir -p "$state"/{lists,cache/archives}/partial
	touch "$state/status"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main" \
		>"$state/sources.list"
	ask "$suite" apt-get update
}

# The newest package of the suite whose name fits.
newest() {
	ask "$1" apt-cache search --names-only "$2" | awk '{ print $1 }' | sort -V | tail -1
}

# The full name of the kernel and the packages it comes in: since 7.2 in parts; unsigned ones are
# the same code.
find_packages() {
	local suite=$1 image release part
	image=$(newest "$suite" "^linux-image-${version/./\\.}\\.[0-9+.deb-]*-cloud-amd64\$")
	[[ -n $image ]] || return 1
	release=${image#linux-image-}
	echo "$release $image"
	for part in 'binary-(unsigned-)?' base- modules-; do
		newest "$suite" "^linux-$part${release//+/\\+}\$"
	done
}

found=
for suite in $suites; do
	refresh "$suite" || continue
	found=$(find_packages "$suite") && break
done
if [[ -z $found ]]; then
	echo "no kernel $version in $suites" >&2
	exit 1
fi
read -r -d '' release packages <<<"$found" || true
echo "kernel $version: $release from $suite" >&2

work=$(mktemp -d "$cache/kernel.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work"/{packages,files,initrd,out}
# shellcheck disable=SC2086 # several names
(cd "$work/packages" && ask "$suite" apt-get download $packages)
for package in "$work"/packages/*.deb; do
	dpkg-deb -x "$package" "$work/files"
done
mapfile -t found < <(find "$work/files" -name 'vmlinuz*' -type f)
[[ ${#found[@]} == 1 ]] || { echo "images in $packages: ${found[*]}" >&2; exit 1; }
cp "${found[0]}" "$work/out/vmlinuz"

# Older packages have /lib/modules, newer ones /usr/lib/modules.
modules=$(find "$work/files" -path "*/lib/modules/$release" -type d)
mkdir -p "$work/tree/lib/modules"
mv "$modules" "$work/tree/lib/modules/"
depmod -b "$work/tree" "$release"
size=$(du -sm "$work/tree/lib/modules" | cut -f1)
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$work/tree/lib/modules" "$work/out/modules.ext4" \
	"$((size * 5 / 4 + 16))M" >/dev/null

# The initramfs: busybox, what the disks need, and a script that goes on from the first disk.
mkdir -p "$work"/initrd/{bin,dev,proc,sys,new,modules}
cp /bin/busybox "$work/initrd/bin/"
number=10
for module in virtio_pci virtio_blk ext4; do
	modprobe -d "$work/tree" -S "$release" --show-depends "$module" >"$work/depends"
	while read -r kind file _; do
		[[ $kind == insmod ]] || continue
		name=$(basename "${file%%.ko*}")
		compgen -G "$work/initrd/modules/*-$name.ko" >/dev/null && continue
		case $file in
			*.xz) xz -dc "$file" ;;
			*.zst) zstd -qdc "$file" ;;
			*) cat "$file" ;;
		esac >"$work/initrd/modules/$number-$name.ko"
		number=$((number + 1))
	done <"$work/depends"
done
cp "$(dirname "$0")/initramfs.sh" "$work/initrd/init"
chmod 755 "$work/initrd/init"
(cd "$work/initrd" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/out/initrd"

echo "$release" >"$work/out/release"
mkdir -p "$cache/kernels"
rm -rf "$folder"
mv "$work/out" "$folder"
