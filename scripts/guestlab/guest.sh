# SPDX-License-Identifier: Apache-2.0
# Runs as root in a guest, once it has booted: makes the checkout visible, runs the command, notes its status.
# /run/lab is the host's directory for this guest. It runs in busybox, which has all these programs in one:
# each other one that the guest loads costs it a good part of a second.
set -eu

. /run/lab/settings # checkout, venv, directory

# With caches that never ask the host again: nothing changes there meanwhile.
share() { # TAG DIRECTORY
    mkdir -p "$2"
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=131072,cache=loose,ro "$1" "$2"
}

# What a guest writes there is gone with it.
writable() { # DIRECTORY TAG...; of several the first one that has a file
    place=$1
    shift
    mkdir -p "/run/upper/$1" "/run/work/$1" "$place"
    lower=
    for tag; do
        share "$tag" "/run/lower/$tag"
        lower=$lower:/run/lower/$tag
    done
    mount -t overlay -o "lowerdir=${lower#:},upperdir=/run/upper/$1,workdir=/run/work/$1" overlay "$place"
}

mounted() { # TYPE DIRECTORY
    mountpoint -q "$2" || mount -t "$1" none "$2"
}

port() { # NAME; there may be no udev to name the device
    for entry in /sys/class/virtio-ports/*; do
        read -r name <"$entry/name"
        [ "$name" != "$1" ] || echo "/dev/${entry##*/}"
    done
}

mount -t tmpfs none /tmp
share lab.usr /usr
writable "$checkout" lab.bytecode lab.checkout
[ -z "$venv" ] || writable "$venv" lab.venv
mounted debugfs /sys/kernel/debug
mounted tracefs /sys/kernel/tracing
mounted bpf /sys/fs/bpf
mounted cgroup2 /sys/fs/cgroup
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr

cd "$directory"
status=0
if [ -e /run/lab/terminal ]; then
    setsid -c /bin/sh /run/lab/command </dev/hvc0 >/dev/hvc0 2>&1 || status=$?
else
    /bin/sh /run/lab/command </dev/null >"$(port lab.1)" 2>"$(port lab.2)" || status=$?
fi
echo "$status" >/run/lab/status.new
mv /run/lab/status.new /run/lab/status
