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
    iperf3 netcat-openbsd ndisc6 qemu-system-x86 busybox-static strace frr gobgpd openbgpd"

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
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $lacking >/dev/null
    # The tests start their own BIRD, inside namespaces; this machine's own routing stays as it was.
    case " $(echo "$lacking" | tr '\n' ' ') " in
        *" bird2 "* | *" frr "* | *" gobgpd "* | *" openbgpd "*) systemctl disable --now bird frr gobgpd openbgpd >/dev/null 2>&1 || true ;;
    esac
fi

# A guest kernel for the test with a real virtual machine. It is only unpacked: this system keeps its own.
unpacked=/var/cache/lasthop/vm
if [ "${1:-}" = test ] && [ "$(uname -m)" = x86_64 ] && [ -z "$(ls /boot $unpacked/boot 2>/dev/null | grep -x "vmlinuz-.*-cloud-amd64")" ]; then
    echo "fetching a guest kernel (linux-image-cloud-amd64)"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    image=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
    (cd "$work" && apt-get download -qq "$image" 2>/dev/null && mkdir -p $unpacked && dpkg -x ./*.deb $unpacked)
fi
