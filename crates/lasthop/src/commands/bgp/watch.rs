//! `lasthop bgp watch`: what happens, line by line, until interrupted.

use super::{Ask, read};
use crate::connect::Context;
use crate::exit::Outcome;
use crate::output::{Format, Paint, bgp, json_line, print};
use lasthop_agent::api::Request;
use serde::Deserialize;
use serde_json::Value;

/// What happened after some event.
#[derive(Debug, Deserialize)]
struct Events {
    next: u64,
    missed: u64,
    events: Vec<Value>,
}

pub(super) fn run(context: &Context, ask: &Ask) -> Outcome {
    let mut agent = context.agent(&ask.socket)?;
    let mut after = None;
    loop {
        let answer: Value = agent.call(Request::BgpEvents { after })?;
        let told: Events = read(&answer)?;
        after = Some(told.next);
        let mut text = String::new();
        if told.missed > 0 {
            text.push_str(&match ask.output.format {
                Format::Json => json_line(&serde_json::json!({"kind": "missed", "count": told.missed}))?,
                _ => format!("{} events were missed: this reader is too slow\n", told.missed),
            });
        }
        for event in &told.events {
            text.push_str(&match ask.output.format {
                Format::Json => json_line(event)?,
                _ => bgp::event(&read(event)?, Paint::stdout()),
            });
        }
        if !text.is_empty() {
            // A reader that goes away ends us.
            print(&text)?;
        }
    }
}
