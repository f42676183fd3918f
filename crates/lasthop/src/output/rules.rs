//! Rules in force and what they have counted.

use super::{Cell, Paint, Sheet, Tone};
use lasthop_agent::api::RuleState;

pub(crate) fn rules(rules: &[RuleState], paint: Paint) -> String {
    let mut sheet = Sheet::new(&["POLICY", "TIER", "DIRECTION", "RULE", "ACTION", "PACKETS", "BYTES"]);
    for rule in rules {
        let action = if rule.staged { format!("{} (staged)", rule.action) } else { rule.action.clone() };
        let tone = if rule.packets == 0 { Tone::Wait } else { Tone::Good };
        sheet.row(vec![
            rule.owner.as_str().into(),
            rule.tier.as_deref().unwrap_or("-").into(),
            rule.direction.as_str().into(),
            rule.index.to_string().into(),
            action.into(),
            Cell::new(tone, rule.packets.to_string()),
            rule.bytes.to_string().into(),
        ]);
    }
    if sheet.is_empty() { "no rules: no workload here\n".to_owned() } else { sheet.draw(paint, 0) }
}
