//! A name server on a port of its own that answers what a test tells it to: bytes written by hand, no
//! more of DNS (RFC 1035) than questions for addresses.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::within;

/// A running name server.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
    /// Questions for IPv4 addresses so far.
    questions: watch::Receiver<usize>,
    serving: AbortHandle,
}

#[derive(Default)]
struct Answers {
    addresses: BTreeMap<String, Vec<Ipv4Addr>>,
    ttl: u32,
    broken: bool,
}

/// Codes of answers (RFC 1035 §4.1.1).
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;

/// The type of a question for an IPv4 address (RFC 1035 §3.2.2).
const TYPE_A: [u8; 2] = [0, 1];

impl NameServer {
    /// Starts without any names. Answers may be kept for `ttl` seconds.
    pub(crate) async fn start(ttl: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let answers = Arc::new(Mutex::new(Answers {
            ttl,
            ..Answers::default()
        }));
        let (asked, questions) = watch::channel(0);
        let known = answers.clone();
        let serving = tokio::spawn(async move {
            let mut question = [0; 512];
            loop {
                let (length, client) = socket.recv_from(&mut question).await.unwrap();
                let (answer, is_counted) = known.lock().unwrap().answer(&question[..length]);
                socket.send_to(&answer, client).await.unwrap();
                asked.send_modify(|count| *count += usize::from(is_counted));
            }
        });
        Self {
            address,
            answers,
            questions,
            serving: serving.abort_handle(),
        }
    }

    /// Answers with these addresses from now on.
    pub(crate) fn set(&self, name: &str, addresses: &[Ipv4Addr]) {
        let mut answers = self.answers.lock().unwrap();
        answers
            .addresses
            .insert(name.to_owned(), addresses.to_vec());
    }

    /// Answers every question with a failure from now on, or no longer.
    pub(crate) fn set_broken(&self, broken: bool) {
        self.answers.lock().unwrap().broken = broken;
    }

    /// Questions for IPv4 addresses so far.
    pub(crate) fn questions(&self) -> usize {
        *self.questions.borrow()
    }

    /// Waits until so many more were answered.
    pub(crate) async fn answered(&self, more: usize) {
        let mut questions = self.questions.clone();
        let enough = *questions.borrow_and_update() + more;
        let waiting = questions.wait_for(|count| *count >= enough);
        within("questions to the name server", waiting)
            .await
            .unwrap();
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Answers {
    /// Returns the answer, and whether the question was for IPv4 addresses.
    fn answer(&self, question: &[u8]) -> (Vec<u8>, bool) {
        let (name, end) = name(question);
        let is_v4 = question[end..end + 2] == TYPE_A;
        let addresses = self.addresses.get(&name);
        let code = match addresses {
            _ if self.broken => SERVER_FAILURE,
            None => NO_SUCH_NAME,
            Some(_) => 0,
        };
        let addresses = addresses
            .filter(|_| code == 0 && is_v4)
            .into_iter()
            .flatten();
        let count = u16::try_from(addresses.clone().count()).unwrap();
        // The same number; a response, recursion desired and available.
        let mut answer = question[..2].to_vec();
        answer.extend([0x81, 0x80 | code, 0, 1]);
        answer.extend(count.to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(&question[12..end + 4]);
        for address in addresses {
            // The name is that of the question, at byte 12.
            answer.extend([0xc0, 12, 0, 1, 0, 1]);
            answer.extend(self.ttl.to_be_bytes());
            answer.extend([0, 4]);
            answer.extend(address.octets());
        }
        (answer, is_v4)
    }
}

/// Reads the name of the question, in lower case, and where it ends.
fn name(question: &[u8]) -> (String, usize) {
    let mut labels = Vec::new();
    let mut at = 12;
    while question[at] != 0 {
        let length = usize::from(question[at]);
        let label = &question[at + 1..=at + length];
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length + 1;
    }
    (labels.join("."), at + 1)
}
