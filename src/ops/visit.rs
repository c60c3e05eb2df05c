//! Asks a running tidegate's admin listener, for commands: one question, one answer, no runtime.

use std::io::{Read, Write};

use serde_json::Value;

use super::health::{TIMEOUT, connect};

/// A longer answer is none of tidegate's.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Where a running tidegate is asked.
#[derive(Clone, Debug)]
pub struct Desk {
    /// The admin listener, `host:port`.
    pub address: String,
    /// What it wants to be shown.
    pub token: Option<String>,
}

impl Desk {
    /// Asks for a page that is JSON.
    ///
    /// # Errors
    /// Sentences that say what went wrong and what to do.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        let address = &self.address;
        let nobody = |error: std::io::Error| {
            format!(
                "{address} does not answer: {error}.\nIs tidegate running there, with `[admin] address` set? Name that address with --admin."
            )
        };
        let cut = |error: std::io::Error| format!("{address} did not answer in full: {error}.");
        let mut stream = connect(address).map_err(nobody)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(cut)?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(cut)?;
        let shown = self.token.as_ref().map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let question = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{shown}Connection: close\r\n\r\n");
        stream.write_all(question.as_bytes()).map_err(cut)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(cut)?;
        let (status, body) = split(&answer).ok_or_else(|| format!("{address} does not speak HTTP: is it tidegate's admin listener?"))?;
        match status {
            200 => serde_json::from_slice(body).map_err(|error| format!("{address} says what cannot be read ({error}): is it tidegate's?")),
            401 => Err(format!("{address} wants a token: name the file that holds it with --token-file, as in `[admin] token_file`.")),
            404 => Err(format!("{address} has no page {path}: is it tidegate's admin listener, of this version?")),
            _ => Err(format!("{address} says {status}: {}", String::from_utf8_lossy(body).trim().escape_debug())),
        }
    }
}

/// The status and the body of an answer that ended with its connection.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let status = answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    Some((str::from_utf8(status).ok()?.parse().ok()?, &answer[end + 4..]))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// An admin listener for one question; it answers this and says what it was asked.
    fn desk(answer: &'static str, token: Option<&str>) -> (Desk, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut asked = [0; 1024];
            let length = stream.read(&mut asked).expect("a question");
            stream.write_all(answer.as_bytes()).expect("written");
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        (Desk { address, token: token.map(str::to_owned) }, asked)
    }

    #[test]
    fn an_answer_is_read_and_the_token_shown() {
        let (there, asked) = desk("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"a\":1}\n", Some("s3cret"));
        assert_eq!(there.get("/state").expect("JSON")["a"], 1);
        let asked = asked.join().expect("asked");
        assert!(
            asked.starts_with("GET /state HTTP/1.1\r\nHost: 127.0.0.1:") && asked.contains("Authorization: Bearer s3cret\r\n"),
            "{asked}"
        );
    }

    #[test]
    fn what_goes_wrong_says_what_to_do() {
        for (answer, part) in [
            ("HTTP/1.1 401 Unauthorized\r\n\r\n", "--token-file"),
            ("HTTP/1.1 403 Forbidden\r\n\r\nloopback names only\n", "says 403: loopback names only"),
            ("HTTP/1.1 404 Not Found\r\n\r\n", "has no page /state"),
            ("HTTP/1.1 200 OK\r\n\r\n<html>", "cannot be read"),
            ("220 smtp ready\r\n", "does not speak HTTP"),
            ("", "does not speak HTTP"),
        ] {
            let said = desk(answer, None).0.get("/state").expect_err("refused");
            assert!(said.contains(part), "{said}");
        }
        let nobody = Desk { address: "127.0.0.1:1".to_owned(), token: None };
        assert!(nobody.get("/state").is_err_and(|said| said.contains("127.0.0.1:1 does not answer") && said.contains("--admin")));
    }
}
