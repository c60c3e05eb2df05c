//! A refusal is heard: also by a client that is still sending, and through an nginx that passes its upload on.

mod common;

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use common::{Answer, App, Tidegate, Wire, pause, request, wire::message};
use tokio::net::TcpStream;

const FIVE_MB: usize = 5_000_000;

/// nginx in front of a tidegate, in the test's own folder.
struct Nginx {
    address: SocketAddr,
    child: Child,
}

impl Nginx {
    async fn start(folder: &Path, upstream: SocketAddr, buffering: &str) -> Self {
        // Not a port that outgoing connections are given.
        let port = (0..100)
            .map(|_| fastrand::u16(10_000..32_000))
            .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
            .expect("a port");
        let config = format!(
            "daemon off; worker_processes 1; pid nginx.pid; error_log stderr; events {{ worker_connections 256; }}\n\
             http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; \
             scgi_temp_path scgi; client_max_body_size 100m;\n\
             upstream tidegate {{ server {upstream}; keepalive 16; }}\n\
             server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://tidegate; proxy_http_version 1.1; \
             proxy_set_header Connection \"\"; proxy_request_buffering {buffering}; }} }} }}\n"
        );
        fs::write(folder.join("nginx.conf"), config).expect("a configuration");
        let said = fs::File::create(folder.join("nginx.log")).expect("a log");
        let child = Command::new("nginx")
            .env("PATH", format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default()))
            .arg("-p")
            .arg(folder)
            .args(["-c", "nginx.conf", "-e", "stderr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .expect("this test needs nginx: apt-get install nginx-light, or `tests/run tools`");
        let nginx = Self { address: ([127, 0, 0, 1], port).into(), child };
        common::eventually("nginx", || async { TcpStream::connect(nginx.address).await.is_ok().then_some(()) }).await;
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its worker.
        let _ = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// Sends everything before it reads, as most clients do.
async fn upload(address: SocketAddr, target: &str, body: &[u8]) -> Option<Answer> {
    let mut wire = Wire::connect(address).await;
    let whole = wire.try_send(message("POST", target, &[], body)).await;
    let answer = wire.try_answer().await?;
    assert!(whole || answer.status != 503, "it was told while it could not send on");
    Some(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upload_arrives_as_503_at_a_client_behind_nginx() {
    let app = App::start().await;
    let settings = "class.import.closed = true\nclass.other.rate = { per_second = 0.001, burst = 1 }\nclass.other.client.in_flight = 100";
    let tidegate = Tidegate::start(app.address, settings).await;
    assert_eq!(request(tidegate.listen, "POST", "/other/a", &[], b"x").await.status, 200);
    let mut sent = 1;
    for buffering in ["off", "on"] {
        let nginx = Nginx::start(tidegate.folder.path(), tidegate.listen, buffering).await;
        // 20 of 5 MB, one after the other and five at a time; refused by the first rule and by a later one.
        for (target, size, count) in [("/import/a", FIVE_MB, 20), ("/other/a", FIVE_MB, 20), ("/import/a", 200_000, 20)] {
            let body: std::sync::Arc<[u8]> = vec![b'u'; size].into();
            for number in 0..count / 5 {
                let uploads: Vec<_> = (0..5)
                    .map(|_| {
                        let (address, body) = (nginx.address, std::sync::Arc::clone(&body));
                        tokio::spawn(async move { upload(address, target, &body).await })
                    })
                    .collect();
                for answer in uploads {
                    let answer = answer.await.expect("no panic");
                    let status = answer.as_ref().map(|answer| answer.status);
                    assert_eq!(status, Some(503), "{size} bytes to {target}, buffering {buffering}, round {number}: {answer:?}");
                    assert!(answer.is_some_and(|answer| answer.retry_after() > 0));
                }
            }
            sent += count;
        }
    }
    assert_eq!(app.seen().len(), 1);
    let lines = tidegate.at_rest(sent).await;
    assert!(lines.iter().skip(1).all(|line| line["outcome"] == "refused" && line["status"] == 503));
}

#[tokio::test]
async fn a_client_that_sends_everything_before_it_reads_hears_a_refusal() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "class.import.closed = true\nclass.sync.closed = true").await;
    for target in ["/import/a", "/inspected"] {
        for size in [100_000, FIVE_MB] {
            let answer = upload(tidegate.listen, target, &vec![b'u'; size]).await.expect("an answer");
            assert_eq!(answer.status, 503);
        }
    }
    // A body that was refused early and read to its end leaves nothing behind.
    tidegate.at_rest(4).await;
    tidegate.until_metric("tidegate_connections", 0.0).await;
}

#[tokio::test]
async fn what_is_read_after_a_refusal_is_bounded_in_bytes_and_time() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "class.import.closed = true\ngate.linger_bytes = \"1MiB\"").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("POST", "/import/a", &["content-length: 1000000000"], &[])).await;
    assert_eq!(wire.answer().await.status, 503, "it is answered at once");
    let part = vec![b'u'; 1_000_000];
    let mut taken = 0;
    while taken < 200 && wire.try_send(&part).await {
        taken += 1;
    }
    assert!(taken < 100, "{taken} MB were taken");

    let tidegate = Tidegate::start(app.address, "class.import.closed = true\ngate.linger = \"500ms\"").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    wire.send(message("POST", "/import/a", &["content-length: 1000000000"], &[])).await;
    assert_eq!(wire.answer().await.status, 503);
    let mut open = true;
    for _ in 0..100 {
        open = wire.try_send(b"u").await;
        if !open {
            break;
        }
        pause(50).await;
    }
    assert!(!open, "a trickle is not read for ever");
    tidegate.at_rest(1).await;
}

#[tokio::test]
async fn the_connection_serves_on_after_a_refused_body_that_fits() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "class.import.closed = true").await;
    let mut wire = Wire::connect(tidegate.listen).await;
    for _ in 0..3 {
        wire.send(message("POST", "/import/a", &[], &vec![b'u'; 50_000])).await;
        assert_eq!(wire.answer().await.status, 503);
    }
    wire.send(message("GET", "/other/a?bytes=2", &[], &[])).await;
    assert_eq!(wire.answer().await.text(), "xx");
    tidegate.at_rest(4).await;
}
