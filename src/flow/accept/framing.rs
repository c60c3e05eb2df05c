//! A guard below hyper's parser, which takes `Content-Length` beside `Transfer-Encoding` and shows only the latter (RFC 9112 section 6.1
//! lets a server do so). A proxy must not: the two may be what two parsers read differently. The guard follows the bytes of a connection
//! from head to head and says which head held both. It changes nothing, and where it loses its way it says nothing more; hyper then finds
//! the same bytes malformed.

/// The most bytes of one line that matter: the longest name that is looked for, and a length.
const LINE_MAX: usize = 48;

/// Where in the stream the guard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In a head; the flag says whether its request line was read.
    Head(bool),
    /// This many bytes before the end of a body.
    Body(u64),
    ChunkSize,
    /// This many bytes before the end of a chunk.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// Lost, or not needed any more.
    Lost,
}

/// Follows the bytes that a client sends.
#[derive(Debug)]
pub struct Framing {
    at: At,
    line: [u8; LINE_MAX],
    length: usize,
    heads: u64,
    declared: Option<u64>,
    chunked: bool,
}

impl Default for Framing {
    fn default() -> Self {
        Self { at: At::Head(false), line: [0; LINE_MAX], length: 0, heads: 0, declared: None, chunked: false }
    }
}

impl Framing {
    /// Follows what was read. Returns the number of the head, counted from 1, that frames its body in two ways; nothing is followed after
    /// it, as hyper closes such a connection.
    pub fn see(&mut self, mut bytes: &[u8]) -> Option<u64> {
        while !bytes.is_empty() {
            match self.at {
                At::Lost => return None,
                At::Body(left) => bytes = self.skip(bytes, left, At::Body, At::Head(false)),
                At::Chunk(left) => bytes = self.skip(bytes, left, At::Chunk, At::ChunkEnd),
                At::Head(_) | At::ChunkSize | At::ChunkEnd | At::Trailers => {
                    let Some(end) = memchr::memchr(b'\n', bytes) else {
                        self.keep(bytes);
                        return None;
                    };
                    self.keep(&bytes[..end]);
                    bytes = &bytes[end + 1..];
                    if self.end_of_line() {
                        return Some(self.heads);
                    }
                }
            }
        }
        None
    }

    fn skip<'a>(&mut self, bytes: &'a [u8], left: u64, still: fn(u64) -> At, then: At) -> &'a [u8] {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - count as u64;
        self.at = if left == 0 { then } else { still(left) };
        &bytes[count..]
    }

    fn keep(&mut self, bytes: &[u8]) {
        let from = self.length.min(LINE_MAX);
        let count = bytes.len().min(LINE_MAX - from);
        self.line[from..from + count].copy_from_slice(&bytes[..count]);
        self.length += bytes.len();
    }

    /// A line is complete; true if it ends a head that frames its body in two ways.
    fn end_of_line(&mut self) -> bool {
        let whole = self.length <= LINE_MAX;
        let copy = self.line;
        let line = &copy[..self.length.min(LINE_MAX)];
        let text = if whole { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
        let empty = text.is_empty();
        self.length = 0;
        match self.at {
            At::Head(false) if empty => {}
            At::Head(false) => self.at = At::Head(true),
            At::Head(true) if empty => return self.end_of_head(),
            At::Head(true) => self.field(text, whole),
            At::ChunkSize => self.at = chunk_size(text).map_or(At::Lost, |size| if size == 0 { At::Trailers } else { At::Chunk(size) }),
            At::ChunkEnd => self.at = if empty { At::ChunkSize } else { At::Lost },
            At::Trailers if empty => self.at = At::Head(false),
            At::Trailers | At::Body(_) | At::Chunk(_) | At::Lost => {}
        }
        false
    }

    fn field(&mut self, line: &[u8], whole: bool) {
        if let Some(value) = value_of(line, b"content-length:") {
            let value = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
            self.declared = Some(value.filter(|_| whole).unwrap_or(u64::MAX));
        } else if value_of(line, b"transfer-encoding:").is_some() {
            self.chunked = true;
        }
    }

    fn end_of_head(&mut self) -> bool {
        self.heads += 1;
        let (declared, chunked) = (self.declared.take(), std::mem::take(&mut self.chunked));
        self.at = match (declared, chunked) {
            (Some(_), true) => At::Lost,
            (None, true) => At::ChunkSize,
            (Some(length), false) if length > 0 => At::Body(length),
            (_, false) => At::Head(false),
        };
        declared.is_some() && chunked
    }
}

/// What follows a field's name, whose letters may be of either case.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, value) = line.split_at_checked(name.len())?;
    found.eq_ignore_ascii_case(name).then_some(value)
}

/// The size of a chunk; its extensions are nobody's business here (RFC 9112 section 7.1.1).
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = b"\r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab\n\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n\r\n\r\nz\r\n0\r\nContent-Length: 3\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const BOTH: &[u8] = b"POST / HTTP/1.1\r\ncontent-LENGTH: 3\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";

    fn see_in_pieces(bytes: &[u8], size: usize) -> Option<u64> {
        let mut framing = Framing::default();
        bytes.chunks(size).find_map(|piece| framing.see(piece))
    }

    #[test]
    fn bodies_are_followed_to_the_next_head_however_they_are_cut() {
        let mut all = GOOD.to_vec();
        all.extend_from_slice(BOTH);
        for size in 1..all.len() {
            assert_eq!(see_in_pieces(GOOD, size), None, "pieces of {size}");
            assert_eq!(see_in_pieces(&all, size), Some(4), "pieces of {size}");
        }
    }

    #[test]
    fn what_looks_like_a_field_in_a_body_is_none() {
        let body = b"transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n";
        let mut bytes = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        assert_eq!(see_in_pieces(&bytes, 7), None);
    }

    #[test]
    fn garbage_is_not_followed_and_never_panics() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut framing = Framing::default();
            for _ in 0..random.usize(1..6) {
                let alphabet = b"\r\n:;0aF xcontent-length:transfer-encoding";
                let bytes: Vec<u8> = (0..random.usize(0..40)).map(|_| alphabet[random.usize(..alphabet.len())]).collect();
                framing.see(&bytes);
            }
        }
    }
}
