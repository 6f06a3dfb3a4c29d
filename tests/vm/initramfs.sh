#!/bin/busybox sh
# First process of a machine of the matrix: finds its disks and goes on from them.
#
#   vda  the root folder        vdb  modules of the kernel
#   vdc  what is to be run      vdd  where the results go
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in /modules/*.ko; do
	[ -e "$module" ] && insmod "$module"
done
while [ ! -b /dev/vdd ]; do sleep 0.1; done
mount -t ext4 -o noatime /dev/vda /new
mount -t ext4 -o ro /dev/vdb /new/lib/modules
mount -t ext4 -o ro /dev/vdc /new/job
mount --move /dev /new/dev
mount --move /proc /new/proc
mount --move /sys /new/sys
exec switch_root /new /job/tests/vm/guest.sh
