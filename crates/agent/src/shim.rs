//! temporary
use lasthop_compute::{Desired, Source};
use lasthop_kernel::Kernel;
use lasthop_kernel::reconcile::{Outcome, Scope};
use lasthop_net::IfName;
use std::collections::BTreeMap;
pub(crate) trait Shim {
    fn is_guarded(&self) -> bool {
        false
    }
    fn sync_skeleton(&mut self, _: &Desired) -> Outcome<String> {
        Outcome::default()
    }
    fn sync_sources(&mut self, _: &Desired, _: Scope<'_, Source>) -> Outcome<Source> {
        Outcome::default()
    }
    fn sync_endpoints(&mut self, _: &Desired, _: Scope<'_, IfName>) -> Outcome<IfName> {
        Outcome::default()
    }
    fn drops(&mut self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }
}
impl Shim for Kernel {}
