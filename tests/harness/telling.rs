//! A service that tells who it is and what it was sent.

use std::time::Duration;

use super::connection::Connection;
use super::frame::{pong, text};
use super::head::{Head, Response, accepting};
use super::service::Service;

/// How long a slow answer takes.
const MOMENT: Duration = Duration::from_millis(300);

impl Service {
    /// Answers with its name in `X-Service`, and with the head it was sent as the body. The fields that
    /// `X-Say` fields name are sent along, and a path with `/status/418` in it gets that status. One that
    /// begins with `/silent` gets no answer, with `/deaf` is not even read on, with `/slow` waits for a
    /// moment. Of a WebSocket the first message is the head; then it echoes.
    pub(crate) async fn telling(name: &'static str) -> Self {
        Self::start(move |connection| telling(connection, name)).await
    }
}

async fn telling(mut connection: Connection, name: &'static str) {
    while let Some(head) = connection.next_head().await {
        match head.target() {
            target if target.starts_with("/silent") => {
                while connection.next_bytes().await.is_some() {}
                return;
            }
            target if target.starts_with("/deaf") => std::future::pending().await,
            target if target.starts_with("/slow") => tokio::time::sleep(MOMENT).await,
            _ => {}
        }
        connection.read_body(&head).await;
        let said: String = head
            .fields("x-say")
            .iter()
            .map(|line| format!("{line}\r\n"))
            .collect();
        let upgrade = head.field("upgrade").unwrap_or_default();
        if upgrade.eq_ignore_ascii_case("websocket") && !head.target().contains("/status/") {
            let answer = accepting(&head).with("X-Service", name).to_wire();
            let answer = format!("{}\r\n{said}\r\n", answer.trim_end());
            connection.send(answer).await;
            connection.send_frame(text(head.to_wire())).await;
            echo(&mut connection).await;
            return;
        }
        let asked = head.target().split("/status/").nth(1).unwrap_or_default();
        let status = match asked.get(..3).and_then(|code| code.parse::<u16>().ok()) {
            Some(code) => format!("{code} As Asked"),
            None => "200 OK".to_owned(),
        };
        let body = match head.method() {
            "HEAD" => String::new(),
            _ => head.to_wire(),
        };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nX-Service: {name}\r\nContent-Length: {length}\r\n{said}\r\n{body}"
        );
        if connection.try_send(answer).await.is_err() {
            return;
        }
    }
}

async fn echo(connection: &mut Connection) {
    while let Some(frame) = connection.next_frame().await {
        let is_close = frame.opcode == 8;
        let answer = match frame.opcode {
            9 => pong(&frame.payload),
            _ => frame,
        };
        if connection.try_send(answer.encode(None)).await.is_err() || is_close {
            return;
        }
    }
}

impl Connection {
    /// Opens a WebSocket to a service that tells, and returns the answer and the head it was sent.
    pub(crate) async fn open_told(&mut self, lines: &str) -> (Head, Head) {
        self.send_head(lines).await;
        let answer = self.read_head().await;
        assert_eq!(answer.status(), 101, "refused: {answer:?}\n{lines}");
        let told = self.read_frame().await;
        (answer, Head::parse(&String::from_utf8_lossy(&told.payload)))
    }
}

impl Response {
    /// The head that a service that tells was sent, whatever it answered with.
    pub(crate) fn told(&self) -> Head {
        assert!(self.field("x-service").is_some(), "no service: {self:?}");
        Head::parse(self.text())
    }

    /// The name of the service that answered; `-` if none did.
    pub(crate) fn by(&self) -> &str {
        self.field("x-service").unwrap_or("-")
    }
}
