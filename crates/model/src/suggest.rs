//! The word that was probably meant.

/// The candidate nearest to `word`, if one is near enough to be what was meant.
///
/// Case, `-`, `_` and spaces do not count (`nat-outgoing` is `natOutgoing`); then a shared beginning
/// (`ipip` is `ipipMode`); then the edit distance, at most a third of the word.
#[must_use]
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| -> String {
        text.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).flat_map(char::to_lowercase).collect()
    };
    let wanted = plain(word);
    if wanted.is_empty() || wanted.len() > 100 {
        return None;
    }
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let have = plain(candidate);
            let distance = if have == wanted {
                0
            } else if wanted.len() >= 3 && have.starts_with(&wanted) {
                1
            } else {
                let distance = strsim::damerau_levenshtein(&wanted, &have);
                let limit = (wanted.chars().count() / 3).max(1);
                if distance > limit {
                    return None;
                }
                1 + distance
            };
            Some((distance, candidate))
        })
        .min_by_key(|(distance, candidate)| (*distance, candidate.len()))
        .map(|(_, candidate)| candidate)
}

/// `; did you mean 'x'?`, or else the list of what there is if it is short, or else nothing.
pub(crate) fn hint(word: &str, candidates: &[&str]) -> String {
    match closest(word, candidates.iter().copied()) {
        Some(near) => format!("; did you mean '{near}'?"),
        None if !candidates.is_empty() && candidates.len() <= 16 => format!("; there are: {}", candidates.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let fields = ["natOutgoing", "ipipMode", "cidr", "blockSize"];
        for (word, meant) in [
            ("nat-outgoing", Some("natOutgoing")),
            ("natOutgoin", Some("natOutgoing")),
            ("ipip", Some("ipipMode")),
            ("CIDR", Some("cidr")),
            ("blcokSize", Some("blockSize")),
            ("color", None),
            ("", None),
        ] {
            assert_eq!(closest(word, fields), meant, "{word}");
        }
    }
}
