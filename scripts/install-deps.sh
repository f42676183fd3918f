#!/bin/sh
# Installs the Debian packages that are missing. Without an argument what a build and the demo need, with
# "test" also what the tests talk to.
set -eu

missing() {
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
    done
}

needed="gcc libc6-dev make net-tools iproute2 iputils-ping procps"
[ "${1:-}" != test ] || needed="$needed nftables iptables ipset conntrack tcpdump iputils-arping bird2 ethtool python3-scapy \
    iperf3 netcat-openbsd ndisc6 qemu-system-x86 busybox-static strace frr gobgpd bgpdump openbgpd exabgp"

if [ "$(id -u)" != 0 ]; then
    echo "error: labs and tests make network namespaces: run as root (sudo make ...)" >&2
    exit 1
fi
if ! command -v cargo >/dev/null; then
    echo "error: there is no cargo: install Rust with 'curl https://sh.rustup.rs -sSf | sh', then open a new shell" >&2
    exit 1
fi

# shellcheck disable=SC2086 # a list of words
lacking=$(missing $needed)
if [ -n "$lacking" ]; then
    echo "installing: $(echo "$lacking" | tr '\n' ' ')"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # The tests start their own routing daemons, inside namespaces; on this machine none that comes now is started, not
    # even for a moment: its routing stays as it was.
    daemons=
    for package in $lacking; do
        case $package in
            bird2) daemons="$daemons bird" ;;
            frr | gobgpd | openbgpd | exabgp) daemons="$daemons $package" ;;
        esac
    done
    policy=/usr/sbin/policy-rc.d
    if [ -n "$daemons" ] && [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        made=$policy
        trap 'rm -f $made' EXIT
    fi
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $lacking >/dev/null
    if [ -n "$daemons" ]; then
        # shellcheck disable=SC2086
        systemctl disable --now $daemons >/dev/null 2>&1 || true
    fi
fi

# A guest kernel for the test with a real virtual machine. It is only unpacked: this system keeps its own.
unpacked=/var/cache/lasthop/vm
if [ "${1:-}" = test ] && [ "$(uname -m)" = x86_64 ] && [ -z "$(ls /boot $unpacked/boot 2>/dev/null | grep -x "vmlinuz-.*-cloud-amd64")" ]; then
    echo "fetching a guest kernel (linux-image-cloud-amd64)"
    work=$(mktemp -d)
    trap 'rm -rf "$work" ${made:-}' EXIT
    chmod 755 "$work"
    image=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
    (cd "$work" && apt-get download -qq "$image" 2>/dev/null && mkdir -p $unpacked && dpkg -x ./*.deb $unpacked)
fi
