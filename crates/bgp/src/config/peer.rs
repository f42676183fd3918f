//! A peer as configured.

use super::fields;
use crate::policy::Policy;
use lasthop_net::{Asn, Family, IfName};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// A peer. The key of a peer is its address; [`PeerConfig::new`] has the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its address. Another address is another peer.
    pub address: IpAddr,
    /// The link it is on; needed where its address is link-local. Reset.
    pub interface: Option<IfName>,
    /// Its TCP port. Hot: the next connection goes there.
    pub port: u16,
    /// Its AS; equal to ours (or `local_asn`) for iBGP. Reset.
    pub asn: Asn,
    /// Our AS in this session, if not the speaker's. Reset.
    pub local_asn: Option<Asn>,
    /// The address we connect from and are expected at. `None` leaves it to the kernel. Reset.
    pub local_address: Option<IpAddr>,
    /// Our next hops towards it, by family; where a family has none, `local_address` if it is of that family. Hot.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// See `next_hop_v4`. Hot.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// Who opens the connection. Hot.
    pub connect: ConnectMode,
    /// Whether we reflect for it (RFC 4456). Hot.
    pub reflect: ReflectMode,
    /// What next hop we announce. Hot.
    pub next_hop: NextHop,
    /// Families offered (RFC 4760). Reset.
    pub families: BTreeSet<Family>,
    /// Hold time offered: zero, or at least 3 s (RFC 4271 section 4.2). From the next session on.
    pub hold_time: Duration,
    /// Whether there is to be a session at all. Hot: `Down` ends it with a text for the other operator (RFC 9003).
    pub admin: Admin,
    /// What proves each segment (RFC 2385, RFC 5925). Hot: the key of the live connection is replaced, and the session
    /// survives if the peer's is replaced within the hold time.
    pub auth: Option<Auth>,
    /// How far away it may be. Hot.
    pub ttl: Ttl,
    /// How often our own AS may be in an AS_PATH it sends. Hot.
    pub allowed_own_as: u8,
    /// How many prefixes it may announce. Hot: a limit that is exceeded already acts at once.
    pub limits: BTreeMap<Family, PrefixLimit>,
    /// What is accepted from it. Hot: what it told us is judged anew.
    pub import: Policy,
    /// What is shown to it. Hot: only what differs is sent.
    pub export: Policy,
    /// What we are to it (RFC 9234), on an external session. Reset.
    pub role: Option<Role>,
    /// Whether it has to tell its role as well. Reset.
    pub role_mode: RoleMode,
    /// Whether several paths of a prefix go over the session (RFC 7911). Reset.
    pub add_path: AddPath,
    /// Whether IPv4 prefixes may have IPv6 next hops (RFC 8950). Reset.
    pub extended_next_hop: Switch,
    /// Graceful restart (RFC 4724, RFC 8538). From the next session on.
    pub restart: RestartMode,
    /// How long it shall keep our routes, if not the speaker's `restart_time`. From the next session on.
    pub restart_time: Option<Duration>,
    /// Long-lived graceful restart (RFC 9494): how long stale routes are kept after the restart time is over.
    /// From the next session on.
    pub long_lived: Option<Duration>,
    /// Whether GRACEFUL_SHUTDOWN from an external peer makes its paths the last choice (RFC 8326). Hot.
    pub graceful_shutdown: Switch,
    /// Liveness in milliseconds (RFC 5880). Hot.
    pub bfd: Option<Bfd>,
}

fields::declare!(PeerConfig {
    address: Reset,
    interface: Reset,
    port: Hot,
    asn: Reset,
    local_asn: Reset,
    local_address: Reset,
    next_hop_v4: Hot,
    next_hop_v6: Hot,
    connect: Hot,
    reflect: Hot,
    next_hop: Hot,
    families: Reset,
    hold_time: NextSession,
    admin: Hot,
    auth: Hot,
    ttl: Hot,
    allowed_own_as: Hot,
    limits: Hot,
    import: Hot,
    export: Hot,
    role: Reset,
    role_mode: Reset,
    add_path: Reset,
    extended_next_hop: Reset,
    restart: NextSession,
    restart_time: NextSession,
    long_lived: NextSession,
    graceful_shutdown: Hot,
    bfd: Hot,
});

impl PeerConfig {
    /// A peer with nothing but defaults: both families, no policy (so nothing passes if it is external, RFC 8212).
    #[must_use]
    pub fn new(address: IpAddr, asn: Asn) -> Self {
        Self {
            address,
            interface: None,
            port: 179,
            asn,
            local_asn: None,
            local_address: None,
            next_hop_v4: None,
            next_hop_v6: None,
            connect: ConnectMode::default(),
            reflect: ReflectMode::default(),
            next_hop: NextHop::default(),
            families: Family::ALL.into(),
            hold_time: Duration::from_secs(90),
            admin: Admin::default(),
            auth: None,
            ttl: Ttl::default(),
            allowed_own_as: 0,
            limits: BTreeMap::new(),
            import: Policy::default(),
            export: Policy::default(),
            role: None,
            role_mode: RoleMode::default(),
            add_path: AddPath::default(),
            extended_next_hop: Switch::Off,
            restart: RestartMode::default(),
            restart_time: None,
            long_lived: None,
            graceful_shutdown: Switch::On,
            bfd: None,
        }
    }

    /// The same peer with everything accepted and everything shown: what a peer of one operator is given.
    #[must_use]
    pub fn trusted(self) -> Self {
        Self { import: Policy::accept_all(), export: Policy::accept_all(), ..self }
    }
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

/// Whether a session is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Admin {
    /// It is.
    #[default]
    Up,
    /// It is not, for this reason, which the peer's operator is told (RFC 9003; the first 255 octets of it).
    Down(String),
}

/// A key that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A key as the operator wrote it.
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key. Not for people.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What proves that a TCP segment is the peer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// TCP MD5 (RFC 2385): a key of 1 to 80 octets.
    Md5(Secret),
    /// TCP-AO (RFC 5925) with HMAC-SHA-1-96, where the kernel has it: a key of 1 to 80 octets, used under one number in
    /// both directions.
    Ao {
        /// The key.
        key: Secret,
        /// SendID and RecvID.
        id: u8,
    },
}

/// How far away a peer may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// What the kernel sends; any distance. For internal peers.
    #[default]
    Any,
    /// We send with this TTL: 1 for an external peer on our link, more for a multihop one.
    Hops(u8),
    /// RFC 5082: we send with 255, and drop what has come over more than so many hops (1: directly connected).
    Security(u8),
}

/// How many prefixes of a family a peer may announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLimit {
    /// The most there may be.
    pub max: u32,
    /// At how many percent of it a warning is given.
    pub warn_percent: u8,
    /// What happens above it.
    pub action: LimitAction,
}

/// What happens when a peer announces too many prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitAction {
    /// Only a warning.
    Warn,
    /// The session ends with NOTIFICATION 6/1 and is tried again after this time; `None`: when the limit is changed.
    Close(Option<Duration>),
}

/// What we are to an external peer (RFC 9234 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// We are its transit.
    Provider,
    /// We are a route server, it is a client.
    RouteServer,
    /// It is a route server, we are a client.
    RouteServerClient,
    /// It is our transit.
    Customer,
    /// Neither is the other's transit.
    Peer,
}

/// Whether a peer without a role is accepted (RFC 9234 section 4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoleMode {
    /// It is.
    #[default]
    Lenient,
    /// It is not.
    Strict,
}

/// Several paths of one prefix (RFC 7911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddPath {
    /// Whether we take them.
    pub receive: Switch,
    /// How many we send at most, best first; zero: none but the best, without the extension.
    pub send: u8,
}

/// On or off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Switch {
    /// Off.
    #[default]
    Off,
    /// On.
    On,
}

/// Our part in graceful restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartMode {
    /// None: the peer's routes go with the session.
    Off,
    /// We keep routes for a peer that restarts, and ask nothing for ourselves.
    Helper,
    /// Both.
    #[default]
    Full,
}

/// Liveness detection (RFC 5880).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// Over what.
    pub path: BfdPath,
    /// How often we send.
    pub transmit: Duration,
    /// How often we can take packets.
    pub receive: Duration,
    /// So many missing packets mean that the peer is gone.
    pub multiplier: u8,
}

/// What liveness is looked for over. Both ends must mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BfdPath {
    /// A link that both are on (RFC 5881).
    SingleHop,
    /// Routers between (RFC 5883).
    MultiHop,
}

impl Default for Bfd {
    /// 100 ms three times: gone after 300 ms. A neighbour on our link.
    fn default() -> Self {
        Self {
            path: BfdPath::SingleHop,
            transmit: Duration::from_millis(100),
            receive: Duration::from_millis(100),
            multiplier: 3,
        }
    }
}
