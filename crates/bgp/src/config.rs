//! What a speaker and its peers are told.

use lasthop_net::{Asn, Family};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// Our AS.
    pub asn: Asn,
    /// Our BGP identifier (RFC 6286): unique in the AS, not zero.
    pub router_id: Ipv4Addr,
    /// Set on a route reflector (RFC 4456).
    pub cluster_id: Option<Ipv4Addr>,
    /// TCP port we listen on.
    pub port: u16,
    /// Graceful restart: how long peers shall keep our routes (RFC 4724 section 3; at most 4095 s).
    pub restart_time: Duration,
    /// After a restart, how long to wait for the peers' End-of-RIB before paths are chosen (RFC 4724 section 4.1).
    pub deferral: Duration,
}

/// A peer. The key of a peer is its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its address.
    pub address: IpAddr,
    /// Its TCP port.
    pub port: u16,
    /// Its AS; equal to ours (or `local_asn`) for iBGP.
    pub asn: Asn,
    /// Our AS in this session, if not the speaker's.
    pub local_asn: Option<Asn>,
    /// The address we connect from and are expected at. `None` leaves it to the kernel.
    pub local_address: Option<IpAddr>,
    /// Our next hops towards it, by family; where a family has none, `local_address` if it is of that family.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// See `next_hop_v4`.
    pub next_hop_v6: Option<std::net::Ipv6Addr>,
    /// Who opens the connection.
    pub connect: ConnectMode,
    /// Whether we reflect for it (RFC 4456).
    pub reflect: ReflectMode,
    /// What next hop we announce.
    pub next_hop: NextHop,
    /// Families offered (RFC 4760).
    pub families: BTreeSet<Family>,
    /// Hold time offered: zero, or at least 3 s (RFC 4271 section 4.2).
    pub hold_time: Duration,
}

/// Who opens the TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectMode {
    /// Both sides try; collisions are resolved (RFC 4271 section 6.8).
    #[default]
    Active,
    /// Only the peer does.
    Passive,
}

/// Whether an iBGP peer is our route-reflection client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReflectMode {
    /// A plain peer.
    #[default]
    NonClient,
    /// Our client.
    Client,
}

/// What next hop is announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NextHop {
    /// RFC 4271 section 5.1.3: ourselves for own routes and towards eBGP; unchanged when reflected.
    #[default]
    Auto,
    /// Always ourselves (never on reflected routes, RFC 4456 section 8).
    OurSelf,
    /// Never changed.
    Keep,
}
