//! How verdicts, tests of policy and changes of it are shown: one line for each thing.

use super::{Paint, Tone};
use lasthop_policy::decide::{Decision, NearMiss, Packet};
use lasthop_policy::difference::{Change, Difference, Effect, Group};
use lasthop_policy::journey::{Hop, Party, Place, Stage, Word};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A packet's way.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    from: String,
    to: String,
    packet: String,
    /// allowed, denied, or not judged.
    pub(crate) verdict: String,
    steps: Vec<Step>,
}

/// One place on it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<String>,
    because: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    passed_on_by: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logged_by: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    staged: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nearest: Vec<Near>,
}

/// A rule that would have allowed the packet.
#[derive(Debug, Serialize)]
struct Near {
    rule: String,
    differences: Vec<Differs>,
    #[serde(skip)]
    words: String,
}

#[derive(Debug, Serialize)]
struct Differs {
    field: &'static str,
    wanted: String,
    was: String,
}

impl Explanation {
    /// Nothing said yet.
    pub(crate) fn of(from: &str, to: &str, packet: &Packet) -> Self {
        let (from, to, packet) = (from.to_owned(), to.to_owned(), packet.to_string());
        Self { from, to, packet, verdict: String::new(), steps: Vec::new() }
    }

    /// Something that is no verdict.
    pub(crate) fn note(&mut self, at: &str, because: String) {
        self.steps.push(Step::new(at.to_owned(), None, because));
    }

    /// What was said at a place.
    pub(crate) fn hop(&mut self, hop: &Hop) {
        let at = place(&hop.place);
        let step = match &hop.word {
            Word::Policy(decision) => Step::decided(at, decision),
            other => {
                let words = other.to_string();
                let verdict = ["allowed", "denied"].into_iter().find(|verdict| words.starts_with(verdict));
                let because = verdict.and_then(|verdict| words.strip_prefix(verdict)).unwrap_or(&words);
                let because = because.trim_start_matches([':', ' ']).trim_start_matches("by ").to_owned();
                Step::new(at, verdict.map(str::to_owned), because)
            }
        };
        self.steps.push(step);
    }

    /// Line by line.
    pub(crate) fn draw(&self, paint: Paint) -> String {
        let verdict = paint.paint(tone(&self.verdict), &self.verdict);
        let mut text = format!("{} → {}, {}: {verdict}\n", self.from, self.to, self.packet);
        for step in &self.steps {
            text.push_str(&step.draw(paint));
        }
        text
    }

    /// Where it ended, in one line.
    fn end(&self) -> String {
        let last = self.steps.iter().rev().find(|step| step.verdict.as_deref() == Some(&self.verdict));
        last.map_or_else(String::new, |step| {
            let near = step.nearest.first().map(|near| format!("; {}", near.words)).unwrap_or_default();
            format!(": {}: {} by {}{near}", step.at, self.verdict, step.because)
        })
    }
}

impl Step {
    fn new(at: String, verdict: Option<String>, because: String) -> Self {
        let (passed_on_by, logged_by, staged, nearest) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { at, verdict, because, passed_on_by, logged_by, staged, nearest }
    }

    fn decided(at: String, decision: &Decision) -> Self {
        let staged = decision.staged.iter().map(|(rule, action)| format!("{action:?} by {rule}"));
        let near = |miss: &NearMiss| Near {
            rule: miss.rule.to_string(),
            differences: miss
                .differences
                .iter()
                .map(|one| Differs { field: one.field, wanted: one.wanted.clone(), was: one.was.clone() })
                .collect(),
            words: miss.to_string(),
        };
        Self {
            passed_on_by: decision.passed.iter().map(ToString::to_string).collect(),
            logged_by: decision.logged.iter().map(ToString::to_string).collect(),
            staged: staged.collect(),
            nearest: decision.near.iter().map(near).collect(),
            ..Self::new(at, Some(decision.verdict.to_string()), decision.by.to_string())
        }
    }

    fn draw(&self, paint: Paint) -> String {
        let mut text = match &self.verdict {
            Some(verdict) => format!("  {}: {} by {}\n", self.at, paint.paint(tone(verdict), verdict), self.because),
            None => format!("  {}: {}\n", self.at, self.because),
        };
        let near = self.nearest.iter().map(|near| ("nearest", &near.words));
        let passed = self.passed_on_by.iter().map(|rule| ("passed on by", rule));
        let logged = self.logged_by.iter().map(|rule| ("logged by", rule));
        let staged = self.staged.iter().map(|rule| ("staged", rule));
        for (word, rule) in passed.chain(logged).chain(staged).chain(near) {
            text.push_str(&format!("    {word}: {rule}\n"));
        }
        text
    }
}

fn tone(verdict: &str) -> Tone {
    match verdict {
        "allowed" => Tone::Good,
        "denied" => Tone::Bad,
        _ => Tone::Plain,
    }
}

fn place(place: &Place) -> String {
    let stage = |stage: Stage| match stage {
        Stage::Input => "to the host",
        Stage::Output => "from the host",
        Stage::ForwardIn => "forwarded, coming in",
        Stage::ForwardOut => "forwarded, going out",
        Stage::BeforeDnat => "before DNAT",
        Stage::UntrackedIn => "untracked, coming in",
        Stage::UntrackedOut => "untracked, going out",
    };
    match place {
        Place::Interface(node, at) => format!("host endpoint of {node} ({})", stage(*at)),
        Place::Reply(node, at) => format!("host endpoint of {node}, the reply ({})", stage(*at)),
        other => other.to_string(),
    }
}

/// What became of an assertion.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TestResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    must: &'static str,
    holds: bool,
    /// Each packet that was tried.
    tried: Vec<Explanation>,
    /// Those that did not become what they must.
    #[serde(skip)]
    wrong: Vec<String>,
}

impl TestResult {
    /// Nothing tried yet.
    pub(crate) fn new(name: Option<String>, must: &'static str) -> Self {
        Self { name, must, holds: true, tried: Vec::new(), wrong: Vec::new() }
    }

    /// One packet.
    pub(crate) fn tried(&mut self, holds: bool, explanation: Explanation) {
        if !holds {
            let Explanation { from, to, packet, verdict, .. } = &explanation;
            let name = self.name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
            let end = explanation.end();
            self.wrong.push(format!("{name}{from} → {to}, {packet}: must be {}, is {verdict}{end}", past(self.must)));
        }
        self.holds &= holds;
        self.tried.push(explanation);
    }

    /// Whether all became what they must.
    pub(crate) fn holds(&self) -> bool {
        self.holds
    }
}

fn past(must: &str) -> &'static str {
    if must == "allow" { "allowed" } else { "denied" }
}

/// What does not hold, and how many do.
pub(crate) fn results(results: &[TestResult], paint: Paint) -> String {
    let mut text = String::new();
    for line in results.iter().flat_map(|result| &result.wrong) {
        text.push_str(&format!("{} {line}\n", paint.paint(Tone::Bad, "FAILED")));
    }
    let failed = results.iter().filter(|result| !result.holds).count();
    text.push_str(&format!("{} passed, {failed} failed\n", results.len() - failed));
    text
}

/// What a change of policy changes.
#[derive(Debug, Serialize)]
pub(crate) struct Changes {
    changes: Vec<Row>,
    /// Whose packets cannot be compared, for only one state knows them.
    appeared: Vec<Ends>,
    gone: Vec<Ends>,
}

#[derive(Debug, Serialize)]
struct Row {
    effect: &'static str,
    from: Who,
    to: Who,
    #[serde(skip_serializing_if = "String::is_empty")]
    pairs: String,
    traffic: Vec<String>,
    families: Vec<String>,
    #[serde(skip)]
    words: String,
}

#[derive(Debug, Serialize)]
struct Who {
    described: String,
    ends: Vec<Ends>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    outside: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    outside_except: BTreeSet<String>,
}

#[derive(Debug, Serialize)]
struct Ends {
    name: String,
    addresses: BTreeSet<IpAddr>,
}

impl Ends {
    fn all(parties: &BTreeMap<Party, BTreeSet<IpAddr>>) -> Vec<Self> {
        let name = |party: &Party| match party {
            Party::Workload(key) => key.to_string(),
            Party::Host(node) => format!("host/{node}"),
            Party::Outside => "outside".to_owned(),
        };
        parties.iter().map(|(party, addresses)| Self { name: name(party), addresses: addresses.clone() }).collect()
    }

    fn line(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        if addresses.is_empty() { self.name.clone() } else { format!("{} ({})", self.name, addresses.join(", ")) }
    }
}

impl Who {
    fn of(group: &Group) -> Self {
        let workloads = group.workloads.iter().map(|(key, addresses)| (key.to_string(), addresses));
        let hosts = group.hosts.iter().map(|(node, addresses)| (format!("host/{node}"), addresses));
        let ends = workloads.chain(hosts).map(|(name, addresses)| Ends { name, addresses: addresses.clone() });
        let texts = |nets: &BTreeSet<lasthop_net::Prefix>| nets.iter().map(ToString::to_string).collect();
        Self {
            described: group.to_string(),
            ends: ends.collect(),
            outside: texts(&group.outside.inside),
            outside_except: texts(&group.outside.except),
        }
    }
}

/// A difference as it is shown.
pub(crate) fn changes(difference: &Difference) -> Changes {
    let row = |change: &Change| Row {
        effect: if change.effect == Effect::Gains { "gains" } else { "loses" },
        from: Who::of(&change.from),
        to: Who::of(&change.to),
        pairs: change.pairs.to_string(),
        traffic: change.traffic.parts(),
        families: change.families.iter().map(ToString::to_string).collect(),
        words: change.to_string(),
    };
    Changes {
        changes: difference.changes.iter().map(row).collect(),
        appeared: Ends::all(&difference.appeared),
        gone: Ends::all(&difference.gone),
    }
}

impl Changes {
    /// Line by line.
    pub(crate) fn draw(&self, paint: Paint) -> String {
        let mut text = String::new();
        for row in &self.changes {
            let tone = if row.effect == "gains" { Tone::Wait } else { Tone::Bad };
            let rest = row.words.strip_prefix(row.effect).unwrap_or(&row.words);
            text.push_str(&format!("{}{rest}\n", paint.paint(tone, row.effect)));
        }
        for (word, ends) in [("new", &self.appeared), ("gone", &self.gone)] {
            ends.iter().for_each(|end| text.push_str(&format!("{word}   {}\n", end.line())));
        }
        match self.changes.len() {
            0 if text.is_empty() => text.push_str("nobody gains or loses anything\n"),
            1 => text.push_str("1 change\n"),
            many => text.push_str(&format!("{many} changes\n")),
        }
        text
    }
}
