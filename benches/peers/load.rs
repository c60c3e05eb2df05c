//! The clients and the app: as little work per request as possible, for they share a core and must not be what is measured.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Clients, each with its own connection, document and token.
pub const CONNECTIONS: usize = 64;

/// The body of what the app answers: nothing new.
pub const BODY: &str = r#"{"_code":"Ok","_msg":"","file_id":"Lb3mXq7TnVz-WkP2c","version":120384,"changes":[],"server_version":120384,"saved_at":1503900000000}"#;

/// What the app answers.
fn reply() -> Vec<u8> {
    let body = BODY;
    let head = format!("HTTP/1.1 200 OK\r\nServer: app\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body.as_bytes()].concat()
}

/// What client `number` asks: is there anything new?
fn request(address: SocketAddr, number: usize) -> Vec<u8> {
    let body = format!(
        r#"{{"token":"9f86d081884c7d659a2feaa0c55a{number:04}","file_id":"Lb3mXq7TnVz-{number:08}","version":120384,"changes":[]}}"#
    );
    let head = format!(
        "POST /sync HTTP/1.1\r\nHost: {address}\r\nUser-Agent: peers/1\r\nAccept: */*\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

fn body_begins(message: &[u8]) -> Option<usize> {
    message.windows(4).position(|window| window == b"\r\n\r\n").map(|place| place + 4)
}

/// The length of the first message in `bytes`, head and body, if all of it is there.
fn message(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(body) = body_begins(bytes) else { return Ok(None) };
    let wanted = b"content-length:";
    let length = bytes[..body].split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(wanted.len())?;
        name.eq_ignore_ascii_case(wanted).then(|| std::str::from_utf8(value).ok()?.trim().parse::<usize>().ok())?
    });
    let length = length.ok_or_else(|| io::Error::other("a message without a length"))?;
    let end = body + length;
    Ok((bytes.len() >= end).then_some(end))
}

/// The app: answers every request on every connection at once.
pub async fn serve(listener: TcpListener) {
    let reply = Rc::new(reply());
    while let Ok((mut stream, _)) = listener.accept().await {
        let reply = reply.clone();
        tokio::task::spawn_local(async move {
            stream.set_nodelay(true)?;
            let mut bytes = Vec::with_capacity(4096);
            while stream.read_buf(&mut bytes).await? > 0 {
                while let Some(end) = message(&bytes)? {
                    bytes.drain(..end);
                    stream.write_all(&reply).await?;
                }
            }
            io::Result::Ok(())
        });
    }
}

/// All clients, connected.
pub struct Crowd {
    clients: Vec<Client>,
}

struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    /// Where the document's number stands in it.
    place: usize,
    /// Its document now, and the number of all documents.
    document: usize,
    documents: usize,
    /// The length of the body that must come back.
    expected: usize,
    /// Of each request since the last look, how long its answer took.
    milliseconds: Vec<f64>,
}

/// What the clients saw.
pub struct Seen {
    /// Of each request, how long its answer took.
    pub milliseconds: Vec<f64>,
    pub elapsed: Duration,
}

impl Crowd {
    /// Clients that ask for so many documents, one after the other; each has its own share of them.
    pub async fn connect(address: SocketAddr, documents: usize) -> io::Result<Self> {
        let reply = reply();
        let expected = reply.len() - body_begins(&reply).unwrap_or_default();
        let mut clients = Vec::new();
        for number in 0..CONNECTIONS {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let request = request(address, number);
            let mark = b"Lb3mXq7TnVz-";
            let place = request.windows(mark.len()).position(|window| window == mark).unwrap_or_default() + mark.len();
            clients.push(Client { stream, request, place, document: number, documents, expected, milliseconds: Vec::new() });
        }
        Ok(Self { clients })
    }

    /// Every client asks once for each of its documents.
    ///
    /// # Errors
    /// Any answer that is not the app's.
    pub async fn ask_once(&mut self) -> io::Result<()> {
        let mut asking = JoinSet::new();
        for mut client in self.clients.drain(..) {
            asking.spawn_local(async move {
                let mut bytes = Vec::with_capacity(4096);
                for _ in 0..client.documents.div_ceil(CONNECTIONS) {
                    client.exchange(&mut bytes).await?;
                }
                io::Result::Ok(client)
            });
        }
        while let Some(client) = asking.join_next().await {
            self.clients.push(client??);
        }
        Ok(())
    }

    /// Every client asks, waits for the answer and asks again, for so long.
    ///
    /// # Errors
    /// Any answer that is not the app's.
    pub async fn run(&mut self, span: Duration) -> io::Result<Seen> {
        let begun = Instant::now();
        let stop = Rc::new(Cell::new(false));
        let mut asking = JoinSet::new();
        for client in self.clients.drain(..) {
            asking.spawn_local(client.ask(stop.clone()));
        }
        // Clients that never sleep: waking one costs several microseconds, and it would be charged to whoever writes to it, most of all
        // to the slowest, whose clients have time to fall asleep.
        let awake = stop.clone();
        let spinning = tokio::task::spawn_local(async move {
            while !awake.get() {
                tokio::task::yield_now().await;
            }
        });
        tokio::time::sleep(span).await;
        stop.set(true);
        spinning.await.map_err(io::Error::other)?;
        let mut milliseconds = Vec::new();
        while let Some(client) = asking.join_next().await {
            let mut client = client??;
            milliseconds.append(&mut client.milliseconds);
            self.clients.push(client);
        }
        Ok(Seen { milliseconds, elapsed: begun.elapsed() })
    }
}

impl Client {
    async fn ask(mut self, stop: Rc<Cell<bool>>) -> io::Result<Self> {
        let mut bytes = Vec::with_capacity(4096);
        while !stop.get() {
            let begun = Instant::now();
            self.exchange(&mut bytes).await?;
            self.milliseconds.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(self)
    }

    /// Asks for its document, and turns to the next one.
    async fn exchange(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.stream.write_all(&self.request).await?;
        bytes.clear();
        let end = loop {
            if self.stream.read_buf(bytes).await? == 0 {
                return Err(io::Error::other("the proxy closed a connection"));
            }
            if let Some(end) = message(bytes)? {
                break end;
            }
        };
        if !bytes.starts_with(b"HTTP/1.1 200") || end - body_begins(bytes).unwrap_or_default() != self.expected {
            return Err(io::Error::other(format!("not the app's answer: {}", String::from_utf8_lossy(bytes))));
        }
        if self.documents > CONNECTIONS {
            let next = self.document + CONNECTIONS;
            self.document = if next < self.documents { next } else { self.document % CONNECTIONS };
            let mut number = self.document;
            for digit in self.request[self.place..self.place + 8].iter_mut().rev() {
                *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
                number /= 10;
            }
        }
        Ok(())
    }
}
