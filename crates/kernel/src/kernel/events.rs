//! What others do to the namespace, and what the kernel does by itself.

use super::Kernel;
use crate::link::{self, Admin, LinkChange, LinkState};
use crate::neighbours::{Entry, Neighbour};
use crate::netlink::Received;
use crate::routes::{RTM_DELNEXTHOP, RTM_NEWNEXTHOP};
use crate::settings;
use lasthop_compute::Sysctl;
use lasthop_net::{IfIndex, IfName, Prefix};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Something happened that may concern us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// A link came, went or changed.
    Link {
        /// Its name.
        name: IfName,
        /// What happened.
        change: LinkChange,
    },
    /// A route of ours was changed or taken away, or got company.
    Route(Prefix),
    /// A permanent neighbour entry of ours was changed or taken away.
    Neighbour(IfName, IpAddr),
    /// A setting that we keep was changed.
    Setting(Sysctl),
    /// An address came or went.
    Address(IfName),
    /// A policy rule came or went.
    Rule,
    /// A link's ARP and ND responder was changed or taken away.
    Responder(IfName),
    /// Our nftables table was changed.
    Nft,
    /// Our chains or sets of iptables were changed.
    Iptables,
    /// Announcements were lost: read everything back.
    Overrun,
}

impl KernelEvent {
    /// What of ours somebody else changed, in words; `None` if the event is in the way of things.
    #[must_use]
    pub fn drift(&self) -> Option<String> {
        match self {
            Self::Route(prefix) => Some(format!("route {prefix}")),
            Self::Neighbour(link, address) => Some(format!("neighbour {address} on {link}")),
            Self::Setting(setting) => Some(format!("setting {setting}")),
            Self::Responder(link) => Some(format!("ARP responder on {link}")),
            Self::Nft => Some("nftables table inet lasthop".to_owned()),
            Self::Iptables => Some("chains or sets of iptables".to_owned()),
            Self::Link { .. } | Self::Address(_) | Self::Rule | Self::Overrun => None,
        }
    }
}

/// Links that took things with them, gathered so that a thousand of them cost one look at the tables.
#[derive(Default)]
struct Lost {
    down: BTreeSet<IfIndex>,
    carrier: BTreeSet<IfIndex>,
}

impl Kernel {
    /// Takes in all that was announced.
    pub(super) fn take_in(&mut self) {
        let mut lost = Lost::default();
        loop {
            match self.watch.route() {
                Ok(replies) if replies.is_empty() => break,
                Ok(replies) => {
                    for message in replies.iter() {
                        self.take_in_one(message, &mut lost);
                    }
                }
                Err(error) => {
                    // An overrun, or something that cannot be read: in either case we have missed something.
                    tracing::warn!(%error, "announcements of the kernel were lost");
                    self.queue.push_back(KernelEvent::Overrun);
                    break;
                }
            }
        }
        self.settle(&mut lost);
        self.take_in_guard();
        if std::mem::take(&mut self.reread_routes) {
            match self.routes.read_back() {
                Ok(changed) => self.queue.extend(changed.into_iter().map(KernelEvent::Route)),
                Err(error) => {
                    tracing::warn!(%error, "cannot read the routes back");
                    self.queue.push_back(KernelEvent::Overrun);
                }
            }
        }
    }

    /// Concludes what went with the links that went.
    fn settle(&mut self, lost: &mut Lost) {
        let Lost { down, carrier } = std::mem::take(lost);
        if !down.is_empty() || !carrier.is_empty() {
            self.routes.links_lost(&down, &carrier);
        }
    }

    fn take_in_one(&mut self, message: Received<'_>, lost: &mut Lost) {
        match message.kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => {
                let index = link::index_of(message);
                if message.kind == libc::RTM_DELLINK {
                    lost.down.extend(index);
                }
                for (name, change) in self.links.observe(message) {
                    match change {
                        LinkChange::Down => lost.down.extend(index),
                        LinkChange::CarrierDown => lost.carrier.extend(index),
                        _ => {}
                    }
                    self.note_link(&name, change);
                }
            }
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
                if message.kind == libc::RTM_NEWROUTE {
                    // What came after a link went has not gone with it.
                    self.settle(lost);
                }
                self.queue.extend(self.routes.observe_route(message).map(KernelEvent::Route));
            }
            RTM_NEWNEXTHOP | RTM_DELNEXTHOP => {
                self.settle(lost);
                self.queue.extend(self.routes.observe_next_hop(message).into_iter().map(KernelEvent::Route));
            }
            libc::RTM_NEWADDR | libc::RTM_DELADDR => self.note_address(message),
            libc::RTM_NEWRULE | libc::RTM_DELRULE => {
                self.routes.ways_changed();
                self.queue.push_back(KernelEvent::Rule);
            }
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => self.note_neighbour(message),
            libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER | libc::RTM_DELQDISC => {
                self.queue.extend(self.guards.observe(message, &self.links).map(KernelEvent::Responder));
            }
            libc::RTM_NEWNETCONF => self.note_settings(message),
            _ => {}
        }
    }

    /// A link came, went or changed.
    pub(super) fn note_link(&mut self, name: &IfName, change: LinkChange) {
        self.marks.recheck([name.clone()]);
        self.guards.recheck([name.clone()]);
        match change {
            // Neighbour entries, too, go when a link goes down (neigh_ifdown).
            LinkChange::Down | LinkChange::MacChanged => self.forget_neighbours(name),
            LinkChange::Gone => {
                self.guards.forget_link(name);
                self.forget_neighbours(name);
                self.forget_settings(name);
            }
            LinkChange::Renamed => {
                self.guards.forget_link(name);
                self.forget_settings(name);
            }
            LinkChange::Appeared => {
                self.guards.forget_link(name);
                self.forget_neighbours(name);
                self.forget_settings(name);
                self.link_usable(name);
            }
            LinkChange::Up | LinkChange::CarrierUp => self.link_usable(name),
            LinkChange::CarrierDown | LinkChange::Changed => {}
        }
        self.queue.push_back(KernelEvent::Link { name: name.clone(), change });
    }

    fn forget_settings(&mut self, name: &IfName) {
        for setting in settings::of_link(self.settings.actual(), name) {
            self.settings.observe(setting, None);
        }
        self.settings.table().forget_link(name);
    }

    pub(super) fn forget_neighbours(&mut self, name: &IfName) {
        let first = (name.clone(), IpAddr::from([0, 0, 0, 0]));
        let range = self.neighbours.actual().range(first..);
        let keys: Vec<_> = range.map(|(key, _)| key).take_while(|(link, _)| link == name).cloned().collect();
        for key in keys {
            self.neighbours.observe(key, None);
        }
    }

    /// What waited for a link to come, or to come up, is looked at by the next passes.
    pub(super) fn link_usable(&mut self, name: &IfName) {
        let workload = self.links.get(name).is_some_and(LinkState::is_marked);
        self.routes.link_usable(name);
        if !workload && self.links.get(name).is_some_and(|link| link.admin == Admin::Up) {
            self.routes.ways_changed();
        }
        if let Some(waiting) = self.waiting.remove(name) {
            self.neighbours.recheck(waiting.neighbours);
            self.settings.recheck(waiting.settings);
        }
    }

    /// An address came or went.
    fn note_address(&mut self, message: Received<'_>) {
        let Some(&[family, _, _, scope, i0, i1, i2, i3]) = message.fixed::<8>() else { return };
        let index = IfIndex(u32::from_ne_bytes([i0, i1, i2, i3]));
        let Some(name) = self.links.name(index).cloned() else { return };
        if scope == libc::RT_SCOPE_LINK && i32::from(family) == libc::AF_INET6 {
            return;
        }
        self.routes.ways_changed();
        // With its last IPv4 address a link loses all its IPv4 routes, without a word (fib_disable_ip).
        let silent = message.kind == libc::RTM_DELADDR && i32::from(family) == libc::AF_INET;
        if silent && self.routes.uses(index) {
            self.reread_routes = true;
        }
        self.queue.push_back(KernelEvent::Address(name));
    }

    fn note_neighbour(&mut self, message: Received<'_>) {
        if message.port == self.neighbours.table_ref().port() {
            return;
        }
        let Some(entry) = Entry::parse(message) else { return };
        let Some(name) = self.links.name(entry.link) else { return };
        let key = (name.clone(), entry.address);
        if !self.neighbours.actual().contains_key(&key) {
            return;
        }
        let value = entry.permanent.filter(|_| message.kind == libc::RTM_NEWNEIGH);
        let value = value.map(|mac| Neighbour { link: entry.link, mac });
        if self.neighbours.observe(key.clone(), value) {
            self.queue.push_back(KernelEvent::Neighbour(key.0, key.1));
        }
    }

    /// Forwarding, reverse path filter and proxying are announced; other settings only show when read.
    fn note_settings(&mut self, message: Received<'_>) {
        let Some((index, values)) = settings::parse_netconf(message) else { return };
        let link = match index {
            -1 => "all".to_owned(),
            -2 => "default".to_owned(),
            index => match self.links.name(IfIndex(index.cast_unsigned())) {
                Some(name) => name.to_string(),
                None => return,
            },
        };
        for (pattern, value) in values {
            let path = pattern.replace('*', &link);
            let mut keys = vec![Sysctl::at(&path)];
            if path == "net/ipv4/conf/all/forwarding" {
                keys.push(Sysctl::at("net/ipv4/ip_forward"));
            }
            for key in keys {
                // Our own writes are announced, too, and what was announced may have changed since.
                if self.settings.actual().get(&key).is_none_or(|known| *known == value) {
                    continue;
                }
                if let Ok(now) = settings::read(&key)
                    && self.settings.observe(key.clone(), now)
                {
                    self.queue.push_back(KernelEvent::Setting(key));
                }
            }
        }
    }
}
