//! `tidegate demo`: two chat services, and the configuration that puts the proxy in front of them.
//!
//! | file | what |
//! |---|---|
//! | `service.rs` | the services, called blue and green |
//! | `socket.rs` | their WebSockets |
//! | `page.html` | the chat page, which they serve through the proxy |
//!
//! Starting the proxy itself is left to the caller.

mod service;
mod socket;

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// The services on a thread of their own, since the thread that started them becomes the proxy's.
pub(crate) struct Thread {
    pub(crate) blue: SocketAddr,
    pub(crate) green: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Thread {
    /// Starts the thread and, on it, the services.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let services = runtime.block_on(start_services())?;
        let (blue, green) = (services.blue, services.green);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("demo".into())
            .spawn(move || {
                runtime.block_on(async {
                    // Whoever drops the other half wants them stopped as well.
                    stopped.await.unwrap_or_default();
                    services.stop().await;
                });
            })?;
        Ok(Self {
            blue,
            green,
            stop,
            thread,
        })
    }

    /// Stops the services and waits for them, but not for long.
    pub(crate) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::warn!("the services of the demo had panicked");
        }
    }
}

/// The running services. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) blue: SocketAddr,
    pub(crate) green: SocketAddr,
    stop: watch::Sender<()>,
    servers: JoinSet<io::Result<()>>,
}

/// Starts both services on free ports of the loopback interface.
pub(crate) async fn start_services() -> io::Result<Services> {
    let (stop, stopped) = watch::channel(());
    let mut servers = JoinSet::new();
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 2];
    for (name, address) in ["blue", "green"].into_iter().zip(&mut addresses) {
        let listener = TcpListener::bind(*address).await?;
        *address = listener.local_addr()?;
        let mut stopped = stopped.clone();
        let router = service::router(name, stopped.clone());
        let stop = async move { stopped.changed().await.unwrap_or_default() };
        servers.spawn(async {
            axum::serve(listener, router)
                .with_graceful_shutdown(stop)
                .await
        });
    }
    let [blue, green] = addresses;
    Ok(Services {
        blue,
        green,
        stop,
        servers,
    })
}

impl Services {
    /// Closes every chat with 1001 and waits until the clients have answered, but not for long.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(());
        let all_gone = async {
            while self.servers.join_next().await.is_some() {}
            // Each open socket holds a receiver.
            self.stop.closed().await;
        };
        if tokio::time::timeout(socket::CLOSE_TIMEOUT, all_gone)
            .await
            .is_err()
        {
            tracing::debug!("a client of the demo did not take its leave");
        }
    }
}

/// Returns the configuration of the demo.
pub(crate) fn config(
    listen: SocketAddr,
    admin: Option<SocketAddr>,
    blue: SocketAddr,
    green: SocketAddr,
) -> String {
    let mut text = format!(
        r#"# `tidegate demo` runs this. As a file, with services of your own: tidegate run -c FILE

[timeouts]
drain = "5s"
drain_spread = "0s"

[[listeners]]
bind = "{listen}"

[upstreams.chat]
endpoints = ["{blue}", "{green}"] # blue, green

# A room lives on one endpoint: the same room, the same endpoint.
[plugins.choose-endpoint]
module = "builtin:choose-endpoint"
config = {{ by = "query:room" }}

[plugins.headers]
module = "builtin:headers"
[plugins.headers.config.request]
set = {{ X-Demo = "added to the request by the headers plugin" }}
[plugins.headers.config.response]
set = {{ X-Demo = "added to the response by the headers plugin" }}
remove = ["X-Powered-By"]

# The service never sees these words.
[plugins.redact]
module = "builtin:redact"
config = {{ words = ["secret", "password"], replacement = "█████", direction = "from-client" }}

[[sites]]

  [[sites.routes]]
  match = "/chat"
  upstream = "chat"
  plugins = ["choose-endpoint", "headers", "redact"]
  websocket = {{ idle_timeout = "1h" }}

  # The page, /whoami and /echo. No plugin sees messages here: a session is a blind tunnel.
  [[sites.routes]]
  match = "/"
  upstream = "chat"
  plugins = ["headers"]
  websocket = {{ idle_timeout = "1h" }}
"#
    );
    if let Some(admin) = admin {
        write!(text, "\n[admin]\nlisten = \"{admin}\"\n").expect("writing to a string succeeds");
    }
    text
}

/// Returns what to try, for a terminal of 80 columns.
pub(crate) fn banner(listen: SocketAddr) -> String {
    let host = reachable(listen);
    format!(
        r#"
  Tidegate demo    http://{host}/

    browser -> tidegate -> choose-endpoint, headers, redact -> blue or green

  In a browser
    1. Open http://{host}/ in two tabs and chat.
    2. Write "my password is secret". The words are masked on their way,
       so the service never sees them.
    3. Join another room. A room always lives on the same endpoint.
    The page shows under each message which plugin did what.

  In a terminal
    blue and green in turn, and what the headers plugin changed:
      curl -i http://{host}/whoami
    one endpoint for a room:
      curl 'http://{host}/chat/whoami?room=tea'
    chat, with either of these (type a message and press Enter):
      npx wscat -c 'ws://{host}/chat?room=lobby&name=Ann'
      websocat 'ws://{host}/chat?room=lobby&name=Bob'
    an echo that no plugin reads along:
      npx wscat -c ws://{host}/echo

  The configuration behind this:  tidegate demo --print-config
  Ctrl-C stops it.
"#
    )
}

/// Returns an address a client on this machine can use.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::config::Config;

    fn listen() -> SocketAddr {
        "127.0.0.1:8080".parse().unwrap()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut client = TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Demo: b\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn both_services_serve_the_page_and_say_who_they_are() {
        let services = start_services().await.unwrap();
        for (name, address) in [("blue", services.blue), ("green", services.green)] {
            let page = get(address, "/").await;
            assert!(
                page.starts_with("HTTP/1.1 200 ") && page.contains("<title>"),
                "{page}"
            );
            for path in ["/whoami", "/chat/whoami?room=tea"] {
                let answer = get(address, path).await;
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                assert!(head.contains("x-powered-by: "), "{head}");
                let seen: serde_json::Value = serde_json::from_str(body).unwrap();
                assert_eq!(seen["endpoint"], name);
                assert_eq!(seen["target"], path);
                assert!(
                    seen["headers"]
                        .as_array()
                        .unwrap()
                        .contains(&serde_json::json!(["x-demo", "b"]))
                );
            }
        }
        services.stop().await;
    }

    #[tokio::test]
    async fn a_room_hears_its_members_and_a_stop_closes_it_with_1001() {
        let services = start_services().await.unwrap();
        let mut ann = Chatter::join(services.blue, "room=tea&name=Ann").await;
        assert_eq!(ann.next().await["people"], serde_json::json!(["Ann"]));
        let mut bob = Chatter::join(services.blue, "room=tea&name=Bob").await;
        assert_eq!(
            bob.next().await["people"],
            serde_json::json!(["Ann", "Bob"])
        );
        assert_eq!(ann.next().await["type"], "joined");

        ann.send(br#"{"id":"7","text":"hi"}"#).await;
        bob.send(b"plain").await;

        for chatter in [&mut ann, &mut bob] {
            let (first, second) = (chatter.next().await, chatter.next().await);
            let from_ann = if first["from"] == "Ann" {
                &first
            } else {
                &second
            };
            let from_bob = if first["from"] == "Bob" {
                &first
            } else {
                &second
            };
            assert_eq!(
                (&from_ann["text"], &from_ann["id"]),
                (&"hi".into(), &"7".into())
            );
            assert_eq!(
                (&from_bob["text"], &from_bob["sockets"]),
                (&"plain".into(), &2.into())
            );
            assert_eq!(from_ann["endpoint"], "blue");
        }
        drop(bob);
        assert_eq!(ann.next().await["type"], "left");

        let stop = tokio::spawn(services.stop());
        let (opcode, payload) = ann.frame().await;
        assert_eq!((opcode, &payload[..2]), (8, &1001u16.to_be_bytes()[..]));
        drop(ann);
        stop.await.unwrap();
    }

    /// A WebSocket client just good enough for short messages.
    struct Chatter(TcpStream);

    impl Chatter {
        async fn join(address: SocketAddr, query: &str) -> Self {
            let mut socket = TcpStream::connect(address).await.unwrap();
            let request = format!(
                "GET /chat?{query} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"HTTP/1.1 101 "));
            Self(socket)
        }

        async fn send(&mut self, text: &[u8]) {
            // Masked with zeros.
            let length = u8::try_from(text.len()).unwrap();
            let frame = [&[0x81, 0x80 | length, 0, 0, 0, 0], text].concat();
            self.0.write_all(&frame).await.unwrap();
        }

        async fn frame(&mut self) -> (u8, Vec<u8>) {
            let opcode = self.0.read_u8().await.unwrap() & 0x0f;
            let length = match self.0.read_u8().await.unwrap() {
                126 => self.0.read_u16().await.unwrap().into(),
                length => usize::from(length),
            };
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await.unwrap();
            (opcode, payload)
        }

        async fn next(&mut self) -> serde_json::Value {
            let (opcode, payload) = self.frame().await;
            assert_eq!(opcode, 1);
            serde_json::from_slice(&payload).unwrap()
        }
    }

    #[test]
    fn the_banner_fits_into_80_columns() {
        let banner = banner("0.0.0.0:65535".parse().unwrap());
        assert!(banner.contains("http://127.0.0.1:65535/"));
        for line in banner.lines() {
            assert!(line.chars().count() <= 80, "{line:?}");
        }
    }

    #[test]
    fn the_configuration_is_accepted() {
        let (blue, green) = (
            "127.0.0.1:9001".parse().unwrap(),
            "127.0.0.1:9002".parse().unwrap(),
        );
        for admin in [None, Some("127.0.0.1:9900".parse().unwrap())] {
            let text = config(listen(), admin, blue, green);
            let config = Config::parse(&text, Path::new("demo.toml")).unwrap().config;
            assert_eq!(config.listeners[0].bind, listen());
            assert_eq!(config.upstreams[0].endpoints[1].written, green.to_string());
            assert_eq!(config.admin.and_then(|admin| admin.listen), admin);
            let plugins = config.sites[0]
                .routes
                .iter()
                .map(|route| route.plugins.len());
            assert_eq!(plugins.collect::<Vec<_>>(), [3, 1]);
        }
    }
}
