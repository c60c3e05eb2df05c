//! `tidegate health`: asks `/healthz`, for Docker's health check and for scripts.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

/// How long every step may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the admin listener at `address` (`host:port`).
///
/// # Errors
/// A sentence that says why it is not healthy.
pub fn ask(address: &str) -> Result<(), String> {
    let why = |error: std::io::Error| format!("{address} does not answer: {error}");
    let mut stream = connect(address).map_err(why)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(why)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(why)?;
    let question = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).map_err(why)?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).map_err(why)?;
    match &head {
        b"HTTP/1.1 200" => Ok(()),
        other => Err(format!("{address} says `{}`", String::from_utf8_lossy(other).escape_debug())),
    }
}

/// Connects to `host:port`, over loopback where that is every address.
pub(super) fn connect(address: &str) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&reachable(candidate), TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A listener on every address is reached over loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    address
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut asked = [0; 1024];
            let length = stream.read(&mut asked).expect("a question");
            assert!(asked[..length].starts_with(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:"));
            stream.write_all(answer).expect("written");
        });
        address
    }

    #[test]
    fn only_a_200_is_healthy() {
        assert_eq!(ask(&server(b"HTTP/1.1 200 OK\r\n\r\nok\n")), Ok(()));
        assert!(ask(&server(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")).is_err_and(|why| why.contains("503")));
        assert!(ask(&server(b"HTTP/1")).is_err());
        assert!(ask("127.0.0.1:1").is_err_and(|why| why.contains("127.0.0.1:1 does not answer")));
        assert!(ask("nonsense").is_err());
    }

    #[test]
    fn a_listener_on_every_address_is_reached_over_loopback() {
        assert_eq!(reachable(SocketAddr::from(([0, 0, 0, 0], 9090))), SocketAddr::from(([127, 0, 0, 1], 9090)));
        assert_eq!(reachable(SocketAddr::from(([192, 0, 2, 1], 9090))), SocketAddr::from(([192, 0, 2, 1], 9090)));
    }
}
