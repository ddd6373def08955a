#!/bin/sh
# enter.sh MACHINE COMMAND...: run a command on a machine that a folder describes. What the folder holds of usr, proc/driver, sys and dev is
# laid over this machine's, in the mount namespace that this script was started in (unshare, nsenter), so that every tool sees the same.
set -eu
machine=$1
shift
if [ -d "$machine/usr" ]; then mount -t overlay overlay -o "lowerdir=$machine/usr:/usr" /usr; fi
if [ -d "$machine/proc/driver" ]; then mount --bind "$machine/proc/driver" /proc/driver; fi
if [ -d "$machine/sys/module" ]; then mount -t overlay overlay -o "lowerdir=$machine/sys/module:/sys/module" /sys/module; fi
if [ -d "$machine/sys/devices" ]; then
    mount -t overlay overlay -o "lowerdir=$machine/sys/devices:/sys/bus/pci/devices" /sys/bus/pci/devices
fi
if [ -d "$machine/dev" ]; then
    # What is mounted below /dev must come along.
    mkdir -p "$machine/held/shm" "$machine/held/pts"
    mount --bind /dev/shm "$machine/held/shm"
    mount --bind /dev/pts "$machine/held/pts"
    mount -t overlay overlay -o "lowerdir=$machine/dev:/dev" /dev
    mount --move "$machine/held/shm" /dev/shm
    mount --move "$machine/held/pts" /dev/pts
fi
exec "$@"
