//! From what was written to what it means: `extends` is followed, classes and paths are resolved, and the whole is checked.

use std::sync::Arc;

use super::{
    Profile, Route, check, example,
    facts::{Looks, Probe},
    file::{self, File, Placed, Scopes},
    meaning,
    question::{KeySelectors, Noise},
    reply,
    scope::Template,
    selector::Selector,
};
use crate::{
    model::{Class, Classes},
    written::{At, Mistakes, Source, suggestion},
};

/// How many profiles may extend one another.
const DEPTH_MAX: usize = 8;

/// The most routes of a profile.
const ROUTES_MAX: usize = 1024;

/// Compiles a profile, as [`Profile::compile`] says.
pub fn compile(
    source: &Arc<Source>,
    extend: &dyn Fn(&str) -> Result<Arc<Source>, String>,
    classes: &Classes,
    mistakes: &Mistakes,
) -> Option<Profile> {
    let before = Mistakes::default();
    let mut file = File::read(source, &before);
    let own = file.routes.len();
    let own_examples = file.examples.len();
    follow(&mut file, extend, &before);
    if file.routes.len() > ROUTES_MAX {
        before.error(&file.routes[ROUTES_MAX].at, format!("a profile has at most {ROUTES_MAX} routes"), "join some of them");
    }
    let profile = build(&file, classes, &before);
    let sound = !before.any_error();
    if sound {
        check::routes(&file, own, &before);
        example::run(&profile, &file, own, own_examples, classes, &before);
    }
    let sound = !before.any_error();
    for mistake in before.into_list() {
        mistakes.add(mistake);
    }
    sound.then_some(profile)
}

/// Appends what the file extends: its routes and examples, and every key that is not set.
fn follow(file: &mut File, extend: &dyn Fn(&str) -> Result<Arc<Source>, String>, mistakes: &Mistakes) {
    let mut next = file.extends.clone();
    for depth in 0.. {
        let Some(Placed { value: name, at }) = next else { return };
        if depth >= DEPTH_MAX {
            mistakes.error(&at, format!("more than {DEPTH_MAX} profiles extend one another"), "do they go round in a circle?");
            return;
        }
        let base = match extend(&name) {
            Ok(source) => File::read(&source, mistakes),
            Err(reason) => {
                mistakes.error(&at, format!("there is no profile \"{name}\" to extend: {reason}"), suggestion(&name, &super::SHIPPED));
                return;
            }
        };
        next = base.extends;
        file.prefix = file.prefix.take().or(base.prefix);
        file.credential = file.credential.take().or(base.credential);
        file.client = file.client.take().or(base.client);
        file.denied = file.denied.take().or(base.denied);
        file.anonymous = file.anonymous.or(base.anonymous);
        file.ignore_headers = file.ignore_headers.take().or(base.ignore_headers);
        file.class = file.class.take().or(base.class);
        file.unmatched = file.unmatched.take().or(base.unmatched);
        file.failure = file.failure.take().or(base.failure);
        file.reject = file.reject.take().or(base.reject);
        file.routes.extend(base.routes);
        file.examples.extend(base.examples);
    }
}

fn build(file: &File, classes: &Classes, mistakes: &Mistakes) -> Profile {
    let mut looks = Looks::default();
    let class = |placed: &Option<Placed<String>>, default: &str| match placed {
        Some(Placed { value, at }) => resolve(value, at, classes, mistakes),
        None => classes.find(default).unwrap_or(Class(0)),
    };
    let default = class(&file.class, "sync");
    let unmatched = class(&file.unmatched, "other");
    let mut probes = |selectors: &Option<Vec<Placed<Selector>>>| -> Vec<Probe> {
        selectors.iter().flatten().map(|selector| Probe::new(selector.value.clone(), &mut looks)).collect()
    };
    let credential = probes(&file.credential);
    let client = probes(&file.client);
    let who_in_body = credential.iter().chain(&client).any(|probe| probe.selector.reads_body());
    let routes = file.routes.iter().map(|route| build_route(file, route, default, &mut looks, classes, mistakes)).collect();
    let (meaning, meanings) = meaning::of(file);
    Profile {
        name: file.name.clone().unwrap_or_default(),
        anonymous: file.anonymous.unwrap_or(false),
        prefix: file.prefix.clone().unwrap_or_default(),
        credential,
        client,
        denied: reply::Tests::new(file.denied.as_deref().unwrap_or_default()),
        noise: Noise::new(file.ignore_headers.iter().flatten(), credentials(file)),
        unmatched,
        unmatched_long: long_of(unmatched, classes),
        failure: file.failure.clone(),
        reject: file.reject.clone(),
        routes,
        looks,
        who_in_body,
        meaning,
        meanings,
    }
}

fn credentials(file: &File) -> impl Iterator<Item = &Selector> {
    file.credential.iter().flatten().map(|placed| &placed.value)
}

fn build_route(file: &File, route: &file::Route, default: Class, looks: &mut Looks, classes: &Classes, mistakes: &Mistakes) -> Route {
    let class = match &route.class {
        Some(Placed { value, at }) => resolve(value, at, classes, mistakes),
        None if route.answer.is_some() => classes.find("noop").unwrap_or(default),
        None => default,
    };
    let long = match &route.long {
        Some(Placed { value, at }) => resolve(value, at, classes, mistakes),
        None => long_of(class, classes),
    };
    let body = |selector: &Selector| selector.reads_body();
    let tests_body = route.when.iter().flatten().any(|test| body(&test.value.0));
    let scopes_body = route.scopes().any(|scope| scope.value.selectors().any(body));
    let mut prepare = |scopes: &Option<Scopes>, later: bool| {
        let prepared = |scopes: &Scopes| {
            let scopes = scopes.iter().filter(|scope| scope.value.reads_reply() == later);
            scopes.map(|scope| scope.value.prepare(looks)).collect::<Vec<Template<Probe>>>()
        };
        scopes.as_ref().map(prepared)
    };
    let reads = prepare(&route.reads, false);
    let writes = prepare(&route.writes, false);
    let later = prepare(&route.writes, true).unwrap_or_default();
    let pending = prepare(&route.pending, false);
    let when =
        route.when.iter().map(|tests| tests.iter().map(|test| (Probe::new(test.value.0.clone(), looks), test.value.1.clone())).collect());
    let when = when.collect();
    let read_by = || route.reads.iter().flatten().flat_map(|scope| scope.value.selectors());
    let answer = route.answer.as_ref();
    let ignored = file.ignore_headers.iter().flatten().chain(answer.iter().flat_map(|answer| &answer.ignore_headers));
    Route {
        name: route.name.clone(),
        methods: route.methods.clone(),
        patterns: route.paths.clone(),
        when,
        body_over: route.body_over,
        class,
        long,
        cost: route.cost,
        stream: route.stream,
        reads,
        writes,
        later,
        pending,
        key_body: answer.and_then(|answer| answer.key_body.as_deref()).map(|selectors| KeySelectors::new(selectors, read_by(), looks)),
        noise: Noise::new(ignored, credentials(file).chain(read_by())),
        only_if: reply::Tests::new(answer.map_or(&[][..], |answer| &answer.only_if)),
        answer: route.answer.clone(),
        tests_body,
        scopes_body,
    }
}

fn resolve(name: &str, at: &At, classes: &Classes, mistakes: &Mistakes) -> Class {
    classes.find(name).unwrap_or_else(|| {
        let known: Vec<&str> = classes.iter().map(|(_, name)| name).collect();
        mistakes.error(at, format!("there is no class `{name}`"), format!("{}, or add a table [class.{name}]", suggestion(name, &known)));
        Class(0)
    })
}

/// `large` for `noop` and `sync`, else the class itself.
fn long_of(class: Class, classes: &Classes) -> Class {
    if matches!(classes.name(class), "noop" | "sync") { classes.find("large").unwrap_or(class) } else { class }
}
