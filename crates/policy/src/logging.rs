//! What `Log` rules write into the kernel's log: how it begins and how much of it there is (`logPrefix`, `logActionRateLimit` and
//! `logActionRateLimitBurst` of FelixConfiguration).

use crate::ir::{Key, Owner};
use lasthop_model::{Rate, Settings};

/// How packets are noted in the kernel's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// What a line begins with, before `: `. `%t` stands for the tier, `%k` for the kind in short, `%n` for the name and
    /// `%p` for the name with its namespace.
    pub prefix: String,
    /// How many packets a rule notes at most; `None` is all.
    pub rate: Option<Rate>,
    /// How many it notes at once before the rate counts; at least one.
    pub burst: u32,
}

impl Default for Logging {
    fn default() -> Self {
        Self::of(&Settings::default())
    }
}

impl Logging {
    /// What settings say.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self { prefix: settings.log_prefix.clone(), rate: settings.log_rate, burst: settings.log_burst.max(1) }
    }

    /// What lines about an owner's rules begin with: of `longest` bytes at most, with `: ` at its end.
    #[must_use]
    pub fn prefix_of(&self, owner: &Owner, longest: usize) -> String {
        let (tier, kind, name, path) = match owner {
            Owner::Policy { tier, key } => (tier.as_str(), short(key), key.name.as_str(), path(key)),
            Owner::Unusable { key, .. } => ("unusable", short(key), key.name.as_str(), path(key)),
            Owner::Profile(name) | Owner::MissingProfile(name) => ("profile", "pro", name.as_str(), name.clone()),
        };
        let mut text = String::new();
        let mut rest = self.prefix.as_str();
        while let Some(at) = rest.find('%') {
            let (before, from) = rest.split_at(at);
            text.push_str(before);
            let word = match from.as_bytes().get(1) {
                Some(b't') => tier,
                Some(b'k') => kind,
                Some(b'n') => name,
                Some(b'p') => &path,
                _ => {
                    text.push('%');
                    rest = &from[1..];
                    continue;
                }
            };
            text.push_str(word);
            rest = &from[2..];
        }
        text.push_str(rest);
        let text = text.trim_end_matches([':', ' ']);
        let fits = longest.saturating_sub(2).min(text.len());
        let end = (0..=fits).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        format!("{}: ", &text[..end])
    }
}

fn short(key: &Key) -> &'static str {
    key.kind.short_names().first().copied().unwrap_or(key.kind.name())
}

fn path(key: &Key) -> String {
    match &key.namespace {
        Some(namespace) => format!("{namespace}/{}", key.name),
        None => key.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lasthop_model::Kind;

    #[test]
    fn a_prefix_says_whose_rule_it_is() {
        let key = Key { kind: Kind::NetworkPolicy, namespace: Some("shop".into()), name: "web".into() };
        let policy = Owner::Policy { tier: "ops".into(), key };
        let profile = Owner::Profile("kns.shop".into());
        for (prefix, owner, longest, wanted) in [
            ("calico-packet", &policy, 29, "calico-packet: "),
            ("%t %k/%n: ", &policy, 29, "ops np/web: "),
            ("%p", &policy, 29, "shop/web: "),
            ("%p", &policy, 8, "shop/w: "),
            ("%t %k %n", &profile, 120, "profile pro kns.shop: "),
            ("100% of %x%", &policy, 120, "100% of %x%: "),
            ("", &policy, 29, ": "),
        ] {
            let logging = Logging { prefix: prefix.to_owned(), ..Logging::default() };
            assert_eq!(logging.prefix_of(owner, longest), wanted, "{prefix}");
        }
    }

    #[test]
    fn one_packet_is_noted_at_least() {
        let settings = Settings { log_burst: 0, ..Settings::default() };
        assert_eq!(Logging::of(&settings).burst, 1);
    }
}
