//! What happens, for those who watch: sessions that come and go, routes that are learned, lost, advertised, withdrawn.
//!
//! Who watches asks for what came after a number, and is answered when something has, or after a second. What happens is
//! noted only while somebody has asked lately, so that it costs nothing otherwise, and what nobody fetches is dropped,
//! oldest first, and counted.

use lasthop_bgp::PeerStatus;
use lasthop_net::{NextHops, Prefix};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What is kept for those who are slow.
const KEPT: usize = 10_000;
/// In one answer.
const MOST: usize = 1_000;
/// How long after a question things are still noted.
const ATTENTION: Duration = Duration::from_secs(15);
/// How long a question waits for something to happen.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The number of the next event.
    next: u64,
    events: VecDeque<Value>,
    /// Somebody watches until then.
    until: Option<Instant>,
    /// Questions that wait: number, after which event, until when.
    waiting: Vec<(u64, u64, Instant)>,
    sessions: BTreeMap<IpAddr, (String, Option<String>)>,
}

impl Watch {
    /// Whether anybody watches.
    pub(super) fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// A question: what happened after `after`; without it, how the sessions stand.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        (id, after): (u64, Option<u64>),
        peers: impl FnOnce() -> Vec<PeerStatus>,
    ) {
        let was_on = self.is_on(now);
        self.until = Some(now + ATTENTION);
        if !was_on {
            self.events.clear();
            self.sessions.clear();
        }
        match after {
            // A watch that had lapsed has missed what it does not know of.
            Some(after) if was_on => self.waiting.push((id, after, now + PATIENCE)),
            after => {
                let first = self.next;
                self.sessions.clear();
                peers().into_iter().for_each(|peer| self.session(peer));
                self.waiting.push((id, after.map_or(first, |_| first), now));
            }
        }
    }

    fn note(&mut self, mut event: Value) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        event["time"] = json!(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.next += 1;
    }

    /// A session as it stands now.
    pub(super) fn session(&mut self, peer: PeerStatus) {
        let stands = (peer.state.to_string(), peer.last_error);
        if self.sessions.get(&peer.address) != Some(&stands) {
            self.note(json!({
                "kind": "session", "peer": peer.address, "asn": peer.asn.0, "state": stands.0, "error": stands.1,
            }));
            self.sessions.insert(peer.address, stands);
        }
    }

    /// What has been learned of a prefix: no next hop means that it is gone.
    pub(super) fn learned(&mut self, prefix: Prefix, next_hops: &NextHops) {
        let kind = if next_hops.is_empty() { "lost" } else { "learned" };
        let next_hops: Vec<&IpAddr> = next_hops.iter().collect();
        self.note(json!({"kind": kind, "prefix": prefix.to_string(), "nextHops": next_hops}));
    }

    /// Own prefixes that are advertised from now on, or no longer.
    pub(super) fn own(&mut self, kind: &str, prefix: Prefix) {
        self.note(json!({"kind": kind, "prefix": prefix.to_string()}));
    }

    /// When an answer is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.waiting.iter().map(|(.., until)| *until).min()
    }

    /// The answers that are due, by the number of their question.
    pub(super) fn answers(&mut self, now: Instant) -> Vec<(u64, String)> {
        let (next, events) = (self.next, &self.events);
        let mut answers = Vec::new();
        self.waiting.retain(|(id, after, until)| {
            if next <= *after && now < *until {
                return true;
            }
            let first = next - events.len() as u64;
            let from = (*after).max(first);
            let skipped = usize::try_from(from - first).unwrap_or(usize::MAX);
            let told: Vec<&Value> = events.iter().skip(skipped).take(MOST).collect();
            let answer = json!({"next": from + told.len() as u64, "missed": from - (*after).min(from), "events": told});
            answers.push((*id, answer.to_string()));
            false
        });
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(watch: &mut Watch, now: Instant) -> Option<Value> {
        watch.answers(now).pop().map(|(_, text)| serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn what_happens_is_told_once_in_order_and_what_was_dropped_is_counted() {
        let now = Instant::now();
        let prefix: Prefix = "10.65.0.0/26".parse().unwrap();
        let mut watch = Watch::default();
        assert!(!watch.is_on(now));
        watch.ask(now, (1, None), Vec::new);
        let first = answer(&mut watch, now).unwrap();
        assert_eq!((first["events"].as_array().unwrap().len(), &first["missed"]), (0, &json!(0)));
        let next = first["next"].as_u64().unwrap();
        watch.ask(now, (2, Some(next)), Vec::new);
        assert_eq!(answer(&mut watch, now), None, "it waits");
        watch.own("advertised", prefix);
        watch.learned(prefix, &NextHops::default());
        let told = answer(&mut watch, now).unwrap();
        assert_eq!((&told["events"][0]["kind"], &told["events"][1]["kind"]), (&json!("advertised"), &json!("lost")));
        let next = told["next"].as_u64().unwrap();
        for _ in 0..KEPT + 5 {
            watch.own("advertised", prefix);
        }
        watch.ask(now, (3, Some(next)), Vec::new);
        let told = answer(&mut watch, now).unwrap();
        assert_eq!((told["missed"].as_u64(), told["events"].as_array().unwrap().len()), (Some(5), MOST));
        let next = told["next"].as_u64().unwrap();
        watch.ask(now, (4, Some(next)), Vec::new);
        assert_eq!(answer(&mut watch, now).unwrap()["next"].as_u64(), Some(next + MOST as u64), "the rest follows");
        // It comes again after a while: nothing was noted meanwhile.
        let later = now + ATTENTION * 2;
        assert!(!watch.is_on(later));
        watch.ask(later, (5, Some(next)), Vec::new);
        assert_eq!(answer(&mut watch, later).unwrap()["events"], json!([]));
    }
}
