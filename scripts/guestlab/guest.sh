# SPDX-License-Identifier: Apache-2.0
# Runs as root in a guest, once it has booted: makes the checkout visible, runs the command, notes its status.
# /run/lab is the host's directory for this guest; $1 is the command's file in it.
set -eu

. /run/lab/settings # checkout, modules, directories, directory

# Caches that never ask the host again make Python start several times faster; nothing changes there meanwhile.
options=trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro

share() { # TAG DIRECTORY
    mkdir -p "$2"
    mount -t 9p -o "$options" "$1" "$2"
}

mount -t tmpfs none /tmp
share lab.usr /usr
share lab.modules /run/modules
modprobe -d /run/modules overlay

# What a guest writes there is gone with it.
writable() { # TAG DIRECTORY
    share "$1" "/run/lower/$1"
    mkdir -p "/run/upper/$1" "/run/work/$1" "$2"
    mount -t overlay -o "lowerdir=/run/lower/$1,upperdir=/run/upper/$1,workdir=/run/work/$1" overlay "$2"
}
writable lab.checkout "$checkout"
[ -z "$venv" ] || writable lab.venv "$venv"

mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug
mountpoint -q /sys/fs/bpf || mount -t bpf none /sys/fs/bpf
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup

port() { # NAME; there may be no udev to name the device
    for entry in /sys/class/virtio-ports/*; do
        [ "$(cat "$entry/name")" != "$1" ] || echo "/dev/${entry##*/}"
    done
}
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr

cd "$directory"
status=0
sh /run/lab/command </dev/null >"$(port lab.1)" 2>"$(port lab.2)" || status=$?
echo "$status" >/run/lab/status.new
mv /run/lab/status.new /run/lab/status
