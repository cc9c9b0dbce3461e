//! A service that answers when the test says so, and notices when nobody waits for its answer.

use tokio::sync::{mpsc, oneshot};

use super::connection::Connection;
use super::head::Head;
use super::service::Service;
use super::within;

/// A service whose requests the test answers, each in its own time.
pub(crate) struct Oracle {
    service: Service,
    questions: mpsc::UnboundedReceiver<Question>,
    /// Those that the test has not asked for.
    waiting: Vec<Question>,
}

/// A request that waits for its answer.
pub(crate) struct Question {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    answer: oneshot::Sender<String>,
    gone: oneshot::Receiver<()>,
}

impl Oracle {
    pub(crate) async fn start() -> Self {
        let (asked, questions) = mpsc::unbounded_channel();
        let service = Service::start(move |connection| serve(connection, asked.clone())).await;
        Self {
            service,
            questions,
            waiting: Vec::new(),
        }
    }

    pub(crate) fn address(&self) -> String {
        self.service.address.to_string()
    }

    /// How many connections were accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.service.connections()
    }

    /// Waits for the next request for a target.
    pub(crate) async fn asked(&mut self, target: &str) -> Question {
        let is_it = |question: &Question| question.head.target() == target;
        if let Some(at) = self.waiting.iter().position(is_it) {
            return self.waiting.remove(at);
        }
        loop {
            let question = within("question", self.questions.recv()).await.unwrap();
            if is_it(&question) {
                return question;
            }
            self.waiting.push(question);
        }
    }

    /// Returns a request that has come, if one has.
    pub(crate) fn was_asked(&mut self) -> Option<Question> {
        self.waiting
            .pop()
            .or_else(|| self.questions.try_recv().ok())
    }
}

impl Question {
    /// Answers with status, reason and further lines of the head, and a body.
    pub(crate) fn answer(self, head: &str, body: &str) {
        let head = head.replace('\n', "\r\n");
        let length = body.len();
        let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}");
        // Whoever asked may have gone; that is the test's affair.
        self.answer.send(answer).ok();
    }

    /// Waits until whoever asked has closed the connection.
    pub(crate) async fn abandoned(self) {
        within("end of who asked", self.gone).await.unwrap();
    }
}

async fn serve(mut connection: Connection, asked: mpsc::UnboundedSender<Question>) {
    while let Some(head) = connection.next_head().await {
        let (body, _) = connection.read_body(&head).await;
        let (answer, answered) = oneshot::channel();
        let (leave, gone) = oneshot::channel();
        let question = Question {
            head,
            body,
            answer,
            gone,
        };
        if asked.send(question).is_err() {
            return;
        }
        tokio::select! {
            answer = answered => match answer {
                Ok(answer) => if connection.try_send(answer).await.is_err() {
                    return;
                },
                // The test is over, or cares for the end only.
                Err(_) => {
                    connection.next_bytes().await;
                    leave.send(()).ok();
                    return;
                }
            },
            _ = connection.next_bytes() => {
                leave.send(()).ok();
                return;
            }
        }
    }
}
