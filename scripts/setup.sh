# SPDX-License-Identifier: Apache-2.0
# Sourced by the other scripts, which set $root (the checkout) first. Makes what they run in, once:
# a virtualenv beside the code with hotpage and its dependencies, and the few distribution packages that pip cannot give.
#
#   ensure_environment EXTRA COMMAND...    EXTRA: "" or "dev"; COMMAND: this command, shown to a user who must be root
#
# When all is in place this costs one sha256sum (about a millisecond). Everything it says goes to standard error.

venv=${HOTPAGE_VENV:-$root/.venv}

say() { printf 'hotpage: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# One shell word each, quoted only where needed, so that the line can be pasted.
quoted() {
    for word; do
        case $word in
        '' | *[!A-Za-z0-9_@%+=:,./-]*) printf " '%s'" "$(printf %s "$word" | sed "s/'/'\\\\''/g")" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
}

# The stamp is written last and names the checkout and what was installed; a moved checkout or a changed
# pyproject.toml no longer matches. While pip works it says "unfinished".
ensure_environment() {
    extra=$1
    shift
    wanted="$(sha256sum <"$root/pyproject.toml") $root"
    stamp=$venv/hotpage-stamp${extra:+-$extra}
    if environment_ready; then return; fi
    [ "$(id -u)" = 0 ] || fail "not set up yet, and set-up needs root: sudo$(quoted "$@")"
    (
        flock -n 9 || { say "another set-up is running here, waiting for it" && flock 9; }
        environment_ready || set_up 9<&-
    ) 9<"$root"
}

environment_ready() {
    [ -x "$venv/bin/python" ] && [ -r "$stamp" ] && IFS= read -r found <"$stamp" && [ "$found" = "$wanted" ]
}

set_up() {
    say "setting up, once (virtualenv: $venv)"
    install_packages bcc python ${extra:+compiler emulator tmux}
    if [ -n "$extra" ]; then
        install_where_it_can_be_had vagrant vagrant vagrant-libvirt
        install_where_it_can_be_had redis-benchmark redis-tools # for scripts/bench auto; it starts no service
        install_where_it_can_be_had systemctl systemd # for guests: it does not become this machine's init
    fi
    virtualenv_usable || make_virtualenv
    rm -f "$venv"/hotpage-stamp*
    echo unfinished >"$venv/hotpage-stamp"
    say "installing hotpage and its Python dependencies into the virtualenv"
    pip_install "$root${extra:+[$extra]}"
    # What root made in a user's checkout is that user's to remove.
    chown -R "$(stat -c %u:%g "$root")" "$venv"
    [ -z "$extra" ] || echo "$wanted" >"$stamp"
    echo "$wanted" >"$venv/hotpage-stamp"
    say "set-up done"
}

pip_install() {
    log=$(mktemp)
    if ! "$venv/bin/python" -P -m pip install --disable-pip-version-check --no-input --retries 2 -e "$1" >"$log" 2>&1; then
        if grep -qE 'NewConnectionError|ConnectTimeout|NameResolution|ProxyError|Temporary failure' "$log"; then
            fail "the Python package index cannot be reached (pip's log: $log): connect this machine to a network, or" \
                "point PIP_INDEX_URL at a mirror, and run this again"
        fi
        fail "pip failed (log: $log): $(grep '^ERROR' "$log" | head -n 1)"
    fi
    rm -f "$log"
}

# --- The virtualenv -------------------------------------------------------------------------------------------------

# Not after an interrupted installation, a moved checkout, or an upgrade that took its interpreter away.
virtualenv_usable() {
    "$venv/bin/python" -P -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || return 1
    [ -r "$venv/hotpage-stamp" ] || return 0
    IFS= read -r found <"$venv/hotpage-stamp" && [ "${found#*  - }" = "$root" ]
}

make_virtualenv() {
    # --clear empties the directory: never one that is something else.
    if [ -n "${HOTPAGE_VENV:-}" ] && [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && ! rmdir "$venv" 2>/dev/null; then
        fail "HOTPAGE_VENV=$venv exists and is no virtualenv: name another directory"
    fi
    # The interpreter's real name, with its version: an upgrade of python3 then shows as a broken link.
    python=$(find_python) || fail "no Python 3.11 or later that can make virtualenvs: install one and run this again"
    "$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')" -P -m venv --clear "$venv" ||
        fail "cannot make a virtualenv in $venv"
}

find_python() {
    for candidate in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -P -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# --- Distribution packages ------------------------------------------------------------------------------------------

# Needs are probed by use, not by package name, so that other ways of installing them count as well.
has() {
    case $1 in
    bcc) (cd / && /usr/bin/python3 -c 'import bcc') 2>/dev/null ;;
    python) find_python >/dev/null ;;
    compiler) echo '#include <stdio.h>' | cc -x c -fsyntax-only - 2>/dev/null ;;
    emulator) # scripts/lab; virtme-ng calls the others
        for program in qemu-system-x86_64 busybox modprobe depmod file; do
            PATH=$PATH:/usr/sbin:/sbin type $program >/dev/null 2>&1 || return 1
        done
        ;;
    tmux) tmux -V >/dev/null 2>&1 ;;
    esac
}

package_of() {
    case $2:$1 in
    apt-get:bcc) echo python3-bpfcc ;;
    apt-get:python)
        if /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info >= (3, 11))' 2>/dev/null; then
            echo python3.11-venv # the system's own python3 is older (Ubuntu 22.04)
        else
            echo python3-venv
        fi
        ;;
    apt-get:compiler) echo gcc libc6-dev ;;
    apt-get:emulator) echo qemu-system-x86 busybox-static kmod file ;;
    pacman:bcc) echo python-bcc ;;
    *:bcc) echo python3-bcc ;;
    pacman:python) echo python ;;
    *:python) echo python3 ;;
    *:compiler) echo gcc ;;
    pacman:emulator) echo qemu-system-x86 busybox kmod file ;;
    dnf:emulator) echo qemu-system-x86-core busybox kmod file ;;
    *:emulator) echo qemu-x86 busybox-static kmod file ;;
    *:tmux) echo tmux ;;
    esac
}

install_packages() {
    manager=
    for candidate in apt-get dnf zypper pacman; do
        if command -v $candidate >/dev/null; then
            manager=$candidate
            break
        fi
    done
    missing=
    for need; do
        has "$need" || missing="$missing $(package_of "$need" "$manager")"
    done
    [ -n "$missing" ] || return 0
    case $manager in
    apt-get) install_or_fail $missing ;;
    pacman) fail "something is missing: sudo pacman -S$missing  and run this again" ;;
    '') fail "something is missing: install bcc's Python module, Python 3.11 and a C compiler, and run this again" ;;
    *) fail "something is missing: sudo $manager install$missing  and run this again" ;;
    esac
    for need; do
        has "$need" || fail "$(package_of "$need" "$manager") is installed, but what it should give does not work ($need)"
    done
}

# COMMAND PACKAGE...: what only one test or benchmark wants and not every release has. Nothing gives way to it.
install_where_it_can_be_had() {
    command -v "$1" >/dev/null || ! command -v apt-get >/dev/null && return
    shift
    say "installing Debian packages, if they can be had: $*"
    apt_install --no-remove "$@" || say "they cannot; what needs them is skipped"
}

install_or_fail() {
    say "installing Debian packages: $*"
    apt_install "$@" || fail "cannot install $*: $(grep '^E:' "$log" | tail -n 1) (log: $log)"
}

# Lists older than the mirror name packages that it has no more.
apt_install() {
    log=$(mktemp)
    apt_get install "$@" || { update_lists && apt_get install "$@"; } || return
    rm -f "$log"
}

# Once: false after that.
update_lists() {
    [ -z "${lists_updated:-}" ] || return
    lists_updated=yes
    say "updating the package lists"
    apt_get update || :
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1
}
