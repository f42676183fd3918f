//! What a speaker and its peers are told. Plain values: who makes them need know nothing of the protocol.
//!
//! Each field says what a change of it does to a session that is up ([`Effect`]). The declarations stand in
//! [`SpeakerConfig::FIELDS`] and [`PeerConfig::FIELDS`]; a field without one does not compile.

mod fields;
mod peer;

pub use crate::policy::{
    Community, Lengths, Policy, PrefixMatch, PrefixOperator, RouteChange, RouteSource, Rule, Verdict,
};
pub use fields::{Changed, Effect};
pub use peer::{
    AddPath, Admin, Auth, Bfd, BfdPath, ConnectMode, LimitAction, NextHop, PeerConfig, PrefixLimit, ReflectMode,
    RestartMode, Role, RoleMode, Secret, Switch, Ttl,
};

use lasthop_net::Asn;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// Our AS. A change resets every session.
    pub asn: Asn,
    /// Our BGP identifier (RFC 6286): unique in the AS, not zero. A change resets every session.
    pub router_id: Ipv4Addr,
    /// Set on a route reflector (RFC 4456). Hot: paths are judged and shown anew.
    pub cluster_id: Option<Ipv4Addr>,
    /// TCP port we listen on. Hot: sessions that are up stay.
    pub port: u16,
    /// The addresses we listen on; none: all of the host's. Hot: sessions that are up stay.
    pub bind: BTreeSet<IpAddr>,
    /// Graceful restart: how long peers shall keep our routes (RFC 4724 section 3; at most 4095 s). From the next session on.
    pub restart_time: Duration,
    /// After a restart, how long to wait for the peers' End-of-RIB before paths are chosen (RFC 4724 section 4.1).
    /// From the next start on.
    pub deferral: Duration,
    /// Whether we are about to go (RFC 8326): everything we announce says so, and peers look for another way. Hot.
    pub drain: Drain,
}

fields::declare!(SpeakerConfig {
    asn: Reset,
    router_id: Reset,
    cluster_id: Hot,
    port: Hot,
    bind: Hot,
    restart_time: NextSession,
    deferral: NextSession,
    drain: Hot,
});

/// Whether what we announce carries GRACEFUL_SHUTDOWN (RFC 8326 section 4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drain {
    /// It does not.
    #[default]
    No,
    /// It does, and towards internal peers LOCAL_PREF is zero.
    Yes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_field_is_named_with_its_effect() {
        let old = PeerConfig::new([10, 0, 0, 1].into(), Asn(64512));
        assert_eq!(old.changes(&old), []);
        let mut new = old.clone();
        new.asn = Asn(1);
        new.import = Policy::accept_all();
        new.hold_time = Duration::from_secs(9);
        assert_eq!(
            old.changes(&new),
            [
                Changed { field: "asn", effect: Effect::Reset },
                Changed { field: "hold_time", effect: Effect::NextSession },
                Changed { field: "import", effect: Effect::Hot },
            ]
        );
        let names: BTreeSet<&str> = PeerConfig::FIELDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), PeerConfig::FIELDS.len());
    }

    #[test]
    fn a_secret_is_never_printed() {
        let mut config = PeerConfig::new([10, 0, 0, 1].into(), Asn(64512));
        config.auth = Some(Auth::Md5(Secret::new("hunter2")));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
