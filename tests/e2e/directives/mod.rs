//! What each directive of nginx becomes: a fragment is imported and run, and what clients and services
//! see of it is held against the row of its directive. `table.rs` has the rows, `stories.rs` what takes
//! more than a request and its answer to tell.

mod stories;
mod table;

use std::pin::Pin;
use std::rc::Rc;

use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::harness::{
    Authority, Connection, Folder, Refusing, Response, Service, Tidegate, Unreachable, import,
    on_free_ports,
};

/// A directive, a fragment for nginx's `http` block that has it, and what comes of that.
struct Row {
    directive: &'static str,
    fragment: &'static str,
    then: Then,
}

enum Then {
    /// It cannot be kept, and this is among what is said.
    Refused(&'static [&'static str]),
    /// Requests are answered like this, in this order.
    Seen(&'static [(&'static str, &'static [Is])]),
    Story(for<'a> fn(&'a mut World) -> Told<'a>),
}

/// A story as it is told.
type Told<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// What must hold of an answer. Texts may name services and addresses as fragments do.
enum Is {
    Status(u16),
    /// The name of the service; `-` for nobody.
    By(&'static str),
    Body(&'static str),
    /// A field that the client sees, with this value.
    Client(&'static str, &'static str),
    NotClient(&'static str),
    /// The first line as the service sees it.
    Line(&'static str),
    /// A field that the service sees, with this value.
    Service(&'static str, &'static str),
    NotService(&'static str),
}

/// A fragment as it runs, and who is behind it.
struct World {
    tidegate: Tidegate,
    authority: Authority,
    /// ONE, TWO, THREE and FOUR.
    services: Vec<Service>,
    /// DEAD: refuses connections.
    dead: Refusing,
    /// VOID: is never reached.
    void: Unreachable,
    /// WWW: has `a.gif`, `x.json`, `notagif`, `gif` and `sub/index.html`.
    www: Folder,
}

const NAMES: [&str; 4] = ["1", "2", "3", "4"];

#[tokio::test]
async fn every_directive_does_what_it_does_in_nginx() {
    // Each row starts a process.
    let permits = Rc::new(Semaphore::new(4));
    let rows = LocalSet::new();
    let run = |row: &'static Row| {
        let permits = permits.clone();
        let held = rows.spawn_local(async move {
            let _permit = permits.acquire().await.unwrap();
            hold(row).await;
        });
        (row.directive, held)
    };
    let running: Vec<_> = table::ROWS.iter().map(run).collect();
    let mut failed = Vec::new();
    let all = async {
        for (directive, held) in running {
            if held.await.is_err() {
                failed.push(directive);
            }
        }
    };
    rows.run_until(all).await;
    assert_eq!(failed, [""; 0], "rows that do not hold; see above");
}

/// Fails unless a row holds.
async fn hold(row: &'static Row) {
    match &row.then {
        Then::Refused(said) => {
            let report = import(&Folder::new(), row.fragment).expect_err(row.directive);
            for text in *said {
                assert!(
                    report.contains(text),
                    "{}: no {text:?} in\n{report}",
                    row.directive
                );
            }
        }
        Then::Seen(asked) => {
            let world = World::of(row).await;
            for (lines, all) in *asked {
                let response = world.ask(lines).await;
                for is in *all {
                    world.check(is, &response, &format!("{}: {lines}", row.directive));
                }
            }
        }
        Then::Story(story) => story(&mut World::of(row).await).await,
    }
}

impl World {
    async fn of(row: &Row) -> Self {
        let mut services = Vec::new();
        for name in NAMES {
            services.push(Service::telling(name).await);
        }
        let www = Folder::new();
        std::fs::create_dir_all(www.path().join("sub")).unwrap();
        for name in ["a.gif", "x.json", "notagif", "gif", "sub/index.html"] {
            www.write(name, name);
        }
        let authority = Authority::new();
        let folder = Folder::new();
        for name in ["one", "two"] {
            let issued = authority.issue(&[&format!("{name}.example")]);
            folder.write(&format!("{name}.pem"), &issued.chain);
            folder.write(&format!("{name}.key"), &issued.key);
        }
        let (dead, void) = (Refusing::new(), Unreachable::new());
        let mut world = Places {
            services: services
                .iter()
                .map(|service| service.address.to_string())
                .collect(),
            dead: dead.address.to_string(),
            void: void.address.to_string(),
            www: www.path().display().to_string(),
            folder: folder.path().display().to_string(),
        };
        let fragment = world.put_into(row.fragment);
        world.folder.clear();
        let toml = import(&folder, &fragment)
            .unwrap_or_else(|report| panic!("{}: {report}", row.directive));
        let tidegate = Tidegate::start_in(folder, &on_free_ports(&toml)).await;
        Self {
            tidegate,
            authority,
            services,
            dead,
            void,
            www,
        }
    }

    /// What names in texts stand for.
    fn places(&self) -> Places {
        Places {
            services: self
                .services
                .iter()
                .map(|service| service.address.to_string())
                .collect(),
            dead: self.dead.address.to_string(),
            void: self.void.address.to_string(),
            www: self.www.path().display().to_string(),
            folder: self.tidegate.folder.path().display().to_string(),
        }
    }

    /// Sends one request to the first listener.
    async fn ask(&self, lines: &str) -> Response {
        let mut client = self.connect().await;
        client.send_head(&self.put(lines)).await;
        let mut head = client.read_head().await;
        if let Some(rest) = head.start.strip_prefix("HTTP/1.0") {
            head.start = format!("HTTP/1.1{rest}");
        }
        let (body, trailers) = match lines.starts_with("HEAD") {
            true => Default::default(),
            false => client.read_body(&head).await,
        };
        Response {
            head,
            body,
            trailers,
        }
    }

    /// Sends `GET` for a path without a name of its own.
    async fn get(&self, target: &str) -> Response {
        self.ask(&format!("GET {target} HTTP/1.1\nHost: a.example"))
            .await
    }

    /// Connects to the first listener.
    async fn connect(&self) -> Connection {
        self.tidegate.connect().await
    }

    /// Names of the services that so many requests came to.
    async fn turns(&self, target: &str, count: usize) -> String {
        let mut turns = String::new();
        for _ in 0..count {
            turns += self.get(target).await.by();
        }
        turns
    }

    fn put(&self, text: &str) -> String {
        let port = self.tidegate.address(0).port().to_string();
        self.places().put_into(text).replace("PORT", &port)
    }

    #[track_caller]
    fn check(&self, is: &Is, response: &Response, what: &str) {
        match is {
            Is::Status(status) => assert_eq!(response.status(), *status, "{what}"),
            Is::By(name) => assert_eq!(response.by(), *name, "{what}"),
            Is::Body(text) => assert_eq!(response.text(), self.put(text), "{what}"),
            Is::Client(name, value) => {
                assert_eq!(response.fields(name), [self.put(value)], "{what}: {name}");
            }
            Is::NotClient(name) => assert_eq!(response.field(name), None, "{what}: {name}"),
            Is::Line(line) => assert_eq!(response.told().start, *line, "{what}"),
            Is::Service(name, value) => {
                let told = response.told();
                assert_eq!(told.fields(name), [self.put(value)], "{what}: {name}");
            }
            Is::NotService(name) => {
                assert_eq!(response.told().field(name), None, "{what}: {name}");
            }
        }
    }
}

/// What names in fragments stand for.
struct Places {
    services: Vec<String>,
    dead: String,
    void: String,
    www: String,
    folder: String,
}

impl Places {
    fn put_into(&self, text: &str) -> String {
        let (_, port) = self.services[0].split_once(':').unwrap();
        let mut text = text.replace("LOCAL", &format!("localhost:{port}"));
        for (name, address) in ["ONE", "TWO", "THREE", "FOUR"].iter().zip(&self.services) {
            text = text.replace(name, address);
        }
        text.replace("DEAD", &self.dead)
            .replace("VOID", &self.void)
            .replace("WWW", &self.www)
            .replace("FOLDER", &self.folder)
    }
}
