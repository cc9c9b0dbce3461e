//! The endpoints a request may go to, in the order the balancer itself gives.

use super::{Candidates, Endpoint};
use crate::proxy::{Preview, Tries};
use crate::upstream::{Balance, Upstream};

/// How many requests are shown that come after each other.
const NEXT: usize = 8;

/// The endpoints of the route's upstream; None if it has none.
pub(super) fn of(preview: &mut Preview) -> Option<Candidates> {
    let upstream = preview.route().upstream.clone()?;
    let addresses = |indices: &[usize]| -> Vec<String> {
        let address = |index: &usize| upstream.endpoints[*index].name.to_string();
        indices.iter().map(address).collect()
    };
    let next = preview.picks(&upstream, NEXT);
    let tries = preview.tries(&upstream);
    let is_random = matches!(upstream.balance, Balance::RandomTwo);
    let total: u64 = upstream
        .endpoints
        .iter()
        .filter(|endpoint| !endpoint.backup && !endpoint.is_down())
        .map(|endpoint| u64::from(endpoint.weight))
        .sum();
    let endpoints = upstream.endpoints.iter().map(|endpoint| Endpoint {
        address: endpoint.address.to_string(),
        weight: endpoint.weight,
        backup: endpoint.backup,
        share: match (endpoint.is_down(), endpoint.backup) {
            (true, _) => "down".to_owned(),
            (_, true) => "used while all others are out".to_owned(),
            _ => format!("{} of {total}", endpoint.weight),
        },
    });
    Some(Candidates {
        name: upstream.name.clone(),
        balance: balance(&upstream, preview, &tries),
        endpoints: endpoints.collect(),
        tries: if is_random {
            Vec::new()
        } else {
            addresses(&tries.order)
        },
        next: if is_random {
            Vec::new()
        } else {
            addresses(&next)
        },
        note: note(&upstream, preview, &tries),
    })
}

/// How the upstream shares out requests, and by which value of this one.
fn balance(upstream: &Upstream, preview: &Preview, tries: &Tries) -> String {
    let hash = tries
        .hash
        .map_or_else(String::new, |hash| format!(", {hash}"));
    let key = upstream.key().map(|key| preview.render(key));
    match &upstream.balance {
        Balance::RoundRobin => "round-robin".to_owned(),
        Balance::LeastConnections => "least-connections".to_owned(),
        Balance::RandomTwo => "random-two".to_owned(),
        Balance::IpHash => format!("ip-hash{hash}"),
        Balance::Hash { .. } => format!("hash of {:?}{hash}", key.unwrap_or_default()),
        Balance::Ring { .. } => {
            let key = key.unwrap_or_default();
            format!(
                "consistent hash of {key:?}{}",
                hash.replace(", ", ", place ")
            )
        }
    }
}

fn note(upstream: &Upstream, preview: &Preview, tries: &Tries) -> Option<String> {
    if preview.plugins().any(|(_, takes)| takes.endpoint) {
        return Some("A plugin may choose another one; it was not asked.".to_owned());
    }
    let belongs = tries.sticky.map(|index| {
        format!(
            "The cookie says that the client belongs to {}.",
            upstream.endpoints[index].name
        )
    });
    let random = || {
        let is_random = matches!(upstream.balance, Balance::RandomTwo);
        is_random.then(|| "Two endpoints are drawn anew for each request.".to_owned())
    };
    belongs.or_else(random)
}
