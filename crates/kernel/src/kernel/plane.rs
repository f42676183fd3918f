//! Which dataplane carries guard and policy: nftables, or iptables and ipset.
//!
//! A host moves from one to the other without ever being without: the new one is put up beside the old one (a packet has to
//! pass both), and the old one goes once policy is in force in the new one.

use super::Kernel;
use super::guard::Guards;
use crate::Error;
use crate::iptables::{Backend, Config, Iptables};

/// What carries guard and policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dataplane {
    /// nftables.
    #[default]
    Nft,
    /// iptables and ipset.
    Iptables(Backend),
}

/// What a host moves away from.
#[derive(Debug)]
pub(super) enum Leaving {
    Nft,
    Iptables(Box<Iptables>),
}

impl Kernel {
    /// Has guard and policy carried by this from the next passes on, all of which have to be made. What carried them before
    /// goes with the first pass over policy.
    pub fn use_dataplane(&mut self, dataplane: Dataplane) -> Result<(), Error> {
        self.guards.move_to(dataplane)
    }
}

impl Guards {
    fn move_to(&mut self, dataplane: Dataplane) -> Result<(), Error> {
        if self.dataplane == dataplane {
            return Ok(());
        }
        let new = match dataplane {
            Dataplane::Nft => None,
            Dataplane::Iptables(backend) => {
                let mut iptables = Iptables::new(Config::find(backend)?);
                iptables.read_back()?;
                Some(Box::new(iptables))
            }
        };
        self.leave()?;
        self.leaving = Some(std::mem::replace(&mut self.iptables, new).map_or(Leaving::Nft, Leaving::Iptables));
        self.dataplane = dataplane;
        self.read_table()
    }

    /// Takes away what the host has moved away from.
    pub(super) fn leave(&mut self) -> Result<(), Error> {
        let result = match &mut self.leaving {
            None => Ok(()),
            Some(Leaving::Nft) => self.nft.remove_all(),
            // Another backend of iptables asks the same sets.
            Some(Leaving::Iptables(old)) if self.iptables.is_some() => old.remove_chains(),
            Some(Leaving::Iptables(old)) => old.remove_all(),
        };
        if result.is_ok() {
            self.leaving = None;
        }
        result
    }

    /// Takes away everything, of either kind: whoever was here before us may have used the other.
    pub(super) fn remove_everything(&mut self) -> Result<(), Error> {
        self.leaving = None;
        self.iptables = None;
        self.dataplane = Dataplane::Nft;
        self.nft.remove_all()?;
        for backend in [Backend::Legacy, Backend::Nft] {
            // Looking at the tables of the legacy backend makes them.
            if backend == Backend::Legacy && !legacy_in_use() {
                continue;
            }
            let Ok(config) = Config::find(backend) else { continue };
            let mut iptables = Iptables::new(config);
            match iptables.read_back() {
                Ok(_) if iptables.is_absent() => {}
                Ok(_) => iptables.remove_all()?,
                Err(error) => tracing::debug!(?backend, %error, "iptables cannot be looked at"),
            }
        }
        Ok(())
    }
}

/// Whether this network namespace has tables of the legacy backend.
fn legacy_in_use() -> bool {
    let names = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
    ["ip_tables_names", "ip6_tables_names"].into_iter().any(|file| names(file).is_ok_and(|names| !names.is_empty()))
}
