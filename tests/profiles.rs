//! The shipped profiles, as `tidegate check` sees them.

use std::sync::Arc;

use tidegate::{
    model::Classes,
    profile::{Profile, SHIPPED, shipped},
    written::{Mistakes, Severity, Source, render},
};

fn source(name: &str) -> Result<Arc<Source>, String> {
    let text = shipped(name).ok_or("it is not shipped")?.to_owned();
    Ok(Arc::new(Source { name: format!("config/profiles/{name}.toml"), text }))
}

fn compile(name: &str) -> (Option<Profile>, Vec<tidegate::written::Mistake>) {
    let mistakes = Mistakes::default();
    let profile = Profile::compile(&source(name).expect("shipped"), &source, &Classes::shipped(), &mistakes);
    (profile, mistakes.into_list())
}

#[test]
fn every_shipped_profile_passes_its_own_examples() {
    for name in SHIPPED {
        let (profile, mistakes) = compile(name);
        let errors: Vec<_> = mistakes.into_iter().filter(|mistake| mistake.severity == Severity::Error).collect();
        assert!(errors.is_empty() && profile.is_some(), "{name}\n{}", render(&errors));
    }
}

#[test]
fn every_shipped_profile_warns_only_of_what_is_meant() {
    let meant: [(&str, &[&str]); 5] = [
        ("dynalist", &["the route `edit of files` writes everything"]),
        ("couchdb", &["the route `the server's own, changed` writes everything"]),
        (
            "kinto",
            &[
                "the route `the bucket with two names` writes everything",
                "the route `batch on the bucket with two names` writes everything",
                "the route `batch with defaults: everything` writes everything",
            ],
        ),
        ("caldav", &[]),
        ("generic", &[]),
    ];
    for (name, meant) in meant {
        let (_, mistakes) = compile(name);
        assert_eq!(mistakes.len(), meant.len(), "{name}\n{}", render(&mistakes));
        for (mistake, meant) in mistakes.iter().zip(meant) {
            assert!(mistake.what.starts_with(meant), "{name}: {mistake}");
        }
    }
}
