//! `lasthop explain`: what becomes of a packet, at each place that judges it, and why.

use crate::cluster::{Cluster, End, Known};
use crate::connect::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Explanation, Output};
use lasthop_net::Family;
use lasthop_policy::decide::{Packet, Transport};
use lasthop_policy::journey::{Network, Party, Place, Question};
use std::net::IpAddr;

/// Say what becomes of a packet from here to there, at each place that judges it, by which rule, and which would have allowed it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An end is a workload (NAME or NAMESPACE/NAME), host/NAME, or an address: of a workload, of a host, or of anybody else.
Asked is the first packet of a connection; its replies pass with it.

Examples:
  lasthop explain --from shop/web --to shop/db --port 5432
  lasthop explain --from 203.0.113.7 --to shop/web --port 443 -f manifests/
  lasthop explain --from shop/web --to host/compute-1 --proto icmp -o json")]
pub(crate) struct Args {
    /// Who sends
    #[arg(long, value_name = "END")]
    from: String,
    /// Who receives
    #[arg(long, value_name = "END")]
    to: String,
    #[command(flatten)]
    carried: Carried,
    #[command(flatten)]
    known: Known,
    #[command(flatten)]
    output: Output,
}

/// What a packet carries.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Carried {
    /// Its protocol: tcp, udp, sctp, udplite, icmp, icmpv6, or a number
    #[arg(long, default_value = "tcp", value_name = "PROTOCOL", value_parser = protocol, visible_alias = "protocol")]
    pub(crate) proto: u8,
    /// Its destination port
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// Its source port [default: one that no rule names]
    #[arg(long, value_name = "PORT")]
    pub(crate) source_port: Option<u16>,
    /// Its ICMP type [default: echo request]
    #[arg(long, value_name = "TYPE")]
    pub(crate) icmp_type: Option<u8>,
    /// Its ICMP code
    #[arg(long, value_name = "CODE")]
    pub(crate) icmp_code: Option<u8>,
    /// Its IP version, where both ends have both [default: 4]
    #[arg(long, value_name = "VERSION", value_parser = family)]
    pub(crate) ip_version: Option<Family>,
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// A source port such as connections come from.
const EPHEMERAL: u16 = 49_152;

/// A protocol by name or number.
pub(crate) fn protocol(text: &str) -> Result<u8, String> {
    let known = [("icmp", ICMP), ("tcp", 6), ("udp", 17), ("icmpv6", ICMPV6), ("sctp", 132), ("udplite", 136)];
    let named = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, number)| *number);
    named
        .or_else(|| text.parse().ok().filter(|number| *number > 0))
        .ok_or_else(|| "write tcp, udp, sctp, udplite, icmp, icmpv6 or a number from 1 to 255".to_owned())
}

fn family(text: &str) -> Result<Family, String> {
    match text {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        _ => Err("write 4 or 6".to_owned()),
    }
}

impl Carried {
    /// What a packet of a family carries.
    fn transport(&self, family: Family) -> Result<Transport, String> {
        let (icmp, echo) = if family == Family::V4 { (ICMP, 8) } else { (ICMPV6, 128) };
        let transport = Transport::of(self.proto, self.source_port.unwrap_or(EPHEMERAL), self.port.unwrap_or(0));
        let ports = matches!(transport, Transport::Ports { .. });
        match (ports, self.port) {
            (true, None) => return Err("the port is missing: add --port (in a test: port)".to_owned()),
            (false, Some(port)) => {
                return Err(format!("port {port}: protocol {} has no ports; leave it out", self.proto));
            }
            _ => {}
        }
        Ok(match transport {
            Transport::Icmp { .. } => Transport::Icmp {
                protocol: icmp,
                kind: self.icmp_type.unwrap_or(echo),
                code: self.icmp_code.unwrap_or(0),
            },
            other => other,
        })
    }

    /// A question for each family that both ends have.
    pub(crate) fn questions(&self, from: &End, to: &End) -> Result<Vec<Question>, Failure> {
        let mut questions = Vec::new();
        for family in Family::ALL.into_iter().filter(|family| self.ip_version.is_none_or(|wanted| wanted == *family)) {
            let pick = |end: &End| -> Option<IpAddr> {
                end.addresses.iter().copied().find(|address| Family::of(*address) == family)
            };
            let (Some(source), Some(destination)) = (pick(from), pick(to)) else { continue };
            let transport = self.transport(family).map_err(Failure::usage)?;
            let packet = Packet { source, destination, transport };
            questions.push(Question { from: from.party.clone(), to: to.party.clone(), packet, before_dnat: None });
        }
        if questions.is_empty() {
            let version = self.ip_version.map(|family| format!("{family} ")).unwrap_or_default();
            let line = format!("{} and {} have no {version}addresses of one family", from.name, to.name);
            return Err(Failure::usage(line));
        }
        Ok(questions)
    }
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let cluster = args.known.read(context)?;
    let [from, to] = [cluster.end(&args.from, args.known.namespace())?, cluster.end(&args.to, args.known.namespace())?];
    let questions = args.carried.questions(&from, &to)?;
    let network = cluster.network();
    let explanation = explain(&cluster, &network, (&from, &to), &questions[0]);
    args.output.show(&explanation, |_, paint| explanation.draw(paint))?;
    Ok(Exit::Done)
}

/// The way of a packet, with routing and NAT named where they happen.
pub(crate) fn explain(
    cluster: &Cluster,
    network: &Network<'_>,
    (from, to): (&End, &End),
    question: &Question,
) -> Explanation {
    let journey = network.journey(question);
    let (here, there) = (cluster.node(&from.party), cluster.node(&to.party));
    let mut explanation = Explanation::of(&from.name, &to.name, &question.packet);
    explanation.verdict = journey.verdict.to_string();
    // Between the hosts, routes and NAT: behind what the first says, before what the second says.
    let is_there = |place: &Place| match place {
        Place::Workload(key, _) | Place::OwnWorkload(key) => cluster.node(&Party::Workload(key.clone())) == there,
        Place::Interface(node, _) | Place::Reply(node, _) | Place::OwnHost(node) => Some(node) == there,
    };
    let mut between = (here != there).then(|| {
        let nat = here.is_some() && matches!(from.party, Party::Workload(_));
        let nat = cluster.outgoing_nat(&question.packet).filter(|_| nat);
        let nat = nat.map(|pool| {
            ("outgoing NAT", format!("the source becomes the host's address: IPPool/{pool} has natOutgoing"))
        });
        let route = ("route", cluster.route(&question.packet, here, there));
        [Some(route), nat].into_iter().flatten().collect::<Vec<_>>()
    });
    for hop in &journey.hops {
        if is_there(&hop.place) {
            between.take().into_iter().flatten().for_each(|(at, words)| explanation.note(at, words));
        }
        explanation.hop(hop);
    }
    if journey.verdict != lasthop_policy::Verdict::Deny {
        between.take().into_iter().flatten().for_each(|(at, words)| explanation.note(at, words));
    }
    explanation
}
