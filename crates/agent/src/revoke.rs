//! Ending connections that a change of policy denies (`revokeConnections: DeniedFlows`).
//!
//! Established packets are accepted before policy is asked, so a connection that policy would not allow any more goes on until
//! it is taken out of connection tracking. Exactly those are that policy, as it is now, denies at a workload of this host.

use crate::run::Agent;
use lasthop_compute::{Desired, Route};
use lasthop_kernel::conntrack::{Connection, delete_where};
use lasthop_model::Revoke;
use lasthop_net::{IfName, Prefix};
use lasthop_policy::decide::{Packet, Verdict, decide};
use lasthop_policy::ir::{Direction, PolicyChanges};
use std::collections::BTreeSet;
use std::net::IpAddr;

impl Agent {
    /// Ends what the change denies, if the settings say so.
    pub(crate) fn revoke(&mut self, changes: &PolicyChanges) {
        if self.engine.settings().revoke != Revoke::DeniedFlows || *changes == PolicyChanges::default() {
            return;
        }
        // Packets of the host itself reach its workloads whatever policy says.
        let own: BTreeSet<IpAddr> = self.own_interfaces().into_values().flatten().collect();
        let desired = self.engine.desired();
        match delete_where(|connection| is_denied(desired, &own, connection)) {
            Ok(0) => {}
            Ok(ended) => tracing::info!(ended, "connections that policy denies now"),
            Err(error) => tracing::warn!(%error, "connections that policy denies now may go on"),
        }
    }
}

/// Whether policy as it is now denies the first packet of a connection at a workload of this host.
fn is_denied(desired: &Desired, own: &BTreeSet<IpAddr>, connection: &Connection) -> bool {
    let packet = &connection.judged;
    if own.contains(&packet.source) {
        return false;
    }
    denies(desired, packet.source, Direction::Egress, packet)
        || denies(desired, packet.destination, Direction::Ingress, packet)
}

fn denies(desired: &Desired, workload: IpAddr, direction: Direction, packet: &Packet) -> bool {
    let Some(link) = link_of(desired, workload) else { return false };
    let Some(policy) = desired.policy.workloads.get(link) else { return false };
    let stack = match direction {
        Direction::Egress => policy.from,
        Direction::Ingress => policy.to,
    };
    let stack = desired.policy.stacks.get(&stack);
    stack.is_some_and(|stack| decide(stack, &desired.policy, packet).verdict == Verdict::Deny)
}

fn link_of(desired: &Desired, address: IpAddr) -> Option<&IfName> {
    match desired.routes.get(&Prefix::host(address)) {
        Some(Route::Direct { link }) => Some(link),
        _ => None,
    }
}
