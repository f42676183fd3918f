//! The evaluator as an engine: it knows every answer, and why.

use super::{Answer, Case, Engine};
use lasthop_policy::decide::Verdict;
use lasthop_policy::ir::Direction;
use lasthop_policy::journey::{Network, Party, Question};

/// Asks `lasthop_policy` what becomes of each probe.
#[derive(Debug)]
pub struct Evaluator;

impl Engine for Evaluator {
    fn judge(&mut self, case: &Case) -> anyhow::Result<Vec<Answer>> {
        let network = Network::new(&case.world, case.sites.clone());
        let answers = case.probes.iter().map(|probe| {
            let question = Question {
                from: probe.from.clone(),
                to: probe.to.clone(),
                packet: probe.packet,
                before_dnat: probe.before_dnat,
            };
            let journey = network.journey(&question);
            let own = |party: &Party, direction| match party {
                Party::Workload(key) => network.at_workload(key, direction, &probe.packet),
                Party::Host(_) | Party::Outside => None,
            };
            let allows = |party, direction| own(party, direction).map(|decision| decision.verdict == Verdict::Allow);
            let mut why: Vec<String> = journey.hops.iter().map(ToString::to_string).collect();
            if journey.verdict == Verdict::GoOn {
                let word = if case.host_accepts { "allowed" } else { "denied" };
                why.push(format!("{word} by the rest of the host's firewall"));
            }
            Answer {
                arrives: Some(match journey.verdict {
                    Verdict::Allow => true,
                    Verdict::Deny => false,
                    Verdict::GoOn => case.host_accepts,
                }),
                egress: allows(&probe.from, Direction::Egress),
                ingress: allows(&probe.to, Direction::Ingress),
                why: why.join("; "),
            }
        });
        Ok(answers.collect())
    }
}
