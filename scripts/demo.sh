#!/bin/sh
# The main job, shown: brings the reference network up, reads it, pings it, moves a workload.
# usage: demo.sh PROGRAM LAB
set -eu
program=$1
lab=$2
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi

title() { printf '\n%s== %s%s\n' "$bold" "$1" "$plain"; }
lab() { "$program" lab --name "$lab" "$@"; }
inside() { part=$1; shift; lab exec "$part" -- "$@"; }

if "$program" lab status --name "$lab" >/dev/null 2>&1; then
    title "A lab '$lab' is there from before: taking it down"
    lab down
fi

title "Bringing up three hosts, a route reflector, four workloads, a gateway and an Internet"
lab up

title "compute-1: what 'route -n' prints"
inside compute-1 route -n
cat <<'TEXT'

  10.65.0.24 is this host's own workload, behind a TAP: the host is the last IP hop before it.
  10.65.0.21, .22, .23 are on other hosts: the gateway is the host, never the workload, learned by BGP.
  10.65.0.0/16 is the leg of a DHCP service; the /32 routes win over it.
TEXT

title "compute-2 and compute-3: each has its own workloads on a link, all others behind their hosts"
inside compute-2 route -n
echo
inside compute-3 route -n
cat <<'TEXT'

  10.65.0.0/16 with '!' is a dead end: a pool address that no host has goes nowhere, and never in circles.
TEXT

title "w21, a workload: it knows only its host, and the host's MAC address is the answer to whatever it asks for"
inside w21 route -n
inside w21 ping -n -q -c 1 -W 2 10.65.0.24 | grep received || true
inside w21 ip neigh show

title "BGP: every host has one session, with the reflector"
for host in compute-1 compute-2 compute-3; do
    echo "$host:"
    inside $host lasthop bgp peers
done

title "Why compute-1 sends 10.65.0.21 where it does"
inside compute-1 lasthop bgp why 10.65.0.21/32 || true

title "Everyone pings everyone, and the Internet"
lab ping

title "w21 moves from compute-2 to compute-3 and keeps its address"
lab move w21 compute-3
inside compute-1 route -n | grep -E 'Destination|10\.65\.0\.21 '
lab ping | tail -n 1

title "One host on one screen"
inside compute-1 lasthop status

flag='' down='make lab-down'
[ "$lab" = lasthop ] || flag=" --name $lab" down="make lab-down LAB=$lab"
title "The lab is up. Try next:"
cat <<TEXT
  $program lab$flag kill compute-1 agent      end an agent: packets keep flowing; 'start compute-1 agent' brings it back
  $program lab$flag exec compute-1 -- ip route del 10.65.0.24      it is back before you look
  $program lab$flag exec w22 -- ping 10.65.0.24
  $program lab$flag exec compute-1 -- bash      look around: lasthop status, lasthop routes, lasthop bgp paths
  $program lab up --topology dual --name other  IPv4 and IPv6, beside this one

Take it down:
  $down       (or: $program lab$flag down)
TEXT
