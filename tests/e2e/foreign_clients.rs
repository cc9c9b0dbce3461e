//! Clients and services nobody here wrote: Node's `ws`, Python's `websockets` and Chromium.

use crate::harness::{
    Authority, Folder, Process, Service, Tidegate, chromium, node, one_listener, python, route_to,
};

/// Echoes with compression, and prints its port and which extensions a client agreed on.
const NODE_SERVICE: &str = r#"
    const { WebSocketServer } = require("ws");
    const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: { threshold: 0 } });
    server.on("listening", () => console.log(server.address().port));
    server.on("connection", (socket) => {
        console.log(`agreed on [${socket.extensions}]`);
        socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
    });
"#;

/// Sends messages of many lengths, all at once, and checks that they come back in order, with another
/// word in the place of one. An authority makes it `wss`.
const NODE_CLIENT: &str = r#"
    const WebSocket = require("ws");
    const [url, word, ca] = process.argv.slice(1);
    const socket = new WebSocket(url, { ca, perMessageDeflate: { threshold: 0 } });
    const sent = [];
    for (const length of [0, 1, 125, 126, 65535, 65536, 200000])
        sent.push("a secret ".repeat(length / 9), Buffer.alloc(length, 7));
    let next = 0;
    socket.on("open", () => sent.forEach((message) => socket.send(message)));
    socket.on("message", (data, isBinary) => {
        const expected = sent[next++];
        const right = isBinary ? data.equals(expected) : data.toString() === expected.replaceAll("secret", word);
        if (!right) throw new Error(`message ${next}: ${data.toString().slice(0, 50)}`);
        if (next === sent.length) socket.close(4000, "bye");
    });
    socket.on("close", (code, reason) => console.log(`[${socket.extensions}] ${code} ${reason} after ${next}`));
"#;

/// The same in Python.
const PYTHON_CLIENT: &str = r#"
import asyncio, ssl, sys, websockets

async def main(url, word, ca=None):
    context = ssl.create_default_context(cadata=ca) if ca else None
    sent = [message for length in (0, 1, 125, 126, 65535, 65536, 200000)
            for message in ("a secret " * (length // 9), b"\x07" * length)]
    async with websockets.connect(url, ssl=context) as socket:
        for message in sent:
            await socket.send(message)
        for message in sent:
            expected = message if isinstance(message, bytes) else message.replace("secret", word)
            assert await socket.recv() == expected
        # A message in fragments.
        await socket.send(["a sec", "ret in ", "three parts"])
        assert await socket.recv() == f"a {word} in three parts"
        await (await socket.ping())
        await socket.close(4000, "bye")
    extensions = [extension.name for extension in socket.protocol.extensions]
    print(f"[{','.join(extensions)}] {socket.close_code} {socket.close_reason} after {len(sent)}")

asyncio.run(main(*sys.argv[1:]))
"#;

/// The same in a browser.
const BROWSER_CLIENT: &str = r#"
    async (url, word) => {
        const socket = new WebSocket(url);
        socket.binaryType = "arraybuffer";
        const sent = [];
        for (const length of [0, 1, 125, 126, 65535, 65536, 200000])
            sent.push("a secret ".repeat(length / 9), new Uint8Array(length).fill(7));
        let next = 0, wrong = "";
        socket.onopen = () => sent.forEach((message) => socket.send(message));
        socket.onmessage = ({ data }) => {
            const expected = sent[next++];
            const right = typeof data === "string"
                ? data === expected.replaceAll("secret", word)
                : new Uint8Array(data).toString() === expected.toString();
            if (!right) wrong += `, message ${next} is wrong`;
            if (next === sent.length) socket.close(4000, "bye");
        };
        const { code, reason } = await new Promise((closed) => { socket.onclose = closed; });
        const [extension] = socket.extensions.split(";");
        return `[${extension}] ${code} ${reason} after ${next}${wrong}`;
    }
"#;

/// What clients print of a conversation that was compressed, and of one that was not.
const COMPRESSED: &str = "[permessage-deflate] 4000 bye after 14";
const PLAIN: &str = "[] 4000 bye after 14";

/// Says so once it was pinged three times. Ends the session if a pong comes that it did not ask for.
const NODE_PINGED_SERVICE: &str = r#"
    const { WebSocketServer } = require("ws");
    const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
    server.on("listening", () => console.log(server.address().port));
    server.on("connection", (socket) => {
        let pings = 0;
        socket.on("ping", () => { if (++pings === 3) socket.send("pinged"); });
        socket.on("pong", () => socket.close(4001, "pong"));
    });
"#;

/// Closes once it and the service were pinged three times, and no pong came.
const NODE_PINGED_CLIENT: &str = r#"
    const WebSocket = require("ws");
    const [url, ca] = process.argv.slice(1);
    const socket = new WebSocket(url, { ca });
    const due = ["ping", "ping", "ping", "message"];
    const heard = (what) => () => {
        if (due.includes(what)) due.splice(due.indexOf(what), 1);
        if (due.length === 0) socket.close(4000, "bye");
    };
    socket.on("ping", heard("ping"));
    socket.on("message", heard("message"));
    socket.on("pong", () => socket.close(4002, "pong"));
    socket.on("close", (code, reason) => console.log(`closed ${code} ${reason}`));
"#;

/// Waits for the service to be pinged, and gets an answer to a ping of its own.
const PYTHON_PINGED_CLIENT: &str = r#"
import asyncio, ssl, sys, websockets

async def main(url, ca):
    context = ssl.create_default_context(cadata=ca)
    async with websockets.connect(url, ssl=context, ping_interval=None) as socket:
        assert await socket.recv() == "pinged"
        await (await socket.ping())
        await socket.close(4000, "bye")
    print("closed", socket.close_code, socket.close_reason)

asyncio.run(main(*sys.argv[1:]))
"#;

async fn node_service() -> (Process, String) {
    serving(NODE_SERVICE).await
}

/// Starts a service in Node that prints its port.
async fn serving(script: &str) -> (Process, String) {
    let mut service = node(script, &[]);
    let port = service.stdout.line().await;
    (service, port)
}

/// A route to a service in Node.
fn route_to_node(port: &str) -> String {
    format!("[[sites.routes]]\nmatch = \"/\"\nurl = \"http://127.0.0.1:{port}\"\n")
}

/// A plugin of a route that leaves another word in the place of one, and may take its time.
const REDACTED: &str = "plugins = [\"redact\"]\n";
const REDACT: &str = r#"
    [plugins.redact]
    module = "builtin:redact"
    config = { words = ["secret"] }
    limits = { call_timeout = "1s" }
"#;

#[tokio::test]
async fn compression_that_both_ends_agree_on_survives_a_blind_tunnel() {
    let (mut service, port) = node_service().await;
    let tidegate = Tidegate::start(&one_listener(&route_to_node(&port))).await;
    let url = format!("ws://{}", tidegate.address(0));
    let clients = [
        node(NODE_CLIENT, &[&url, "secret"]),
        python(PYTHON_CLIENT, &[&url, "secret"]),
    ];
    for mut client in clients {
        assert_eq!(client.stdout.line().await, COMPRESSED);
        let agreed = service.stdout.line().await;
        assert_eq!(agreed, "agreed on [permessage-deflate]");
    }
}

#[tokio::test]
async fn without_compression_all_passes_a_plugin() {
    let (mut service, port) = node_service().await;
    let off = "websocket = { compression = \"off\" }\n";
    let route = route_to_node(&port) + REDACTED + off + REDACT;
    let tidegate = Tidegate::start(&one_listener(&route)).await;
    let url = format!("ws://{}", tidegate.address(0));
    let clients = [
        node(NODE_CLIENT, &[&url, "***"]),
        python(PYTHON_CLIENT, &[&url, "***"]),
    ];
    for mut client in clients {
        assert_eq!(client.stdout.line().await, PLAIN);
        assert_eq!(service.stdout.line().await, "agreed on []");
    }
}

/// Serves these routes by TLS. Returns where, and whom to trust.
async fn by_tls(routes: &str) -> (Tidegate, String, String) {
    let authority = Authority::new();
    let certificate = authority.issue(&["localhost"]);
    let folder = Folder::new();
    folder.write("cert.pem", &certificate.chain);
    folder.write("key.pem", &certificate.key);
    let site = "certificate = { chain = \"cert.pem\", key = \"key.pem\" }\n";
    let configuration = one_listener(&(site.to_owned() + routes));
    let configuration = configuration.replace("bind =", "tls = true\nbind =");
    let tidegate = Tidegate::start_in(folder, &configuration).await;
    let url = format!("wss://localhost:{}", tidegate.address(0).port());
    (tidegate, url, authority.pem())
}

#[tokio::test]
async fn pings_of_the_proxy_are_answered_and_their_pongs_surprise_nobody() {
    let (_service, port) = serving(NODE_PINGED_SERVICE).await;
    let settings = "ping_interval = \"100ms\", ping_timeout = \"10s\", idle_timeout = \"1m\"";
    let route = |path: &str, plugins: &str| {
        format!(
            "[[sites.routes]]\nmatch = {path:?}\nurl = \"http://127.0.0.1:{port}\"\n\
             plugins = [{plugins}]\nwebsocket = {{ {settings} }}\n"
        )
    };
    let routes = format!(
        "{}{}[plugins.redact]\nmodule = \"builtin:redact\"\nconfig = {{ words = [\"y\"] }}",
        route("/blind", ""),
        route("/seen", "\"redact\""),
    );
    let (_tidegate, url, ca) = by_tls(&routes).await;
    for path in ["/blind", "/seen"] {
        let url = format!("{url}{path}");
        let mut client = node(NODE_PINGED_CLIENT, &[&url, &ca]);
        assert_eq!(client.stdout.line().await, "closed 4000 bye", "{path}");
        let mut client = python(PYTHON_PINGED_CLIENT, &[&url, &ca]);
        assert_eq!(client.stdout.line().await, "closed 4000 bye", "{path}");
    }
}

#[tokio::test]
async fn compressed_conversations_over_wss_pass_a_plugin() {
    let (mut service, port) = node_service().await;
    let plain = Service::websocket_echo().await;
    let to_plain = route_to(&plain).replace("\"/\"", "\"/plain\"");
    let routes = [&route_to_node(&port), REDACTED, &to_plain, REDACTED, REDACT].concat();
    let (_tidegate, url, ca) = by_tls(&routes).await;
    for path in ["/", "/plain"] {
        let url = format!("{url}{path}");
        let clients = [
            node(NODE_CLIENT, &[&url, "***", &ca]),
            python(PYTHON_CLIENT, &[&url, "***", &ca]),
            chromium(None, BROWSER_CLIENT, &[&url, "***"]).await,
        ];
        for mut client in clients {
            assert_eq!(client.stdout.line().await, COMPRESSED, "{path}");
            if path == "/" {
                let agreed = service.stdout.line().await;
                assert_eq!(agreed, "agreed on [permessage-deflate]");
            }
        }
    }
}

#[tokio::test]
async fn a_browser_holds_a_compressed_conversation_over_http2() {
    let (mut service, port) = node_service().await;
    let access_log = "[access_log]\npath = \"stdout\"\nformat = \"json\"\n";
    let routes = [&route_to_node(&port), REDACTED, REDACT, access_log].concat();
    let (mut tidegate, url, _) = by_tls(&routes).await;
    // The page leaves a connection behind that the WebSocket can be a stream of (RFC 8441).
    let page = url.replace("wss:", "https:");
    let mut client = chromium(Some(&page), BROWSER_CLIENT, &[&url, "***"]).await;
    assert_eq!(client.stdout.line().await, COMPRESSED);
    let agreed = service.stdout.line().await;
    assert_eq!(agreed, "agreed on [permessage-deflate]");
    let websocket = |line: &str| {
        line.contains("\"kind\":\"websocket\"")
            .then(|| line.to_owned())
    };
    let line = tidegate.process.stdout.find("its record", websocket).await;
    assert!(line.contains("\"version\":\"HTTP/2.0\""), "{line}");
}

#[tokio::test]
async fn wss_is_understood_by_others_than_rustls() {
    let service = Service::websocket_echo().await;
    let (_tidegate, url, ca) = by_tls(&route_to(&service)).await;
    let clients = [
        node(NODE_CLIENT, &[&url, "secret", &ca]),
        python(PYTHON_CLIENT, &[&url, "secret", &ca]),
    ];
    for mut client in clients {
        assert_eq!(client.stdout.line().await, PLAIN);
    }
}
