//! The services behind the demo: chat rooms, an echo and a mirror of the request's fields.
//!
//! They are ordinary HTTP and WebSocket services that know nothing of the proxy in front of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, get};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::socket::Socket;

const PAGE: &str = include_str!("page.html");

/// Longest name of a room or of somebody in it, in characters.
const MAX_NAME_CHARS: usize = 40;

/// RFC 6455 §7.4.1: the service goes away.
const AWAY: u16 = 1001;

/// RFC 6455 §7.4.1: a message of a kind that is not accepted.
const UNSUPPORTED: u16 = 1003;

/// Events a slow socket may be behind before it misses the oldest.
const ROOM_BACKLOG: usize = 64;

/// One of the services.
#[derive(Debug)]
pub(super) struct Service {
    name: &'static str,
    rooms: Mutex<HashMap<String, Room>>,
    next_socket: AtomicU64,
    /// Changes, or closes, when the demo ends.
    stop: watch::Receiver<()>,
}

/// Sockets that hear each other.
#[derive(Debug)]
struct Room {
    events: broadcast::Sender<Utf8Bytes>,
    /// By the number of the socket.
    people: Vec<(u64, String)>,
}

pub(super) fn router(name: &'static str, stop: watch::Receiver<()>) -> Router {
    let service = Arc::new(Service {
        name,
        rooms: Mutex::default(),
        next_socket: AtomicU64::new(1),
        stop,
    });
    Router::new()
        .route("/", get(page))
        .route("/chat", any(chat))
        .route("/echo", any(echo))
        .route("/whoami", get(whoami))
        .route("/chat/whoami", get(whoami))
        .with_state(service)
}

async fn page() -> impl IntoResponse {
    ([(CACHE_CONTROL, "no-store")], Html(PAGE))
}

/// Answers with what the service sees of the request.
async fn whoami(State(service): State<Arc<Service>>, request: Request) -> impl IntoResponse {
    // `answered_with` lets a client see that a plugin took a field away.
    let powered_by = format!("{} service of the demo", service.name);
    let answer = json!({
        "endpoint": service.name,
        "target": request.uri().to_string(),
        "headers": fields(request.headers(), |_| true),
        "answered_with": [["x-powered-by", powered_by]],
    });
    let fields = [
        (CONTENT_TYPE.as_str(), "application/json"),
        ("x-powered-by", &*powered_by),
    ];
    // As a response of its own, because it borrows.
    (fields, format!("{answer}\n")).into_response()
}

/// Sends every message back.
async fn echo(State(service): State<Arc<Service>>, request: Request) -> Response {
    let mut stop = service.stop.clone();
    Socket::accept(request, async move |mut socket| {
        loop {
            let message = tokio::select! {
                message = socket.receive() => message,
                _ = stop.changed() => return socket.close(AWAY, "the demo ends").await,
            };
            match message {
                Some(message @ (Message::Text(_) | Message::Binary(_))) => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                Some(_) => {}
                None => return,
            }
        }
    })
}

/// Joins `?name=` to `?room=`.
async fn chat(
    State(service): State<Arc<Service>>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    let text = |key| {
        let text = query.get(key).map_or("", |text| text.trim());
        text.chars().take(MAX_NAME_CHARS).collect::<String>()
    };
    let (room, name) = (text("room"), text("name"));
    let room = if room.is_empty() {
        "lobby".to_owned()
    } else {
        room
    };
    let seen = fields(request.headers(), |name| name.starts_with("x-"));
    Socket::accept(request, move |socket| {
        Member::join(service, room, name).run(socket, seen)
    })
}

/// Fields as pairs, because a name may come twice.
fn fields(headers: &HeaderMap, wanted: impl Fn(&str) -> bool) -> Vec<[String; 2]> {
    let wanted = headers.iter().filter(|(name, _)| wanted(name.as_str()));
    wanted
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            [name.as_str().to_owned(), value.into_owned()]
        })
        .collect()
}

/// A socket in a room, until it is dropped.
struct Member {
    service: Arc<Service>,
    room: String,
    name: String,
    socket: u64,
    events: broadcast::Receiver<Utf8Bytes>,
}

impl Member {
    fn join(service: Arc<Service>, room: String, name: String) -> Self {
        let socket = service.next_socket.fetch_add(1, Ordering::Relaxed);
        let name = if name.is_empty() {
            format!("guest {socket}")
        } else {
            name
        };
        let mut rooms = service.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let joined = rooms.entry(room.clone()).or_insert_with(|| Room {
            events: broadcast::Sender::new(ROOM_BACKLOG),
            people: Vec::new(),
        });
        joined.people.push((socket, name.clone()));
        joined.announce("joined", &name);
        // Subscribed after the announcement: the welcome says the same.
        let events = joined.events.subscribe();
        drop(rooms);
        Self {
            service,
            room,
            name,
            socket,
            events,
        }
    }

    async fn run(mut self, mut socket: Socket, seen: Vec<[String; 2]>) {
        let mut stop = self.service.stop.clone();
        if socket
            .send(Message::text(self.welcome(seen)))
            .await
            .is_err()
        {
            return;
        }
        loop {
            tokio::select! {
                message = socket.receive() => match message {
                    Some(Message::Text(text)) => self.say(&text),
                    Some(Message::Binary(_)) => {
                        return socket.close(UNSUPPORTED, "the chat is text").await;
                    }
                    Some(_) => {}
                    None => return,
                },
                event = self.events.recv() => match event {
                    Ok(event) => {
                        if socket.send(Message::Text(event)).await.is_err() {
                            return;
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                _ = stop.changed() => return socket.close(AWAY, "the demo ends").await,
            }
        }
    }

    fn welcome(&self, seen: Vec<[String; 2]>) -> String {
        let people = self.in_room(Room::names);
        json!({
            "type": "welcome",
            "endpoint": self.service.name,
            "room": self.room,
            "name": self.name,
            "people": people,
            "headers": seen,
        })
        .to_string()
    }

    /// Tells the room. The page sends `{"id": .., "text": ..}`; whatever else comes is the text itself.
    fn say(&self, message: &str) {
        let page = serde_json::from_str::<Value>(message).unwrap_or_default();
        let text = page["text"].as_str().unwrap_or(message);
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.in_room(|room| {
            room.send(&json!({
                "type": "message",
                "endpoint": self.service.name,
                "room": self.room,
                "id": page["id"].as_str(),
                "from": self.name,
                "text": text,
                "at": at.as_secs_f64(),
                "sockets": room.people.len(),
            }));
        });
    }

    fn in_room<T: Default>(&self, act: impl FnOnce(&mut Room) -> T) -> T {
        let mut rooms = self
            .service
            .rooms
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        rooms.get_mut(&self.room).map(act).unwrap_or_default()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut rooms = self
            .service
            .rooms
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get_mut(&self.room) {
            room.people.retain(|&(socket, _)| socket != self.socket);
            room.announce("left", &self.name);
            if room.people.is_empty() {
                rooms.remove(&self.room);
            }
        }
    }
}

impl Room {
    fn names(&mut self) -> Vec<String> {
        self.people.iter().map(|(_, name)| name.clone()).collect()
    }

    fn announce(&mut self, what: &str, name: &str) {
        let people = self.names();
        self.send(&json!({ "type": what, "name": name, "people": people }));
    }

    fn send(&self, event: &Value) {
        // An error says that nobody is in the room, which is no error.
        self.events.send(event.to_string().into()).ok();
    }
}
