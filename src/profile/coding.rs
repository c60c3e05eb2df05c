//! Bodies, decoded as far as they were read, under a cap: a copy, never what is forwarded.

use std::{
    borrow::Cow,
    io::{BufRead, Read},
};

use flate2::bufread::{GzDecoder, ZlibDecoder};
use http::{HeaderMap, header::CONTENT_ENCODING};

use super::{BodySeen, body::content_length};

/// The most bytes that a compressed body is decoded to; what exceeds them is read as a prefix.
pub const DECODED_MAX: usize = 64 * 1024;

/// A body, decoded, as far as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// All of it.
    Whole(Cow<'a, [u8]>),
    /// Its beginning.
    Prefix(Cow<'a, [u8]>),
    /// Not read, or not decodable.
    Unread,
}

/// Decodes what was read of a body. `gzip` and `deflate` (RFC 9110 section 8.4.1) are decoded; any other coding, more than one, and a body
/// that begins like Zstandard (RFC 8878) count as unread, as does what cannot be decoded or goes on behind the end of its compression.
#[must_use]
pub fn decode<'a>(headers: &HeaderMap, body: BodySeen<'a>) -> Content<'a> {
    let (bytes, whole) = match body {
        BodySeen::Whole(bytes) => (bytes, true),
        BodySeen::Prefix(bytes) => (bytes, false),
        BodySeen::Unread if content_length(headers) == Some(0) => (&[][..], true),
        BodySeen::Unread => return Content::Unread,
    };
    let plain = |bytes: Cow<'a, [u8]>, whole| if whole { Content::Whole(bytes) } else { Content::Prefix(bytes) };
    if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Content::Unread;
    }
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let coding = match (codings.next(), codings.next()) {
        (None, _) => return plain(Cow::Borrowed(bytes), whole),
        (Some(coding), None) => coding.to_str().unwrap_or_default().trim(),
        (Some(_), Some(_)) => return Content::Unread,
    };
    if coding.is_empty() || coding.eq_ignore_ascii_case("identity") || (bytes.is_empty() && whole) {
        return plain(Cow::Borrowed(bytes), whole);
    }
    if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
        inflate(GzDecoder::new(bytes), GzDecoder::into_inner, whole)
    } else if coding.eq_ignore_ascii_case("deflate") {
        inflate(ZlibDecoder::new(bytes), ZlibDecoder::into_inner, whole)
    } else {
        Content::Unread
    }
}

fn inflate<'a, D: Read>(mut decoder: D, remainder: impl FnOnce(D) -> &'a [u8], whole: bool) -> Content<'a> {
    let mut text = Vec::new();
    let limit = u64::try_from(DECODED_MAX).unwrap_or(u64::MAX);
    match decoder.by_ref().take(limit).read_to_end(&mut text) {
        Ok(_) => {
            let mut one = [0];
            if text.len() == DECODED_MAX && decoder.read(&mut one).map_or(true, |read| read > 0) {
                return Content::Prefix(text.into());
            }
            let mut behind = remainder(decoder);
            if behind.fill_buf().is_ok_and(|rest| !rest.is_empty()) {
                return Content::Unread;
            }
            if whole { Content::Whole(text.into()) } else { Content::Prefix(text.into()) }
        }
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && !whole => Content::Prefix(text.into()),
        Err(_) => Content::Unread,
    }
}
