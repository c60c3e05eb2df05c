//! Answers in the form in which they are stored and replayed, with versions as their bodies.

use bytes::Bytes;
use http::StatusCode;
use tidegate::{
    flow::fresh::{answers::Stored, keys::Reads, ledger::Asked, replay},
    profile::{Answer, RouteId},
    wire::{Body, Response},
};

use super::app::{LEAVES, Versions};

/// An answer as it is stored, with its number and its versions.
pub fn encode(id: u64, versions: &Versions, reads: &Reads, asked: &Asked) -> Stored {
    let words: Vec<String> =
        std::iter::once(id).chain(versions.iter().map(|version| u64::from(*version))).map(|word| word.to_string()).collect();
    let body = Bytes::from(words.join(" "));
    let head = http::Response::builder().header("content-length", body.len()).body(()).expect("a sound head").into_parts().0;
    let kept = replay::keep(&head, &body, &rules()).expect("a small answer");
    Stored { kept, reads: reads.clone(), s: asked.s, asked_at: asked.asked_at, route: RouteId(2) }
}

/// The number of a replayed answer, and its versions.
pub fn decode(response: Response) -> (u64, Versions) {
    let Body::Full(body) = response.into_body() else { panic!("a replay without a body") };
    let text = std::str::from_utf8(&body).expect("digits");
    let mut words = text.split(' ').map(|word| word.parse::<u64>().expect("a number"));
    let id = words.next().expect("its number");
    let mut versions = [0; LEAVES];
    for (version, word) in versions.iter_mut().zip(words) {
        *version = u32::try_from(word).expect("a version");
    }
    (id, versions)
}

fn rules() -> Answer {
    Answer {
        statuses: vec![StatusCode::OK],
        mode: None,
        age_max: None,
        key_body: None,
        ignore_headers: Vec::new(),
        only_if: Vec::new(),
        renew: Vec::new(),
        drop: Vec::new(),
    }
}
