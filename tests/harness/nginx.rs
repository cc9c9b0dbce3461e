//! nginx, where it is installed, with a file of a test: what Tidegate is compared with.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use tokio::net::TcpStream;

use super::eventually;
use super::process::Process;

/// A running nginx, stopped at the end of the test.
pub(crate) struct Nginx {
    /// Killed when it is dropped; without a master there is one process only.
    _process: Process,
}

impl Nginx {
    /// Starts with a whole file, and waits until all of these addresses are served.
    pub(crate) async fn start(file: &Path, addresses: &[SocketAddr]) -> Self {
        let mut command = command();
        command
            .arg("-p")
            .arg(file.parent().unwrap())
            .arg("-c")
            .arg(file)
            .args(["-e", "stderr"])
            .args(["-g", "daemon off; master_process off;"]);
        let process = Process::spawn(&mut command);
        for address in addresses {
            let connect = async || TcpStream::connect(address).await.ok();
            eventually("nginx at its address", connect).await;
        }
        Self { _process: process }
    }

    /// Fails the test, with what to do, if there is no nginx.
    pub(crate) fn require() {
        let version = command().arg("-v").stderr(Stdio::null()).status();
        assert!(
            version.is_ok_and(|status| status.success()),
            "nginx is not installed, and this test compares with it; \
             `tests/run` installs it, or: apt-get install nginx"
        );
    }
}

fn command() -> Command {
    // Debian's place is not on everybody's path.
    let debian = Path::new("/usr/sbin/nginx");
    match debian.exists() {
        true => Command::new(debian),
        false => Command::new("nginx"),
    }
}

/// Addresses that are free now. Someone else may take one before it is used, which is unlikely: the
/// system goes round all ports before it gives one out again.
pub(crate) fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}
