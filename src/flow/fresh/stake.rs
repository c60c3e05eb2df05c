//! What hangs on a call to the app: the write that it makes, or the question that it asks, and how it ends.

mod shell;

use http::{StatusCode, Version, header, response::Parts};
use smallvec::SmallVec;

/// The most members of a list of scopes in a header.
const LISTED_MAX: usize = 16;

pub use self::shell::{Stake, Whose, Widening, Write};

/// Whether the end of this answer's body is told by its framing: by its length or by chunks. One that ends with its connection may have been cut
/// short (RFC 9112 section 8).
#[must_use]
pub fn is_delimited(method_is_head: bool, head: &Parts) -> bool {
    let bodiless = method_is_head || head.status == StatusCode::NO_CONTENT || head.status == StatusCode::NOT_MODIFIED;
    let framed = match head.headers.get_all(header::TRANSFER_ENCODING).iter().next_back() {
        // Beside any transfer coding a length counts for nothing (RFC 9112 section 6.3).
        Some(coding) => {
            let last = coding.to_str().ok().and_then(|text| text.rsplit(',').next());
            head.version >= Version::HTTP_11 && last.is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"))
        }
        None => head.headers.contains_key(header::CONTENT_LENGTH),
    };
    bodiless || framed
}

/// Whether this status says that the app is done with the request, whatever it did (rule 3).
#[must_use]
pub fn is_known(status: StatusCode) -> bool {
    !status.is_server_error() && !status.is_informational() && status != StatusCode::ACCEPTED && status != StatusCode::REQUEST_TIMEOUT
}

/// The scopes that a list names, `doc:a, tree:/b`. A comma may also stand in a name: so whatever several members in a row could be together is
/// named as well. More than 16 members are everything.
pub fn listed(text: &str) -> impl Iterator<Item = &str> {
    let commas: SmallVec<[usize; LISTED_MAX]> = text.match_indices(',').map(|(at, _)| at).take(LISTED_MAX).collect();
    let everything = (commas.len() >= LISTED_MAX).then_some("*");
    let starts = std::iter::once(0).chain(commas.clone().into_iter().map(|at| at + 1));
    let ends: SmallVec<[usize; LISTED_MAX]> = commas.into_iter().chain([text.len()]).collect();
    let runs = starts.flat_map(move |start| ends.clone().into_iter().filter(move |end| *end >= start).map(move |end| (start, end)));
    let members = runs.filter_map(|(start, end)| {
        let run = text.get(start..end)?.trim();
        // A run of several must begin like a scope with a name; one alone is what it is.
        let several = run.contains(',');
        let named = run.split(',').next().is_some_and(|first| first.contains(':'));
        (!run.is_empty() && (!several || named)).then_some(run)
    });
    everything.into_iter().chain(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, status: u16, fields: &[(&'static str, &'static str)]) -> Parts {
        let mut builder = http::Response::builder().version(version).status(status);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect("a sound head").into_parts().0
    }

    #[test]
    fn an_answer_that_ends_with_its_connection_may_have_been_cut_short() {
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        assert!(!is_delimited(false, &head(new, 200, &[])));
        assert!(!is_delimited(false, &head(old, 200, &[("transfer-encoding", "chunked")])));
        assert!(!is_delimited(false, &head(new, 200, &[("transfer-encoding", "gzip")])));
        assert!(is_delimited(false, &head(new, 200, &[("transfer-encoding", "gzip, Chunked")])));
        assert!(is_delimited(false, &head(old, 200, &[("content-length", "3")])));
        assert!(!is_delimited(false, &head(new, 200, &[("content-length", "3"), ("transfer-encoding", "gzip")])));
        assert!(is_delimited(true, &head(new, 200, &[])));
        assert!(is_delimited(false, &head(new, 304, &[])) && is_delimited(false, &head(new, 204, &[])));
    }

    #[test]
    fn a_comma_may_stand_in_a_name() {
        let listed = |text| listed(text).collect::<Vec<_>>();
        assert_eq!(listed("doc:a"), ["doc:a"]);
        assert_eq!(listed(" doc:a , list,"), ["doc:a", "doc:a , list", "doc:a , list,", "list"]);
        assert_eq!(listed("doc:a,b"), ["doc:a", "doc:a,b", "b"]);
        assert!(listed("").is_empty() && listed(&"a,".repeat(40)).contains(&"*"));
    }

    #[test]
    fn some_statuses_leave_open_what_the_app_will_do() {
        for (status, known) in [(200, true), (409, true), (404, true), (202, false), (408, false), (500, false), (503, false), (101, false)]
        {
            assert_eq!(is_known(StatusCode::from_u16(status).expect("a status")), known, "{status}");
        }
    }
}
