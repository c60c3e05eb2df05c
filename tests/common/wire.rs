//! HTTP/1.1 as bytes: one end of a connection, and answers read apart.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// The longest that an end waits for bytes.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer, read apart.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// Whether the body is whole by its own framing.
    pub whole: bool,
    /// The lines after the last chunk.
    pub trailers: Vec<String>,
    /// Whether the connection ended by a reset.
    pub reset: bool,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// `Retry-After` in seconds.
    pub fn retry_after(&self) -> u64 {
        let value = self.header("retry-after").unwrap_or_else(|| panic!("no Retry-After in {}", self.head));
        value.parse().expect("whole seconds")
    }

    /// The rule of `Tidegate-Decision`.
    pub fn rule(&self) -> String {
        let decision = self.header("tidegate-decision").unwrap_or_else(|| panic!("no Tidegate-Decision in {}", self.head));
        decision.split("rule=").nth(1).and_then(|rest| rest.split(';').next()).expect("a rule").to_owned()
    }
}

/// One end of a connection.
pub struct Wire {
    pub socket: TcpStream,
    buffer: Vec<u8>,
    ended: Option<std::io::ErrorKind>,
    eof: bool,
}

impl Wire {
    pub fn new(socket: TcpStream) -> Self {
        socket.set_nodelay(true).expect("a socket");
        Self { socket, buffer: Vec::new(), ended: None, eof: false }
    }

    pub async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.expect("it listens"))
    }

    /// Writes; the other side must take it.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.expect("it reads");
    }

    /// Writes, if the other side still takes it.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.socket.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Ends its own side.
    pub async fn finish(&mut self) {
        let _ = self.socket.shutdown().await;
    }

    /// Ends it by a reset.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }

    /// Reads on; false at the end.
    async fn more(&mut self) -> bool {
        if self.eof {
            return false;
        }
        self.buffer.reserve(65536);
        match tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.buffer)).await {
            Ok(Ok(0)) => self.eof = true,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                self.ended = Some(error.kind());
                self.eof = true;
            }
            Err(elapsed) => {
                panic!("nothing came, {elapsed}; so far {:?}", String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(2000)]))
            }
        }
        !self.eof
    }

    /// A head, without its last line's end; none at the end of the connection.
    pub async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = position(&self.buffer, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 4);
                return Some(head);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// So many bytes, or fewer at the end.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count && self.more().await {}
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count).collect()
    }

    /// Reads and throws away so many bytes, or fewer at the end; says how many.
    pub async fn skip(&mut self, count: usize) -> usize {
        let mut left = count;
        loop {
            let now = left.min(self.buffer.len());
            self.buffer.drain(..now);
            left -= now;
            if left == 0 || !self.more().await {
                return count - left;
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = position(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Some(line);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next answer, whole by its framing; one of 1xx counts as an answer.
    pub async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    /// The next answer to a request of this method.
    pub async fn answer_to(&mut self, method: &str) -> Answer {
        let answer = self.read_answer(method).await;
        answer.unwrap_or_else(|| panic!("no answer, but {:?} and {:?}", String::from_utf8_lossy(&self.buffer), self.ended))
    }

    /// The next answer; none if the connection ends before its head.
    pub async fn try_answer(&mut self) -> Option<Answer> {
        self.read_answer("GET").await
    }

    /// Whether the other side has ended the connection by a reset.
    pub fn was_reset(&self) -> bool {
        self.ended == Some(std::io::ErrorKind::ConnectionReset)
    }

    async fn read_answer(&mut self, method: &str) -> Option<Answer> {
        let head = self.head().await?;
        let status: u16 = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let mut answer = Answer { status, head, whole: true, ..Answer::default() };
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Some(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            self.chunks(&mut answer).await;
        } else if let Some(length) = answer.header("content-length").and_then(|length| length.parse::<usize>().ok()) {
            answer.body = self.bytes(length).await;
            answer.whole = answer.body.len() == length;
        } else {
            while self.more().await {}
            answer.body = std::mem::take(&mut self.buffer);
            answer.whole = self.ended.is_none();
        }
        answer.reset = self.was_reset();
        Some(answer)
    }

    async fn chunks(&mut self, answer: &mut Answer) {
        answer.whole = false;
        while let Some(line) = self.line().await {
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16).expect("a chunk's size");
            if size == 0 {
                while let Some(line) = self.line().await {
                    if line.is_empty() {
                        answer.whole = true;
                        return;
                    }
                    answer.trailers.push(line);
                }
                return;
            }
            let chunk = self.bytes(size).await;
            answer.body.extend_from_slice(&chunk);
            if chunk.len() < size || self.bytes(2).await != b"\r\n" {
                return;
            }
        }
    }

    /// Whether the other side ends the connection without another byte.
    pub async fn ends(&mut self) -> bool {
        while self.more().await {}
        self.buffer.is_empty()
    }

    /// Whether nothing came for so long.
    pub async fn silent(&mut self, ms: u64) -> bool {
        let _ = tokio::time::timeout(Duration::from_millis(ms), self.more()).await;
        self.buffer.is_empty() && !self.eof
    }
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// The bytes of a request; `headers` are whole lines without their ends. A `host` line among them replaces `host: test`.
pub fn message(method: &str, target: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !headers.iter().any(|header| header.starts_with("host:")) {
        head.push_str("host: test\r\n");
    }
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    let mut bytes = head.into_bytes();
    if !body.is_empty() {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// One request on a connection of its own. What cannot be written any more because an answer came early is not.
pub async fn request(address: SocketAddr, method: &str, target: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut headers = headers.to_vec();
    if !headers.iter().any(|header| header.starts_with("connection:")) {
        headers.push("connection: close");
    }
    let mut wire = Wire::connect(address).await;
    wire.try_send(message(method, target, &headers, body)).await;
    wire.answer_to(method).await
}

/// A GET.
pub async fn get(address: SocketAddr, target: &str) -> Answer {
    request(address, "GET", target, &[], &[]).await
}

/// A GET of this client.
pub async fn get_as(address: SocketAddr, client: &str, target: &str) -> Answer {
    request(address, "GET", target, &[&format!("x-client: {client}")], &[]).await
}

/// Raw bytes on a connection of its own, and the answer.
pub async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Answer {
    let mut wire = Wire::connect(address).await;
    wire.try_send(bytes).await;
    wire.answer().await
}

/// An app of raw bytes: `serve` gets each connection with its number, from 0.
pub struct WireApp {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl WireApp {
    pub async fn start<F, S>(serve: S) -> Self
    where
        S: Fn(Wire, usize) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            let mut number = 0;
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                tokio::spawn(serve(Wire::new(socket), number));
                number += 1;
            }
        });
        Self { address, task }
    }
}

impl Drop for WireApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The value of a header in a head.
pub fn header_of<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
