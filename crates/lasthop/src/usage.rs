//! Mistakes on the command line, in one line: what is wrong, the fix if one is near, and where to read on.

use crate::exit::{Exit, Failure};
use clap::error::ErrorKind;

/// Says what clap found: help and version on stdout as they are, a mistake as one line on stderr.
pub(crate) fn report(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that goes away (`| head`) is no failure of ours.
            let _ = error.print();
            Exit::Done
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Exit::Usage
        }
        _ => Failure::usage(one_line(&error.render().to_string())).report(),
    }
}

/// Makes one line of clap's paragraph: `error: WHAT`, tips, `Usage: COMMAND …`.
fn one_line(text: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut command = String::from("lasthop");
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(usage) = line.strip_prefix("Usage: ") {
            let words = usage.split_whitespace().take_while(|word| !word.starts_with(['[', '<', '-', '{']));
            // Options that are already given stand in the usage line as they were written.
            command = words.take_while(|word| *word == word.to_lowercase()).collect::<Vec<_>>().join(" ");
            break;
        }
        if line.starts_with("For more information") {
            break;
        }
        let line = line.strip_prefix("error: ").unwrap_or(line);
        match (parts.last_mut(), line.strip_prefix("tip: ")) {
            (_, Some(tip)) => parts.push(tip.to_owned()),
            (Some(last), None) if last.ends_with(':') => *last = format!("{last} {line}"),
            (Some(last), None) if line.starts_with('[') => *last = format!("{last} {line}"),
            (Some(last), None) if line.starts_with(['-', '<']) => *last = format!("{last}, {line}"),
            _ => parts.push(line.to_owned()),
        }
    }
    format!("{}; see '{command} --help'", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_paragraph_becomes_one_line() {
        let cases = [
            (
                "error: unexpected argument '--sokcet' found\n\n  tip: a similar argument exists: '--socket'\n\n\
                 Usage: lasthop status --socket <FILE>\n\nFor more information, try '--help'.\n",
                "unexpected argument '--sokcet' found; a similar argument exists: '--socket'; see 'lasthop status --help'",
            ),
            (
                "error: the following required arguments were not provided:\n  --ip <IP>\n  <NAME>\n\n\
                 Usage: lasthop workload add --ip <IP> <NAME>\n",
                "the following required arguments were not provided: --ip <IP>, <NAME>; see 'lasthop workload add --help'",
            ),
            (
                "error: invalid value 'x' for '--output <FORMAT>'\n  [possible values: table, json]\n\n\
                 For more information, try '--help'.\n",
                "invalid value 'x' for '--output <FORMAT>' [possible values: table, json]; see 'lasthop --help'",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(one_line(text), expected);
        }
    }
}
