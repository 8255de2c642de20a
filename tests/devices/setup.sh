#!/usr/bin/env bash
# Makes what `make test-devices` needs: an emulated arm64 computer, an adb client, an sshd, a mask for CPU features.
#
# Everything goes into $EDGEPRESS_TEST_DEVICES (default: .devices in the checkout). Packages come from the mirror that
# this machine's apt already uses and from pip's own configuration; they are unpacked, never installed, and apt's own
# lists, cache and status stay as they are. No root. A part that is there is kept; one that cannot be made is named in
# the table at the end, with the reason, and its tests are skipped.
#
#   tests/devices/setup.sh           make all parts
#   tests/devices/setup.sh PART      make one: arm64, adb, ssh, mask, rtx
#
# What it makes:
#   arm64/python-CPU    Python with numpy and onnxruntime under qemu-user; CPU: cortex-a72, cortex-a76, i8mm
#   adb/adb             the adb client
#   ssh/sshd            sshd (call it by absolute path), never started by this script; ssh/keygen: ssh-keygen
#   mask/cpuidmask.so   to preload: hides CPU features (see cpuidmask.c)
#   rtx/tensorrt_rtx    TensorRT for RTX, which builds engines without a GPU
#   PART.skipped        why that part is missing; log/PART.log: what was tried
set -euo pipefail
umask 077

PARTS="arm64 adb ssh mask rtx"
CPUS="cortex-a72 cortex-a76 i8mm"
VERSION=1 # raise it when parts that are already there must be made again

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(cd "$here/../.." && pwd)
D=${EDGEPRESS_TEST_DEVICES:-$checkout/.devices}
mkdir -p "$D/log"
D=$(cd "$D" && pwd)

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "this machine has no $tool"
    done
}

# The releases of this system that apt here may use: "deb URL RELEASE COMPONENT" lines.
mirrors() {
    local codename
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    [ -n "$codename" ] || die "/etc/os-release names no release of a Debian system"
    apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v r="$codename" '$2 == r || $2 == r "-updates" || $2 == r "-security" {print "deb", $1, $2, $3}' |
        grep ' main$' | sort -u
}

# Writes apt's configuration for one architecture into folder $1: state, lists and cache of its own, no hooks.
apt_folder() {
    local folder=$1 arch=$2 status=$3 keyring=/usr/share/keyrings/debian-archive-keyring.gpg sources
    mkdir -p "$folder"/{state/lists/partial,cache/archives/partial,log}
    sources=$(mirrors)
    [ -n "$sources" ] || die "apt here knows no mirror of this release"
    [ ! -f "$keyring" ] || sources=${sources//deb http/deb [signed-by=$keyring] http}
    printf '%s\n' "$sources" >"$folder/sources.list"
    {
        apt-config dump | grep '^Acquire::' || true # proxies and certificates of this machine
        cat <<END
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "$folder/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "$folder/state";
Dir::State::status "$status";
Dir::Cache "$folder/cache";
Dir::Log "$folder/log";
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
Debug::NoLocking "true";
END
    } >"$folder/apt.conf"
    APT_CONFIG="$folder/apt.conf" apt-get -q update
}

# Downloads packages and what they depend on that $status lacks: apt_packages FOLDER NAME...
apt_packages() {
    local folder=$1
    shift
    APT_CONFIG="$folder/apt.conf" apt-get -q --download-only --reinstall install "$@"
}

unpack() { # unpack APT_FOLDER INTO
    local deb
    for deb in "$1"/cache/archives/*.deb; do
        dpkg -x "$deb" "$2"
    done
}

# apt for packages of this machine's own kind: resolves against what is installed here, and only reads that.
host_apt() {
    need apt-get apt-config dpkg dpkg-deb
    local status
    status=$(apt-config shell S Dir::State::status/f | sed -e "s/^S='//" -e "s/'\$//")
    apt_folder "$1" "$(dpkg --print-architecture)" "$status"
}

cpuinfo() { # what a board with that CPU says in /proc/cpuinfo: onnxruntime chooses kernels by it
    local base='fp asimd evtstrm crc32 cpuid' part revision features n
    local dot="$base aes pmull sha1 sha2 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
    case $1 in
    cortex-a72) part=0xd08 revision=3 features=$base ;;
    cortex-a76) part=0xd0b revision=1 features=$dot ;;
    i8mm) part=0xd4f revision=0 features="$dot jscvt fcma sha3 sha512 asimdfhm dit uscat ilrcpc flagm i8mm bf16" ;;
    *) die "no CPU $1" ;;
    esac
    for n in 0 1; do
        printf 'processor\t: %d\nBogoMIPS\t: 108.00\nFeatures\t: %s\n' "$n" "$features"
        printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n'
        printf 'CPU part\t: %s\nCPU revision\t: %s\n\n' "$part" "$revision"
    done
}

make_arm64() {
    need apt-get apt-config dpkg dpkg-deb tar
    local out=$1 python packages cpu emulated entry
    [ "$(uname -m)" = x86_64 ] || die "qemu-user is set up on x86-64 machines only; this one is $(uname -m)"
    host_apt "$out/apt-host"
    apt_packages "$out/apt-host" qemu-user-static
    unpack "$out/apt-host" "$out/host"
    cp "$out"/host/usr/bin/qemu-aarch64-static "$out/qemu-aarch64" 2>/dev/null ||
        cp "$out"/host/usr/bin/qemu-aarch64 "$out/qemu-aarch64"

    : >"$out/none"
    apt_folder "$out/apt-arm64" arm64 "$out/none"
    apt_packages "$out/apt-arm64" python3-minimal libpython3-stdlib libstdc++6 libgcc-s1
    unpack "$out/apt-arm64" "$out/root"
    python=$(basename "$(readlink "$out/root/usr/bin/python3")")
    packages="$out/root/usr/local/lib/$python/dist-packages"
    "$(pip_python)" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
        --python-version "${python#python}" --implementation cp --constraint "$checkout/constraints.txt" \
        --target "$packages" onnxruntime numpy
    rm -rf "$out"/apt-* "$out/host" "$out/none"

    for cpu in $CPUS; do # qemu looks below its -L folder first, so each CPU has one of its own
        mkdir -p "$out/$cpu/proc"
        cpuinfo "$cpu" >"$out/$cpu/proc/cpuinfo"
        for entry in "$out"/root/*; do
            ln -s "../root/${entry##*/}" "$out/$cpu/${entry##*/}"
        done
        emulated=$cpu
        [ "$cpu" != i8mm ] || emulated=max,sve=off,sme=off
        cat >"$out/python-$cpu" <<END
#!/bin/sh
here=\$(cd "\$(dirname "\$0")" && pwd)
export ORT_DISABLE_TELEMETRY=1
exec "\$here/qemu-aarch64" -L "\$here/$cpu" -cpu $emulated "\$here/root/usr/bin/$python" "\$@"
END
        chmod +x "$out/python-$cpu"
        [ "$("$out/python-$cpu" -I -c 'import platform, onnxruntime, numpy; print(platform.machine())')" = aarch64 ] ||
            die "Python under $cpu does not say aarch64"
    done
}

pip_python() {
    if [ -x "$checkout/.venv/bin/python" ]; then echo "$checkout/.venv/bin/python"; else command -v python3; fi
}

wrapper() { # wrapper FILE PROGRAM FOLDER: runs PROGRAM (below the folder of FILE) with the libraries in FOLDER
    local libraries='' found
    while IFS= read -r found; do
        libraries="$libraries\$here/root${found#"$3"}:"
    done < <(find "$3" \( -name '*.so' -o -name '*.so.*' \) -printf '%h\n' | sort -u)
    cat >"$1" <<END
#!/bin/sh
here=\$(cd "\$(dirname "\$0")" && pwd)
exec env LD_LIBRARY_PATH="${libraries%:}\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" "\$here/root$2" "\$@"
END
    chmod +x "$1"
}

make_adb() {
    local out=$1
    host_apt "$out/apt"
    apt_packages "$out/apt" adb
    unpack "$out/apt" "$out/root"
    rm -rf "$out/apt"
    local program
    program=$(cd "$out/root" && find . -name adb -type f -perm -u+x | head -n 1)
    [ -n "$program" ] || die "the package adb holds no adb"
    wrapper "$out/adb" "${program#.}" "$out/root"
    "$out/adb" version
}

make_ssh() {
    local out=$1
    host_apt "$out/apt"
    apt_packages "$out/apt" openssh-server openssh-client
    unpack "$out/apt" "$out/root"
    rm -rf "$out/apt"
    wrapper "$out/sshd" /usr/sbin/sshd "$out/root"
    wrapper "$out/keygen" /usr/bin/ssh-keygen "$out/root"
    wrapper "$out/ssh" /usr/bin/ssh "$out/root"
    "$out/ssh" -V
    { "$out/sshd" "-?" 2>&1 || true; } | grep -i openssh # it has no --version that ends well
}

make_rtx() {
    "$(pip_python)" -m pip install --quiet --disable-pip-version-check --target "$1" tensorrt-rtx
    [ -d "$1/tensorrt_rtx" ] || die "the package tensorrt-rtx holds no module tensorrt_rtx"
}

make_mask() {
    local out=$1
    [ "$(uname -m)" = x86_64 ] || die "the mask is for x86-64; this machine is $(uname -m)"
    grep -qw cpuid_fault /proc/cpuinfo || die "this CPU or its hypervisor has no cpuid_fault, which the mask needs"
    need gcc
    gcc -O2 -Wall -Wextra -Werror -shared -fPIC -o "$out/cpuidmask.so" "$here/cpuidmask.c"
}

one_part() { # in a shell of its own, so that `set -e` holds in it
    local part=$1
    rm -rf "$D/$part" "$D/$part.partial"
    mkdir -p "$D/$part.partial"
    "make_$part" "$D/$part.partial"
    printf '%s\n' "$VERSION" >"$D/$part.partial/version"
    mv "$D/$part.partial" "$D/$part"
}

ready() {
    [ -f "$D/$1/version" ] && [ "$(cat "$D/$1/version")" = "$VERSION" ] || return 1
    [ "$1" != mask ] || [ "$D/mask/cpuidmask.so" -nt "$here/cpuidmask.c" ]
}

if [ "${1:-}" = --make ]; then
    one_part "$2"
    exit
fi

exec 9>"$D/lock"
flock 9 # two calls make nothing twice
table=''
for part in ${1:-$PARTS}; do
    case " $PARTS " in *" $part "*) ;; *) die "no part is called $part; there are: $PARTS" ;; esac
    if ready "$part"; then
        rm -f "$D/$part.skipped"
        table+="ready    $part"$'\n'
    elif echo "making $part ..." >&2 && bash "${BASH_SOURCE[0]}" --make "$part" >"$D/log/$part.log" 2>&1 9>&-; then
        rm -f "$D/$part.skipped"
        table+="made     $part"$'\n'
    else
        rm -rf "$D/$part.partial"
        grep -v '^\(WARNING\|W:\)' "$D/log/$part.log" | tail -n 1 >"$D/$part.skipped" || true
        table+="SKIPPED  $part: $(cat "$D/$part.skipped") (all of it: $D/log/$part.log)"$'\n'
    fi
done
printf '\ndevices for the tests, in %s:\n%s' "$D" "$table"
