//! The published set-ups at work, case by case: each runs twice, as import makes it of the file of nginx
//! in `host/examples`, and as the example of Tidegate beside it has it.
//!
//! Times are shortened where a case waits: what is five minutes there is a second here.

mod handshakes;
mod services;
mod tiers;

use std::net::Ipv4Addr;

use crate::harness::{Authority, Folder, NameServer, Tidegate, import, on_free_ports};

/// What of an example is changed for a test: a text, and what takes its place, in the file of nginx and
/// in that of Tidegate.
struct Change {
    nginx: (String, String),
    tidegate: (String, String),
}

/// The same text in both files.
fn change(from: &str, to: impl ToString) -> Change {
    let to = to.to_string();
    Change {
        nginx: (from.to_owned(), to.clone()),
        tidegate: (from.to_owned(), to),
    }
}

/// A text of each file.
fn changes(nginx: [&str; 2], tidegate: [&str; 2]) -> Change {
    let pair = |[from, to]: [&str; 2]| (from.to_owned(), to.to_owned());
    Change {
        nginx: pair(nginx),
        tidegate: pair(tidegate),
    }
}

/// A set-up of the examples.
pub(super) struct SetUp {
    /// Whose certificates are shown.
    pub(super) authority: Authority,
    pub(super) names: NameServer,
    /// Has the static files.
    pub(super) www: Folder,
}

impl SetUp {
    pub(super) async fn new() -> Self {
        let names = NameServer::start(300).await;
        names.set("board.xncoding.com", &[Ipv4Addr::LOCALHOST]);
        names.set("localhost", &[Ipv4Addr::LOCALHOST]);
        let www = Folder::new();
        www.write("x.json", "{}");
        Self {
            authority: Authority::new(),
            names,
            www,
        }
    }

    /// A folder with what examples name: certificates.
    pub(super) fn folder(&self) -> Folder {
        let folder = Folder::new();
        std::fs::create_dir_all(folder.path().join("certs")).unwrap();
        for name in ["www.xxxx.com", "www.xxx.com", "www.xncoding.com"] {
            let issued = self.authority.issue(&[name]);
            folder.write(&format!("certs/{name}.pem"), &issued.chain);
            folder.write(&format!("certs/{name}.key"), &issued.key);
        }
        folder
    }

    /// What import makes of an example in such a folder, and the example of Tidegate.
    pub(super) fn texts(&self, folder: &Folder, name: &str) -> [String; 2] {
        let nginx = self.placed(folder, &example(&format!("{name}.conf")));
        let imported = import(folder, &nginx).unwrap_or_else(|report| panic!("{report}"));
        let written = self.placed(folder, &example(&format!("{name}.toml")));
        [imported, written].map(|text| self.with_names(&text))
    }

    /// Starts an example twice.
    async fn both(&self, name: &str, changes: &[Change]) -> [Tidegate; 2] {
        self.both_with(name, changes, ["", ""]).await
    }

    /// Starts an example twice, with a text behind each file.
    async fn both_with(&self, name: &str, changes: &[Change], more: [&str; 2]) -> [Tidegate; 2] {
        let mut nginx = example(&format!("{name}.conf"));
        let mut tidegate = example(&format!("{name}.toml"));
        for change in changes {
            for (text, (from, to)) in [
                (&mut nginx, &change.nginx),
                (&mut tidegate, &change.tidegate),
            ] {
                assert!(text.contains(from), "nothing to change in {name}: {from}");
                *text = text.replace(from, to);
            }
        }
        let (folder, other) = (self.folder(), self.folder());
        let nginx = self.placed(&folder, &(nginx + more[0]));
        let imported = import(&folder, &nginx).unwrap_or_else(|report| panic!("{report}"));
        let written = self.placed(&other, &(tidegate + more[1]));
        let start = async |folder, text: &str| {
            Tidegate::start_in(folder, &on_free_ports(&self.with_names(text))).await
        };
        [start(folder, &imported).await, start(other, &written).await]
    }

    /// A text with folders that are there in place of a server's.
    fn placed(&self, folder: &Folder, text: &str) -> String {
        let folder = folder.path().display().to_string();
        text.replace("/etc/nginx/certs", &format!("{folder}/certs"))
            .replace("/var/log/nginx", &folder)
            .replace("/srv/www/static", &self.www.path().display().to_string())
    }

    fn with_names(&self, text: &str) -> String {
        let servers = self.names.address;
        format!("{text}\n[resolver]\nservers = [\"{servers}\"]\n")
    }
}

/// An example as it is.
pub(super) fn example(file: &str) -> String {
    let path = format!("{}/examples/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}
