//! Bodies, decoded as far as they were read, under a cap: a copy, never what is forwarded.

use std::{
    borrow::Cow,
    io::{BufRead, Read},
};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::{GzDecoder, ZlibDecoder};
use http::{HeaderMap, header::CONTENT_ENCODING};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

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

impl Content<'_> {
    /// What was decoded; nothing if it is unread.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) | Self::Prefix(bytes) => bytes,
            Self::Unread => &[],
        }
    }
}

/// What a Zstandard frame begins with (RFC 8878 section 3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The largest window of a Zstandard frame (RFC 9659).
const ZSTD_WINDOW_MAX: u64 = 8 * 1024 * 1024;

/// Decodes what was read of a body: `gzip`, `deflate` and `br` (RFC 9110 section 8.4.1, RFC 7932) and `zstd` (RFC 8878), this also where
/// no coding is said but the body begins like a frame, as real clients send it. Any other coding and more than one count as unread, as does what
/// cannot be decoded, does not match its checksum or goes on behind the end of its compression.
#[must_use]
pub fn decode<'a>(headers: &HeaderMap, body: BodySeen<'a>) -> Content<'a> {
    let (bytes, whole) = match body {
        BodySeen::Whole(bytes) => (bytes, true),
        BodySeen::Prefix(bytes) => (bytes, false),
        BodySeen::Unread if content_length(headers) == Some(0) => (&[][..], true),
        BodySeen::Unread => return Content::Unread,
    };
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let coding = match (codings.next(), codings.next()) {
        (None, _) => "",
        (Some(coding), None) => coding.to_str().unwrap_or("?").trim(),
        (Some(_), Some(_)) => return Content::Unread,
    };
    let is = |name: &str| coding.eq_ignore_ascii_case(name);
    if bytes.is_empty() && whole {
        content(Cow::Borrowed(bytes), whole)
    } else if is("zstd") || ((coding.is_empty() || is("identity")) && bytes.starts_with(&ZSTD)) {
        zstd(bytes, whole)
    } else if coding.is_empty() || is("identity") {
        content(Cow::Borrowed(bytes), whole)
    } else if is("gzip") || is("x-gzip") {
        inflate(GzDecoder::new(bytes), GzDecoder::into_inner, whole)
    } else if is("deflate") {
        inflate(ZlibDecoder::new(bytes), ZlibDecoder::into_inner, whole)
    } else if is("br") {
        brotli(bytes, whole)
    } else {
        Content::Unread
    }
}

fn content(bytes: Cow<'_, [u8]>, whole: bool) -> Content<'_> {
    if whole { Content::Whole(bytes) } else { Content::Prefix(bytes) }
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
            content(text.into(), whole)
        }
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && !whole => Content::Prefix(text.into()),
        Err(_) => Content::Unread,
    }
}

/// One output of a byte more than the cap: a stream that fills it is longer. Large windows, which no `Content-Encoding` has, are refused.
fn brotli<'a>(bytes: &[u8], whole: bool) -> Content<'a> {
    let alloc = StandardAlloc::default;
    let mut state = BrotliState::new_strict(alloc(), alloc(), alloc());
    let mut text = vec![0; DECODED_MAX + 1];
    let (mut left, mut read, mut room, mut written, mut total) = (bytes.len(), 0, text.len(), 0, 0);
    let result = BrotliDecompressStream(&mut left, &mut read, bytes, &mut room, &mut written, &mut text, &mut total, &mut state);
    text.truncate(written.min(DECODED_MAX));
    match result {
        _ if written > DECODED_MAX => Content::Prefix(text.into()),
        BrotliResult::ResultSuccess if left == 0 => content(text.into(), whole),
        BrotliResult::NeedsMoreInput if !whole => Content::Prefix(text.into()),
        BrotliResult::ResultSuccess | BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput | BrotliResult::ResultFailure => {
            Content::Unread
        }
    }
}

/// One whole frame. Its decoder gives nothing away before the window is full or the frame ends, so a frame that is cut, or longer than the cap, is
/// unread. Decoding stops at the first block behind the cap: a block holds 128 KiB at most.
fn zstd<'a>(bytes: &[u8], whole: bool) -> Content<'a> {
    decode_frame(bytes).filter(|_| whole).map_or(Content::Unread, |text| Content::Whole(text.into()))
}

fn decode_frame(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = bytes;
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(ZSTD_WINDOW_MAX);
    decoder.init(&mut rest).ok()?;
    if !decoder.decode_blocks(&mut rest, BlockDecodingStrategy::UptoBytes(DECODED_MAX + 1)).ok()? || !rest.is_empty() {
        return None;
    }
    let text = decoder.collect()?;
    let said = decoder.content_size();
    let sound = text.len() <= DECODED_MAX
        && (said == 0 || u64::try_from(text.len()) == Ok(said))
        && decoder.get_checksum_from_data().is_none_or(|checksum| decoder.get_calculated_checksum() == Some(checksum));
    sound.then_some(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn headers(coding: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !coding.is_empty() {
            headers.insert(CONTENT_ENCODING, coding.parse().expect("a value"));
        }
        headers
    }

    fn zstd_of(text: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn brotli_of(text: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        brotli::CompressorWriter::new(&mut bytes, 4096, 9, 22).write_all(text).expect("memory");
        bytes
    }

    fn gzip_of(text: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).expect("memory");
        gzip.finish().expect("memory")
    }

    fn forms(text: &[u8]) -> [(&'static str, Vec<u8>); 4] {
        [("br", brotli_of(text)), ("zstd", zstd_of(text)), ("", zstd_of(text)), ("gzip", gzip_of(text))]
    }

    #[test]
    fn every_coding_is_decoded_and_only_if_it_is_whole() {
        let text = br#"{"id":"a","changes":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}"#;
        for (coding, bytes) in forms(text) {
            let headers = headers(coding);
            assert_eq!(decode(&headers, BodySeen::Whole(&bytes)), Content::Whole(text.to_vec().into()), "{coding}");
            assert_eq!(decode(&headers, BodySeen::Whole(&[&bytes[..], b"x"].concat())), Content::Unread, "{coding} with bytes behind it");
            assert_eq!(decode(&headers, BodySeen::Whole(&[&bytes[..], &bytes].concat())), Content::Unread, "{coding} twice");
            for end in 1..bytes.len() {
                let cut = decode(&headers, BodySeen::Whole(&bytes[..end]));
                let plain = coding.is_empty() && end < ZSTD.len();
                assert!(cut == Content::Unread || plain, "{coding} cut at {end}: {cut:?}");
                let begun = decode(&headers, BodySeen::Prefix(&bytes[..end]));
                assert!(
                    plain || matches!(&begun, Content::Unread | Content::Prefix(_)) && text.starts_with(begun.bytes()),
                    "{coding} {end}"
                );
            }
        }
        assert_eq!(decode(&headers("compress"), BodySeen::Whole(text)), Content::Unread);
        assert_eq!(decode(&headers("br"), BodySeen::Whole(b"")), Content::Whole(Cow::Borrowed(b"")));
    }

    #[test]
    fn a_bomb_stops_at_the_cap() {
        let text = vec![b'x'; 64 << 20];
        for (coding, bytes) in forms(&text) {
            assert!(bytes.len() < 1 << 20, "{coding}: {}", bytes.len());
            let decoded = decode(&headers(coding), BodySeen::Whole(&bytes));
            assert!(decoded.bytes().len() <= DECODED_MAX && !matches!(decoded, Content::Whole(_)), "{coding}");
            let cut = decode(&headers(coding), BodySeen::Whole(&bytes[..bytes.len() / 2]));
            assert_eq!(cut, decoded, "{coding}: whoever goes on behind the cap meets the end of half a stream");
        }
        let most = vec![b'x'; DECODED_MAX];
        for (coding, bytes) in forms(&most) {
            assert_eq!(decode(&headers(coding), BodySeen::Whole(&bytes)).bytes().len(), DECODED_MAX, "{coding}");
            assert!(matches!(decode(&headers(coding), BodySeen::Whole(&bytes)), Content::Whole(_)), "{coding}");
        }
        for (coding, bytes) in forms(&vec![b'x'; DECODED_MAX + 1]) {
            assert!(!matches!(decode(&headers(coding), BodySeen::Whole(&bytes)), Content::Whole(_)), "{coding}");
        }
    }

    #[test]
    fn what_does_not_match_its_checksum_or_asks_for_too_much_memory_is_unread() {
        let text = b"the quick brown fox";
        let good = zstd_of(text);
        let mut wrong = good.clone();
        *wrong.last_mut().expect("bytes") ^= 1;
        assert_eq!(decode(&headers("zstd"), BodySeen::Whole(&wrong)), Content::Unread);
        // A frame of one raw block, with a window of 1 KiB, 8 MiB and 16 MiB.
        for (window, read) in [(0x00, true), (13 << 3, true), (14 << 3, false)] {
            let frame = [&ZSTD[..], &[0x00, window, 0x09, 0x00, 0x00, b'x']].concat();
            let expected = if read { Content::Whole(Cow::Borrowed(&b"x"[..])) } else { Content::Unread };
            assert_eq!(decode(&headers("zstd"), BodySeen::Whole(&frame)), expected, "{window}");
        }
        // A skippable frame, and a frame that says another length than it has.
        assert_eq!(decode(&headers("zstd"), BodySeen::Whole(&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0])), Content::Unread);
        let lying = [&ZSTD[..], &[0x20, 0x02, 0x09, 0x00, 0x00, b'x']].concat();
        assert_eq!(decode(&headers("zstd"), BodySeen::Whole(&lying)), Content::Unread);
        // A large-window stream of brotli begins with 0x11.
        assert_eq!(decode(&headers("br"), BodySeen::Whole(&[0x11, 0x1e, 0x00, 0x00])), Content::Unread);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic() {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        let mut random = fastrand::Rng::with_seed(seed);
        let text: Vec<u8> = (0..600).map(|index| b"abcab"[index % 5]).collect();
        let forms = forms(&text);
        for _ in 0..20_000 {
            let (coding, mut bytes) = forms[random.usize(..forms.len())].clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            let decoded = decode(&headers(coding), BodySeen::Whole(&bytes));
            assert!(coding.is_empty() || decoded.bytes().len() <= DECODED_MAX, "seed {seed}");
        }
    }
}
