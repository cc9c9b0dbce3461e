//! Addresses of the names that endpoints are written with: from the hosts file, else from DNS, and asked
//! for again when they expire.
//!
//! What becomes of an upstream whose names have moved is `generation.rs`'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, Resolver, TokioResolver};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::config::{self, Host, HostName, Problem};
use crate::telemetry::Chain;

/// Asks for addresses. Made anew for each reload, so that the system's settings are those of the moment.
#[derive(Clone)]
pub(crate) struct Names {
    settings: config::Resolver,
    resolver: TokioResolver,
    hosts: Arc<Hosts>,
}

/// The addresses of names, as far as they are known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known(BTreeMap<String, Addresses>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Addresses {
    /// IPv4 before IPv6 as nginx has them, each in numeric order: answers go round, and endpoints should
    /// be in the same order in each process and at any time.
    addresses: Vec<IpAddr>,
    /// When to ask again; None: never.
    expires: Option<Instant>,
    /// The last time, there was no answer.
    failing: bool,
}

/// What asking again came to.
#[derive(Debug, Default)]
pub(crate) struct Refreshed {
    /// Whether a name has other addresses.
    pub(crate) moved: bool,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
}

/// Why a name has no address, or none can be asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("it has no address")]
    NoAddress,
    #[error("{0}")]
    Lookup(String),
    #[error("cannot use the name servers")]
    NameServers(#[source] NetError),
}

impl Names {
    /// Reads what the system says of name servers, unless the configuration names some.
    pub(crate) fn new(settings: &config::Resolver) -> Result<Self, Error> {
        let mut builder = if settings.servers.is_empty() {
            TokioResolver::builder_tokio().unwrap_or_else(|error| {
                warn!(%error, "cannot read the system's name servers; names come from the hosts file");
                let nobody = ResolverConfig::from_name_servers(Vec::new());
                Resolver::builder_with_config(nobody, TokioRuntimeProvider::default())
            })
        } else {
            let servers = settings.servers.iter().map(|server| {
                let protocols = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let connections = protocols.map(|mut protocol| {
                    protocol.port = server.port();
                    protocol
                });
                NameServerConfig::new(server.ip(), true, connections.into())
            });
            let servers = ResolverConfig::from_name_servers(servers.collect());
            Resolver::builder_with_config(servers, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = settings.timeout;
        // What is known is kept here, for as long as it is valid.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        Ok(Self {
            settings: settings.clone(),
            resolver: builder.build().map_err(Error::NameServers)?,
            hosts: Arc::new(Hosts::from_system().unwrap_or_default()),
        })
    }

    /// Finds the addresses of all names of a configuration. One that cannot be found now stays where
    /// `before` has it. Returns the problems of those that have never been found.
    pub(crate) async fn resolve(
        &self,
        names: &[HostName],
        before: &Known,
    ) -> Result<Known, Vec<Problem>> {
        let asked: BTreeSet<_> = names.iter().map(|name| &name.name).collect();
        let answers = self.ask(asked.into_iter()).await;
        let mut known = Known::default();
        let mut problems = Vec::new();
        for (name, answer) in &answers {
            match (answer, before.0.get(name)) {
                (Ok(addresses), _) => {
                    known.0.insert(name.clone(), addresses.clone());
                }
                (Err(error), Some(before)) => {
                    let before = self.kept(name, before.clone(), error);
                    known.0.insert(name.clone(), before);
                }
                (Err(error), None) => {
                    let places = names.iter().filter(|place| place.name == *name);
                    problems.extend(places.map(|place| place.unresolved(error)));
                }
            }
        }
        problems.sort();
        if problems.is_empty() {
            Ok(known)
        } else {
            Err(problems)
        }
    }

    /// Waits until names expire, and asks for them again; those that cannot be found stay where they are.
    /// Waits forever if none expires. Cancel safe.
    pub(crate) async fn refresh(&self, known: &mut Known) -> Refreshed {
        let due = known.0.values().filter_map(|addresses| addresses.expires);
        let Some(due) = due.min() else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(due.into()).await;
        let now = Instant::now();
        let expired = known.0.iter().filter_map(|(name, addresses)| {
            let expired = addresses.expires.is_some_and(|expires| expires <= now);
            expired.then_some(name)
        });
        let answers = self.ask(expired).await;
        let mut refreshed = Refreshed::default();
        for (name, answer) in answers {
            let Some(before) = known.0.get_mut(&name) else {
                continue;
            };
            match answer {
                Ok(addresses) => {
                    refreshed.answered += 1;
                    if before.addresses != addresses.addresses {
                        refreshed.moved = true;
                        info!(name, addresses = ?addresses.addresses, "a name has other addresses");
                    } else if before.failing {
                        info!(name, "a name can be resolved again");
                    }
                    *before = addresses;
                }
                Err(error) => {
                    refreshed.failed += 1;
                    *before = self.kept(&name, before.clone(), &error);
                }
            }
        }
        refreshed
    }

    /// Returns what is known of a name that cannot be found now.
    fn kept(&self, name: &str, before: Addresses, error: &Error) -> Addresses {
        if !before.failing {
            warn!(
                name,
                error = %Chain(error),
                "cannot resolve a name; its last addresses stay in use"
            );
        }
        Addresses {
            expires: Some(Instant::now() + self.settings.min_ttl),
            failing: true,
            ..before
        }
    }

    /// Asks for several names at once.
    async fn ask(
        &self,
        names: impl Iterator<Item = &String>,
    ) -> BTreeMap<String, Result<Addresses, Error>> {
        let mut asking = JoinSet::new();
        let mut answers = BTreeMap::new();
        for name in names {
            answers.insert(name.clone(), Err(Error::NoAddress));
            let (names, name) = (self.clone(), name.clone());
            asking.spawn(async move {
                let addresses = names.addresses(&name).await;
                (name, addresses)
            });
        }
        while let Some(answer) = asking.join_next().await {
            match answer {
                Ok((name, addresses)) => answers.insert(name, addresses),
                Err(error) => {
                    warn!(%error, "a lookup was broken off");
                    None
                }
            };
        }
        answers
    }

    async fn addresses(&self, host: &str) -> Result<Addresses, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Lookup(error.to_string());
        let mut name = Name::from_ascii(host).map_err(|error| failed(&error))?;
        // As the system's own resolver has it: what stands in the hosts file stands there whole.
        let families = [RecordType::A, RecordType::AAAA];
        let of_hosts = families.iter().filter_map(|&family| {
            let lookup = self
                .hosts
                .lookup_static_host(&Query::query(name.clone(), family));
            lookup.map(|lookup| in_order(&lookup))
        });
        let of_hosts: Vec<_> = of_hosts.flatten().collect();
        if !of_hosts.is_empty() {
            return Ok(Addresses {
                addresses: of_hosts,
                expires: None,
                failing: false,
            });
        }
        name.set_fqdn(host.ends_with('.'));
        let (v4, v6) = tokio::join!(
            self.resolver.lookup(name.clone(), RecordType::A),
            self.resolver.lookup(name.clone(), RecordType::AAAA),
        );
        let mut addresses = Vec::new();
        let mut expires = Instant::now() + self.settings.max_ttl;
        for family in [v4, v6] {
            match family {
                Ok(lookup) => {
                    addresses.extend(in_order(&lookup));
                    expires = expires.min(lookup.valid_until());
                }
                Err(error) if error.is_no_records_found() => {}
                // Half an answer would take endpoints away that are still there.
                Err(error) => return Err(failed(&error)),
            }
        }
        if addresses.is_empty() {
            return Err(Error::NoAddress);
        }
        Ok(Addresses {
            addresses,
            expires: Some(expires.max(Instant::now() + self.settings.min_ttl)),
            failing: false,
        })
    }
}

impl Known {
    /// Returns the addresses of a host.
    pub(crate) fn addresses<'a>(&'a self, host: &'a Host) -> &'a [IpAddr] {
        match host {
            Host::Address(address) => std::slice::from_ref(address),
            Host::Name(name) => self.0.get(name).map_or(&[], |known| &known.addresses),
        }
    }
}

/// Returns the addresses of an answer, in numeric order.
fn in_order(lookup: &hickory_resolver::lookup::Lookup) -> Vec<IpAddr> {
    let records = lookup.answers().iter();
    let mut addresses: Vec<_> = records.filter_map(|record| record.data.ip_addr()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
