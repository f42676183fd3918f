//! Mistakes on the command line, in one line: what is wrong, the fix if one is near, and where to read on.

use crate::exit::{Exit, Failure};
use clap::CommandFactory;
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
        _ => {
            let command = command_of(&crate::Cli::command(), std::env::args().skip(1));
            Failure::usage(format!("{}; see '{command} --help'", one_line(&error.render().to_string()))).report()
        }
    }
}

/// The command that the arguments are for, as far as they name one.
fn command_of(cli: &clap::Command, arguments: impl Iterator<Item = String>) -> String {
    let mut path = cli.get_name().to_owned();
    let mut command = cli;
    for argument in arguments.take_while(|argument| argument != "--") {
        if let Some(child) = command.find_subcommand(&argument) {
            path = format!("{path} {}", child.get_name());
            command = child;
        }
    }
    path
}

/// Makes one line of clap's paragraph: `error: WHAT`, its details, tips; the usage under it is left to `--help`.
fn one_line(text: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with("Usage: ") || line.starts_with("For more information") {
            break;
        }
        let line = line.strip_prefix("error: ").unwrap_or(line);
        match (parts.last_mut(), line.strip_prefix("tip: ")) {
            (_, Some(tip)) => parts.push(tip.to_owned()),
            (Some(last), None) if last.ends_with(':') || line.starts_with('[') => *last = format!("{last} {line}"),
            (Some(last), None) if line.starts_with(['-', '<']) => *last = format!("{last}, {line}"),
            _ => parts.push(line.to_owned()),
        }
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::{command_of, one_line};
    use clap::CommandFactory;

    #[test]
    fn a_paragraph_becomes_one_line() {
        let cases = [
            (
                "error: unexpected argument '--sokcet' found\n\n  tip: a similar argument exists: '--socket'\n\n\
                 Usage: lasthop status --socket <FILE>\n\nFor more information, try '--help'.\n",
                "unexpected argument '--sokcet' found; a similar argument exists: '--socket'",
            ),
            (
                "error: the following required arguments were not provided:\n  --ip <IP>\n  <NAME>\n\n\
                 Usage: lasthop workload add --ip <IP> <NAME>\n",
                "the following required arguments were not provided: --ip <IP>, <NAME>",
            ),
            (
                "error: invalid value 'x' for '--output <FORMAT>'\n  [possible values: table, json]\n\n\
                 For more information, try '--help'.\n",
                "invalid value 'x' for '--output <FORMAT>' [possible values: table, json]",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(one_line(text), expected);
        }
    }

    #[test]
    fn the_command_is_found_among_its_arguments() {
        let cases = [
            ("", "lasthop"),
            ("--config x workload add vm1", "lasthop workload add"),
            ("workload ls", "lasthop workload list"),
            ("bgp why status", "lasthop bgp why"),
            ("statsu", "lasthop"),
        ];
        for (arguments, expected) in cases {
            let arguments = arguments.split_whitespace().map(str::to_owned);
            assert_eq!(command_of(&crate::Cli::command(), arguments), expected);
        }
    }
}
