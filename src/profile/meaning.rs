//! What a profile means, as numbers that can be compared: two profiles of one process that read requests alike have the same.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::file::{File, Placed, Route, Scopes};
use crate::profile::Selector;

/// The number of a whole profile, as [`super::Profile::meaning`] says, and of what decides a request up to each route, as
/// [`super::Profile::meaning_up_to`] says: one for each route, and one more for requests that none takes.
#[must_use]
pub fn of(file: &File) -> (u64, Vec<u64>) {
    let mut all = SipHasher13::new();
    add(
        &mut all,
        &format!("{} {:?} {:?} {:?} {:?}", values(file.credential.as_ref()), file.prefix, file.denied, file.anonymous, file.ignore_headers),
    );
    let mut so_far = SipHasher13::new();
    let unmatched = file.unmatched.as_ref().map(|class| &class.value);
    so_far.write_u64(all.finish());
    add(&mut so_far, &format!("{} {unmatched:?}", values(file.client.as_ref())));
    let mut meanings = Vec::with_capacity(file.routes.len() + 1);
    for route in &file.routes {
        let text = text(route);
        add(&mut all, &text);
        add(&mut so_far, &text);
        meanings.push(so_far.finish());
    }
    add(&mut so_far, "unmatched");
    meanings.push(so_far.finish());
    (all.finish(), meanings)
}

/// All that decides what a request of this route touches, what may be answered and what it is kept under; its name, class and cost are left out.
fn text(route: &Route) -> String {
    let scopes =
        |scopes: &Option<Scopes>| scopes.as_ref().map(|scopes| scopes.iter().map(|scope| scope.value.to_string()).collect::<Vec<_>>());
    let tests: Vec<Vec<_>> = route.when.iter().map(|tests| tests.iter().map(|test| &test.value).collect()).collect();
    let matched = format!("{:?} {:?} {tests:?} {:?} {:?}", route.methods, route.paths, route.body_over, route.stream);
    format!("{matched} {:?} {:?} {:?} {:?}", scopes(&route.reads), scopes(&route.writes), scopes(&route.pending), route.answer)
}

fn values(selectors: Option<&Vec<Placed<Selector>>>) -> String {
    format!("{:?}", selectors.into_iter().flatten().map(|placed| &placed.value).collect::<Vec<_>>())
}

fn add(hasher: &mut SipHasher13, text: &str) {
    hasher.write(text.as_bytes());
    hasher.write_u8(0xff);
}
