//! A model of the rules by which syncs are answered from memory.

#![expect(clippy::print_stdout, reason = "figures")]

mod check;
mod ledger;
mod lives;
mod model;
mod mutations;
mod polls;
mod promises;
mod scenarios;
mod state;
mod writes;

use mutations::Weakened;
use scenarios as on;

#[test]
fn try_scenarios() {
    let only = std::env::var("ONLY").unwrap_or_default();
    for s in [on::BASE, on::LEAVE, on::THREE, on::THREE_RESTART, on::THREE_LAG, on::RESTART, on::TWO, on::ROUTES, on::LAG, on::STREAM, on::ERRORS, on::RETRY, on::STAR, on::UPGRADE, on::NARROW, on::NARROW_LAG, on::NOTICE, on::PENDING, on::AGE, on::AUDIT, on::NEXT, on::NEXT_LAG, on::HAND_OVER, on::RELOAD] {
        if !s.name.contains(&only) { continue }
        let o = check::explore(s, None, promises::bits(s.promises), None);
        println!("{:30} {:>9} states depth {} {:.1} s {:.0}/s {:x} {}", s.name, o.states, o.depth, o.taken.as_secs_f64(), o.states as f64 / o.taken.as_secs_f64(), o.steps, o.broken.map(|(n, t)| format!("{n}: {}", check::line(&t))).unwrap_or_default());
    }
}

#[test]
fn try_mutations() {
    let only = std::env::var("ONLY").unwrap_or_default();
    for &w in Weakened::EVERY {
        let row = w.row();
        if !row.rule.contains(&only) { continue }
        for (p, steps) in row.breaks() {
            let o = check::shortest(row.scenario, w, p);
            println!("{:45} {} {steps:>2} {} {:>8} {:.1} s", row.rule, p.name(), o.broken.map(|(_, t)| format!("{:>2} {}", t.len(), check::line(&t))).unwrap_or("NONE".into()), o.states, o.taken.as_secs_f64());
        }
    }
}
