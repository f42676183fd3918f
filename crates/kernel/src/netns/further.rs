//! A further link of a workload: what has its addresses leaves by it, whatever the first link's default route says.
//!
//! Each host checks sources by link, so that an answer which left by another link than its address's would be dropped.
//! The kernel chooses the way by destination alone unless a rule says otherwise (net/ipv4/fib_rules.c): one rule for each
//! address leads to a table of the link, which holds its default route. The same route is in the main table with a worse
//! metric, for the day that the first link goes.

use crate::Error;
use crate::link::family_number;
use crate::netlink::{Message, Received, Socket};
use crate::routes::{RouteEntry, wire_metric};
use lasthop_net::{Family, IfIndex, Metric, Prefix, RouteProtocol, TableId};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The tables of further links: this and the link's index.
const TABLES: u32 = 76_000;
/// The metric, in the main table, of further links' default routes: this and the link's index.
const METRIC: u32 = 4096;
/// Of our rules: before the main table's (32766).
const PRIORITY: u32 = 7600;

/// Length of `struct fib_rule_hdr` and of `struct rtmsg`.
const HEADER: usize = 12;
/// The gateway is on the link, whatever routes say (include/uapi/linux/rtnetlink.h).
const RTNH_F_ONLINK: u32 = 4;
// include/uapi/linux/fib_rules.h
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;

/// A link that is not the first, in one family.
#[derive(Clone, Debug)]
pub(super) struct Further {
    pub(super) link: IfIndex,
    pub(super) gateway: IpAddr,
    /// Its addresses of the gateway's family.
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// Whether the main table's route of this prefix, with the best metric, is another link's.
pub(super) fn is_taken(socket: &mut Socket, prefix: Prefix, link: IfIndex) -> Result<bool, Error> {
    let mut fixed = [0; HEADER];
    fixed[0] = family_number(prefix.family());
    let request = Message::new(libc::RTM_GETROUTE, 0).fixed(&fixed);
    let best = wire_metric(prefix.family(), Metric(0));
    let same = |entry: &RouteEntry| entry.prefix == prefix && entry.table == TableId::MAIN && entry.metric == best;
    let replies = socket.dump(&request, "list the workload's routes")?;
    Ok(replies.iter().filter_map(RouteEntry::parse).any(|entry| same(&entry) && !entry.uses(link)))
}

impl Further {
    fn table(&self) -> u32 {
        TABLES + self.link.0
    }

    /// Makes it so. Doing it twice is doing it once.
    pub(super) fn set_up(&self, socket: &mut Socket) -> Result<(), Error> {
        self.put_default(socket, self.table(), 0)?;
        self.put_default(socket, TableId::MAIN.0, METRIC + self.link.0)?;
        for rule in self.rules(socket)? {
            let stale = (rule.table == self.table()) != self.addresses.contains(&rule.source);
            if stale {
                match socket.request(&rule.message(libc::RTM_DELRULE, 0), "delete a rule of a former address") {
                    Err(error) if !error.is_absent() => return Err(error),
                    _ => {}
                }
            }
        }
        for &source in &self.addresses {
            let rule = Rule { source, table: self.table() };
            let new = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
            match socket.request(&rule.message(libc::RTM_NEWRULE, new), &format!("add the rule for {source}")) {
                Err(error) if error.errno() != Some(Errno::EEXIST) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn put_default(&self, socket: &mut Socket, table: u32, metric: u32) -> Result<(), Error> {
        let mut fixed = [0; HEADER];
        fixed[0] = family_number(Family::of(self.gateway));
        fixed[5..8].copy_from_slice(&[libc::RTPROT_BOOT, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST]);
        fixed[8..].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
        let put = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        let mut request = Message::new(libc::RTM_NEWROUTE, put).fixed(&fixed);
        request.put_u32(libc::RTA_TABLE, table).put_u32(libc::RTA_OIF, self.link.0);
        request.put_ip(libc::RTA_GATEWAY, self.gateway);
        if metric > 0 {
            request.put_u32(libc::RTA_PRIORITY, metric);
        }
        socket.request(&request, &format!("add the default route of a further link to table {table}")).map(drop)
    }

    /// The rules of ours in this family.
    fn rules(&self, socket: &mut Socket) -> Result<Vec<Rule>, Error> {
        let mut fixed = [0; HEADER];
        fixed[0] = family_number(Family::of(self.gateway));
        let request = Message::new(libc::RTM_GETRULE, 0).fixed(&fixed);
        Ok(socket.dump(&request, "list the workload's rules")?.iter().filter_map(Rule::parse).collect())
    }
}

/// `from SOURCE lookup TABLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    source: IpAddr,
    table: u32,
}

impl Rule {
    fn message(self, kind: u16, flags: u16) -> Message {
        let family = Family::of(self.source);
        let mut fixed = [0; HEADER];
        (fixed[0], fixed[2], fixed[7]) = (family_number(family), family.bits(), FR_ACT_TO_TBL);
        let mut request = Message::new(kind, flags).fixed(&fixed);
        request.put_ip(FRA_SRC, self.source).put_u32(FRA_PRIORITY, PRIORITY).put_u32(FRA_TABLE, self.table);
        request.put_u8(FRA_PROTOCOL, RouteProtocol::DIRECT.0);
        request
    }

    /// One of ours.
    fn parse(message: Received<'_>) -> Option<Self> {
        let attributes = message.attributes(HEADER);
        let ours = attributes.get(FRA_PROTOCOL)?.u8()? == RouteProtocol::DIRECT.0;
        let rule = Self { source: attributes.get(FRA_SRC)?.ip()?, table: attributes.get(FRA_TABLE)?.u32()? };
        (ours && attributes.get(FRA_PRIORITY)?.u32()? == PRIORITY).then_some(rule)
    }
}
