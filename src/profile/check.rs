//! What is probably not meant: warnings about a profile as a whole.

use http::Method;

use super::{
    file::{File, Route, Scopes},
    scope::Template,
    selector::Selector,
};
use crate::written::Mistakes;

/// Warns about the profile's own routes, the first `own` of the file; what they extend was checked where it stands.
pub fn routes(file: &File, own: usize, mistakes: &Mistakes) {
    for (index, route) in file.routes.iter().enumerate().take(own) {
        hidden(&file.routes[..index], route, mistakes);
        writes_everything(route, mistakes);
        credential_scopes(file, route, mistakes);
    }
    unmet_scopes(file, own, mistakes);
}

/// Whether a route surely takes every request that fits it.
fn untested(route: &Route) -> bool {
    route.when.is_empty() && route.body_over.is_none()
}

fn covers_paths(first: &Route, later: &Route) -> bool {
    first.paths.is_empty() || (!later.paths.is_empty() && later.paths.iter().all(|path| first.paths.iter().any(|cover| cover.covers(path))))
}

fn hidden(before: &[Route], route: &Route, mistakes: &Mistakes) {
    for first in before.iter().filter(|first| untested(first) && covers_paths(first, route)) {
        let takes = |method: &Method| first.methods.is_empty() || first.methods.contains(method);
        let all = first.methods.is_empty() || (!route.methods.is_empty() && route.methods.iter().all(takes));
        let unsafe_ones: Vec<&str> = route.methods.iter().filter(|method| takes(method) && !method.is_safe()).map(Method::as_str).collect();
        let (poll, write) = (first.answer.is_some(), writes(route));
        if poll && write && (all || !unsafe_ones.is_empty()) {
            let what = if all { "every request".to_owned() } else { unsafe_ones.join(" and ") };
            mistakes.warning(
                &route.at,
                format!("the write route `{}` is hidden by the poll `{}`, which takes {what} of it", route.name, first.name),
                "put the write first, or narrow the poll: a write that is taken for a poll makes answers wrong",
            );
            return;
        }
        if all {
            mistakes.warning(
                &route.at,
                format!("the route `{}` can never match: `{}` takes all its requests", route.name, first.name),
                "put it before that one, or remove it",
            );
            return;
        }
    }
}

/// Whether a request of this route may write.
fn writes(route: &Route) -> bool {
    match (&route.reads, &route.writes) {
        (_, Some(writes)) => !writes.is_empty(),
        (Some(_), None) => false,
        (None, None) => may_be_unsafe(route),
    }
}

fn may_be_unsafe(route: &Route) -> bool {
    route.methods.is_empty() || route.methods.iter().any(|method| !method.is_safe())
}

fn writes_everything(route: &Route, mistakes: &Mistakes) {
    let declared = route.writes.iter().flatten().find(|scope| matches!(scope.value, Template::All));
    let instead = "name what it changes, or write writes = [] if it changes no document";
    if let Some(scope) = declared {
        mistakes.warning(
            &scope.at,
            format!("the route `{}` writes everything: each of its requests ends every stored answer", route.name),
            instead,
        );
    } else if route.reads.is_none() && route.writes.is_none() && may_be_unsafe(route) {
        mistakes.warning(
            &route.at,
            format!("the route `{}` says neither what it reads nor what it writes, so what is not GET, HEAD, OPTIONS or TRACE writes everything", route.name),
            instead,
        );
    }
}

fn credential_scopes(file: &File, route: &Route, mistakes: &Mistakes) {
    let secrets: Vec<&Selector> = file.credential.iter().flatten().map(|placed| &placed.value).collect();
    let secret = |selector: &Selector| {
        secrets.contains(&selector)
            || (matches!(selector, Selector::Cookie(_))
                && secrets.iter().any(|secret| matches!(secret, Selector::Header(name) if *name == http::header::COOKIE)))
    };
    for scope in route.scopes() {
        if let Some(selector) = scope.value.selectors().find(|selector| secret(selector)) {
            mistakes.warning(
                &scope.at,
                format!("the scope {} is made from the credential {selector}, which differs between a user's devices", scope.value),
                "make it from a name of the document or of the user",
            );
        }
    }
}

fn unmet_scopes(file: &File, own: usize, mistakes: &Mistakes) {
    let kinds = |pick: fn(&Route) -> &Option<Scopes>| -> Vec<&str> {
        file.routes.iter().filter_map(|route| pick(route).as_ref()).flatten().map(|scope| scope.value.kind()).collect()
    };
    let (read, written) = (kinds(|route| &route.reads), kinds(|route| &route.writes));
    let all = |kinds: &[&str]| kinds.contains(&"*");
    for route in &file.routes[..own] {
        for scope in route.writes.iter().chain(&route.pending).flatten() {
            let kind = scope.value.kind();
            if kind != "*" && !read.contains(&kind) && !all(&read) {
                mistakes.warning(&scope.at, format!("nobody reads {}", scope.value), "name it as the routes that read it do, or remove it");
            }
        }
        for scope in route.reads.iter().flatten() {
            let kind = scope.value.kind();
            if kind != "*" && scope.value.selectors().next().is_some() && !written.contains(&kind) {
                mistakes.warning(&scope.at, format!("nobody writes {}", scope.value), "name it as the routes that write it do");
            }
        }
    }
}
