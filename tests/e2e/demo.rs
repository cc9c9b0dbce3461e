//! `tidegate demo`: what a newcomer sees first, with the clients a newcomer has at hand.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Folder, Process, Tidegate, command, node, python};

async fn demo() -> Tidegate {
    let mut demo = command();
    demo.args(["demo", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    Tidegate::spawn(Folder::new(), &mut demo).await
}

#[tokio::test]
async fn the_demo_serves_its_page_and_says_what_to_try() {
    let mut tidegate = demo().await;
    let address = tidegate.address(0);
    let url = format!("http://{address}/");
    let banner = |line: &str| line.contains(&url).then_some(());
    tidegate
        .process
        .stdout
        .find("address of the page", banner)
        .await;

    let page = tidegate.get("/").await;
    assert_eq!(page.status(), 200);
    assert!(page.field("content-type").unwrap().starts_with("text/html"));
    assert!(page.text().contains("WebSocket"), "{}", page.text());
    // What the banner says of the headers plugin.
    assert_eq!(
        page.field("x-demo"),
        Some("added to the response by the headers plugin")
    );
    assert_eq!(page.field("x-powered-by"), None);
    let seen: Value = serde_json::from_str(tidegate.get("/whoami").await.text()).unwrap();
    let added = serde_json::json!(["x-demo", "added to the request by the headers plugin"]);
    assert!(
        seen["headers"].as_array().unwrap().contains(&added),
        "{seen:#}"
    );
}

/// Joins a room as Ann and as Bob; once both are there, Ann gives away a secret. Everything that
/// happens to them is printed.
const TWO_NODE_CLIENTS: &str = r#"
    const WebSocket = require("ws");
    const url = process.argv[1];
    const join = (name) => {
        const socket = new WebSocket(`${url}/chat?room=tea&name=${name}`);
        socket.on("message", (data) => console.log(`${name} heard ${data}`));
        socket.on("close", (code) => console.log(`${name} closed ${code}`));
        socket.on("error", (error) => console.log(`${name} failed ${error}`));
        return socket;
    };
    const ann = join("Ann");
    ann.once("message", () => {
        const bob = join("Bob");
        bob.once("message", () => ann.send("my password is secret"));
    });
"#;

#[tokio::test]
async fn two_node_clients_chat_through_the_demo_and_ctrl_c_sends_them_home() {
    let mut tidegate = demo().await;
    let mut clients = node(
        TWO_NODE_CLIENTS,
        &[&format!("ws://{}", tidegate.address(0))],
    );
    for name in ["Ann", "Bob"] {
        let welcome = heard(&mut clients, name, "welcome").await;
        let added = serde_json::json!(["x-demo", "added to the request by the headers plugin"]);
        assert!(
            welcome["headers"].as_array().unwrap().contains(&added),
            "{welcome:#}"
        );
    }
    let message = heard(&mut clients, "Bob", "message").await;
    assert_eq!(message["from"], "Ann");
    assert_eq!(message["text"], "my █████ is █████");

    tidegate.process.signal(Signal::INT);
    let mut gone = Vec::new();
    for _ in 0..2 {
        let closed = |line: &str| line.contains("closed").then(|| line.to_owned());
        gone.push(clients.stdout.find("end of a client", closed).await);
    }
    gone.sort();
    assert_eq!(gone, ["Ann closed 1001", "Bob closed 1001"]);
    assert_eq!(tidegate.process.exit().await.code(), Some(0));
    assert!(clients.exit().await.success());
}

/// The next event of this type that a client has heard.
async fn heard(clients: &mut Process, name: &str, event: &str) -> Value {
    let find = |line: &str| {
        assert!(!line.contains("failed"), "{line}");
        let heard: Value =
            serde_json::from_str(line.strip_prefix(&format!("{name} heard "))?).unwrap();
        (heard["type"] == event).then_some(heard)
    };
    clients.stdout.find(event, find).await
}

#[tokio::test]
async fn python_clients_chat_through_the_demo() {
    let tidegate = demo().await;
    let script = r#"
import asyncio, json, sys, websockets

async def event(socket, kind):
    async for message in socket:
        heard = json.loads(message)
        if heard["type"] == kind:
            return heard

async def main(url):
    async with websockets.connect(url + "/chat?room=tea&name=Ann") as ann:
        async with websockets.connect(url + "/chat?room=tea&name=Bob") as bob:
            first, second = await event(ann, "welcome"), await event(bob, "welcome")
            print("same endpoint", first["endpoint"] == second["endpoint"])
            await ann.send("my password is secret")
            print((await event(bob, "message"))["text"])
            await ann.ping()
    async with websockets.connect(url + "/echo") as echo:
        await echo.send("secret")
        print(await echo.recv())
    print("done")

asyncio.run(main(sys.argv[1]))
"#;
    let mut client = python(script, &[&format!("ws://{}", tidegate.address(0))]);
    for expected in ["same endpoint True", "my █████ is █████", "secret", "done"]
    {
        assert_eq!(
            client.stdout.line().await,
            expected,
            "{}",
            client.stderr.text()
        );
    }
    assert!(client.exit().await.success());
}

#[tokio::test]
async fn the_configuration_of_the_demo_is_a_file_that_runs() {
    let output = command().args(["demo", "--print-config"]).output().unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let configuration = printed.replace("127.0.0.1:8080", "127.0.0.1:0");
    let tidegate = Tidegate::start(&configuration).await;
    // Nobody is behind it here.
    assert_eq!(tidegate.get("/").await.status(), 502);
}
