//! What forwarding promises, over real sockets.

mod common;

use common::{App, Tidegate, get};

#[tokio::test]
async fn a_request_reaches_the_app_and_its_answer_the_client() {
    let app = App::start().await;
    let tidegate = Tidegate::start(app.address, "").await;
    let answer = get(tidegate.listen, "/hello?bytes=5").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "xxxxx"));
    assert_eq!(app.seen()[0].headers["host"], "test");
}
