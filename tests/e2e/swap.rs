//! A plugin's code is replaced under a running proxy. What becomes of sessions that run is in
//! `hand_over.rs`; here they stay, which is what `swap = "next-session"` says.

use crate::harness::{Folder, Service, Tidegate, component, guest, one_listener, route_to, text};

/// Two versions that can be told apart by one message: the first lets it pass, the second, which is a
/// ready component on top, answers it.
const QUESTION: &str = "wasi:args";
const FIRST: &str = "wasi:args";
const SECOND: &str = "0";

async fn running_the_first() -> (Service, Tidegate) {
    let service = Service::websocket_echo().await;
    let folder = Folder::new();
    folder.write("plugin.wasm", std::fs::read(guest("pass-through")).unwrap());
    let configuration = one_listener(&format!(
        "{}plugins = [\"mine\"]\n[plugins.mine]\nmodule = \"plugin.wasm\"\nswap = \"next-session\"",
        route_to(&service)
    ));
    // Both workers have to change.
    let configuration = configuration.replace("workers = 1", "workers = 2");
    let tidegate = Tidegate::start_in(folder, &configuration).await;
    (service, tidegate)
}

fn second() -> Vec<u8> {
    std::fs::read(component("guest-wasip2")).unwrap()
}

async fn version(client: &mut crate::harness::Connection) -> String {
    client.send_frame(text(QUESTION)).await;
    String::from_utf8(client.read_frame().await.payload).unwrap()
}

#[tokio::test]
async fn a_changed_file_is_used_by_new_sessions_and_not_by_those_that_run() {
    let (_service, mut tidegate) = running_the_first().await;
    let mut running = Vec::new();
    for _ in 0..8 {
        let mut client = tidegate.websocket("/").await;
        assert_eq!(version(&mut client).await, FIRST);
        running.push(client);
    }
    tidegate.folder.write("plugin.wasm", second());
    // Nobody asked for it: the file is watched.
    tidegate.reloaded().await.unwrap();
    for _ in 0..8 {
        assert_eq!(version(&mut tidegate.websocket("/").await).await, SECOND);
    }
    for client in &mut running {
        assert_eq!(version(client).await, FIRST);
    }
}

#[tokio::test]
async fn a_file_that_is_written_in_place_and_in_pieces_is_used_once_it_is_whole() {
    let (_service, mut tidegate) = running_the_first().await;
    let path = tidegate.folder.path().join("plugin.wasm");
    let bytes = second();
    let mut file = std::fs::File::create(path).unwrap();
    for piece in bytes.chunks(bytes.len() / 3) {
        std::io::Write::write_all(&mut file, piece).unwrap();
        file.sync_all().unwrap();
    }
    drop(file);
    while tidegate.reloaded().await.is_err() {}
    assert_eq!(version(&mut tidegate.websocket("/").await).await, SECOND);
}

#[tokio::test]
async fn other_files_that_keep_changing_beside_the_plugin_do_not_delay_it() {
    let (_service, mut tidegate) = running_the_first().await;
    tidegate.folder.write("plugin.wasm", second());
    let busy = tidegate.folder.path().join("busy.log");
    let writing = tokio::spawn(async move {
        loop {
            std::fs::write(&busy, "one more line").unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    tidegate.reloaded().await.unwrap();
    assert_eq!(version(&mut tidegate.websocket("/").await).await, SECOND);
    writing.abort();
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_logged_with_the_reason() {
    let (_service, mut tidegate) = running_the_first().await;
    let mut running = tidegate.websocket("/").await;
    let whole = second();
    for broken in [b"not wasm".as_slice(), &whole[..whole.len() / 2]] {
        tidegate.folder.write("plugin.wasm", broken);
        let error = tidegate.reloaded().await.unwrap_err();
        assert!(error.contains("mine"), "{error}");
        let error = tidegate.reload().await.unwrap_err();
        assert!(error.contains("mine"), "by a signal: {error}");
        assert_eq!(version(&mut running).await, FIRST);
        assert_eq!(version(&mut tidegate.websocket("/").await).await, FIRST);
    }
    tidegate.folder.write("plugin.wasm", whole);
    tidegate.reloaded().await.unwrap();
    assert_eq!(version(&mut tidegate.websocket("/").await).await, SECOND);
}

#[tokio::test]
async fn a_signal_without_a_change_leaves_the_plugins_as_they_are() {
    let (_service, mut tidegate) = running_the_first().await;
    let mut running = tidegate.websocket("/").await;
    for _ in 0..3 {
        tidegate.reload().await.unwrap();
        assert_eq!(version(&mut running).await, FIRST);
        assert_eq!(version(&mut tidegate.websocket("/").await).await, FIRST);
    }
}

/// Nothing may be left over of versions that no session uses.
#[tokio::test]
async fn versions_that_nobody_uses_any_more_leave_no_memory_behind() {
    let (_service, mut tidegate) = running_the_first().await;
    let versions = [std::fs::read(guest("pass-through")).unwrap(), second()];
    let mut swap = async |number: usize| {
        tidegate.folder.write("plugin.wasm", &versions[number % 2]);
        tidegate.reloaded().await.unwrap();
        for _ in 0..4 {
            let expected = [FIRST, SECOND][number % 2];
            assert_eq!(version(&mut tidegate.websocket("/").await).await, expected);
        }
        tidegate.memory()
    };
    let mut memory = Vec::new();
    for number in 1..=12 {
        memory.push(swap(number).await);
    }
    let grown = memory[11].saturating_sub(memory[3]) >> 20;
    assert!(grown < 16, "after each swap, in bytes: {memory:?}");
}
