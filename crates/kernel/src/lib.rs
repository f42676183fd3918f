//! Read back, diff, apply: the only crate that makes system calls on behalf of the data path.
//!
//! ```text
//! Desired ──▶ Kernel::sync_* ──▶ Reconciler (diff) ──▶ Table::write ──▶ netlink ──▶ kernel
//!                                     ▲ actual               read_back, events ──────┘
//! ```
//!
//! * [`netlink`]: one small message builder and socket for rtnetlink, nfnetlink and tc.
//! * [`link`], [`netns`], [`sysctl`]: make and look at single objects.
//! * [`reconcile`]: one diff for every table.
//! * [`bpf`]: the responder that answers ARP and ND on workload links.
//! * [`nft`]: the table that guards workload links.
//! * [`iptables`]: the same for hosts that have to stay with iptables.
//! * [`conntrack`]: forgets the connections of an address that has left.
//! * [`Error`]: what was attempted, what the kernel said.
//!
//! Everything acts in the network namespace of the thread that opened the socket.

pub mod bpf;
pub mod conntrack;
mod error;
#[cfg(test)]
mod hostile;
pub mod iptables;
mod kernel;
pub mod link;
mod marks;
mod neighbours;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod reconcile;
pub mod routes;
mod settings;
pub mod sysctl;

pub use error::Error;
pub use kernel::{Dataplane, Kernel, KernelConfig, KernelEvent, alias};
pub use marks::Mark;
pub use neighbours::Neighbour;
