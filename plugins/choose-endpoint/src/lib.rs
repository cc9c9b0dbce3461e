//! Chooses the endpoint by a key of the request, so that one key always reaches one endpoint.
//!
//! ```toml
//! [plugins.by-room]
//! module = "builtin:choose-endpoint"
//! config = { by = "query:room" }
//! ```
//!
//! `by` is one of `query:NAME`, `header:NAME`, `cookie:NAME` and `path-segment:N` (the first is 1).
//! Keys are compared as they were sent, not percent-decoded. Without a key, or with an empty one, the
//! upstream's `balance` decides.
//!
//! The choice is a hash of the key and the endpoint's address, weighted by the endpoint's weight: every
//! worker and every proxy with the same endpoints chooses alike, in whatever order they are written.
//! When an endpoint goes, only its keys move; when one comes, it takes its share from all others alike.
//! Backups are chosen only when there is nothing else.

use std::error::Error;

use serde::Deserialize;
use tidegate_plugin::{Balancer, Candidate, Endpoint, Plugin, RequestHead};

struct ChooseEndpoint {
    by: Key,
}

/// The configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    by: String,
}

/// Where the key of a request is.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    Query(String),
    Header(String),
    Cookie(String),
    /// Counted from 0.
    PathSegment(usize),
}

/// What the choice needs of an endpoint.
struct Share {
    address_hash: u64,
    weight: f64,
    backup: bool,
}

impl Plugin for ChooseEndpoint {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, Box<dyn Error>> {
        let by = Key::parse(&config.by).ok_or_else(|| {
            format!(
                "by: expected \"query:NAME\", \"header:NAME\", \"cookie:NAME\" or \
                 \"path-segment:N\" with N from 1, found {:?}",
                config.by
            )
        })?;
        Ok(Self { by })
    }
}

impl Balancer for ChooseEndpoint {
    type Upstream = Vec<Share>;

    fn upstream(&mut self, _: &str, endpoints: Vec<Endpoint>) -> Vec<Share> {
        let share = |endpoint: &Endpoint| Share {
            address_hash: hash(endpoint.address.as_bytes()),
            weight: f64::from(endpoint.weight),
            backup: endpoint.backup,
        };
        endpoints.iter().map(share).collect()
    }

    fn choose(
        &mut self,
        upstream: &mut Vec<Share>,
        head: &RequestHead,
        candidates: &[Candidate],
    ) -> Option<Candidate> {
        let key = hash(&self.by.find(head)?);
        let mut best: Option<(Candidate, bool, f64)> = None;
        for candidate in candidates {
            let share = upstream.get(candidate.endpoint as usize)?;
            let score = share.score(key);
            let better = best.is_none_or(|(_, backup, best_score)| {
                (backup && !share.backup) || (backup == share.backup && score > best_score)
            });
            if better {
                best = Some((*candidate, share.backup, score));
            }
        }
        best.map(|(candidate, ..)| candidate)
    }
}

tidegate_plugin::export!(ChooseEndpoint: Balancer);

impl Key {
    fn parse(by: &str) -> Option<Self> {
        let (kind, name) = by.split_once(':')?;
        match kind {
            _ if name.is_empty() => None,
            "query" => Some(Self::Query(name.to_owned())),
            "header" => Some(Self::Header(name.to_owned())),
            "cookie" => Some(Self::Cookie(name.to_owned())),
            "path-segment" => Some(Self::PathSegment(
                name.parse::<usize>().ok()?.checked_sub(1)?,
            )),
            _ => None,
        }
    }

    /// Finds the key of a request, unless it is missing or empty.
    fn find(&self, head: &RequestHead) -> Option<Vec<u8>> {
        let key = match self {
            Self::Query(name) => {
                let target = head.target();
                let (_, query) = target.split_once('?')?;
                value_of(query.split('&'), name)?.into()
            }
            Self::Header(name) => head.get(name)?,
            // HTTP/2 clients may send each cookie as a field of its own (RFC 9113 §8.2.3).
            Self::Cookie(name) => head.get_all("cookie").iter().find_map(|field| {
                let pairs = str::from_utf8(field).ok()?.split(';').map(str::trim);
                Some(value_of(pairs, name)?.into())
            })?,
            Self::PathSegment(index) => {
                let target = head.target();
                let path = target.split('?').next()?;
                path.trim_start_matches('/').split('/').nth(*index)?.into()
            }
        };
        Some(key).filter(|key: &Vec<u8>| !key.is_empty())
    }
}

/// Finds the value of the first `NAME=VALUE` with this name.
fn value_of<'a>(mut pairs: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

impl Share {
    /// Scores this endpoint for a key: the highest of all wins it. With `u` evenly spread between 0
    /// and 1, `-weight / ln(u)` is highest as often as its weight is of the sum of all weights
    /// (rendezvous hashing with logarithmic weights).
    fn score(&self, key: u64) -> f64 {
        // 52 bits, so that half a step more is exact and `u` never 0 or 1.
        let bits = mix(key ^ self.address_hash) >> 12;
        #[allow(clippy::cast_precision_loss, reason = "52 bits fit")]
        let u = (bits as f64 + 0.5) / (1_u64 << 52) as f64;
        -self.weight / u.ln()
    }
}

/// Hashes bytes with FNV-1a, spread over all bits. Fixed for good: another hash would send every key
/// elsewhere at an update.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Spreads a change of any bit over all bits (the finalizer of SplitMix64).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_plugin::testing::{Request, configure};

    fn endpoint(address: &str, weight: u32, backup: bool) -> Endpoint {
        Endpoint {
            address: address.to_owned(),
            weight,
            backup,
        }
    }

    fn three() -> Vec<Endpoint> {
        [9001, 9002, 9003]
            .map(|port| endpoint(&format!("127.0.0.1:{port}"), 1, false))
            .to_vec()
    }

    fn all(endpoints: &[Endpoint]) -> Vec<Candidate> {
        (0..)
            .take(endpoints.len())
            .map(|endpoint| Candidate { endpoint, open: 0 })
            .collect()
    }

    /// The addresses chosen for the keys 0 to 9,999.
    fn choices(endpoints: &[Endpoint], candidates: &[Candidate]) -> Vec<String> {
        let mut plugin: ChooseEndpoint = configure(r#"{"by": "query:room"}"#).unwrap();
        let mut upstream = plugin.upstream("chat", endpoints.to_vec());
        let mut choose = |key: u32| {
            let target = format!("/chat?a=b&room={key}");
            let head = Request {
                target: &target,
                ..Request::default()
            }
            .head();
            let chosen = plugin.choose(&mut upstream, &head, candidates).unwrap();
            endpoints[chosen.endpoint as usize].address.clone()
        };
        (0..10_000).map(&mut choose).collect()
    }

    fn share(choices: &[String], address: &str) -> usize {
        choices.iter().filter(|chosen| *chosen == address).count()
    }

    #[test]
    fn only_the_keys_of_a_removed_endpoint_move() {
        let before = choices(&three(), &all(&three()));
        let fewer = vec![three()[2].clone(), three()[0].clone()];
        let after = choices(&fewer, &all(&fewer));
        let failed = choices(&three(), &[all(&three())[0], all(&three())[2]]);

        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || before == "127.0.0.1:9002");
        }
        assert_eq!(after, failed);
    }

    #[test]
    fn keys_spread_by_weight() {
        let even = choices(&three(), &all(&three()));
        assert!((3_100..3_600).contains(&share(&even, "127.0.0.1:9001")));

        let weighted = [endpoint("a:1", 3, false), endpoint("b:1", 1, false)];
        let uneven = choices(&weighted, &all(&weighted));
        assert!((7_300..7_700).contains(&share(&uneven, "a:1")));
    }

    #[test]
    fn backups_are_chosen_only_when_there_is_nothing_else() {
        let endpoints = [
            endpoint("a:1", 1, true),
            endpoint("b:1", 1, false),
            endpoint("c:1", 1, true),
        ];
        let candidates = all(&endpoints);
        assert_eq!(share(&choices(&endpoints, &candidates), "b:1"), 10_000);

        let backups = choices(&endpoints, &[candidates[0], candidates[2]]);
        assert!((4_700..5_300).contains(&share(&backups, "a:1")));
    }

    #[test]
    fn a_key_is_found_where_by_says() {
        let key = |by: &str| {
            let fields = [
                ("X-Room", "h"),
                ("Cookie", "a=1; roomy=x; room=c"),
                ("Cookie", "b=2"),
            ];
            let target = "/rooms/s/?x=1&room=q&room=r&empty=";
            let head = Request {
                target,
                fields: &fields,
                ..Request::default()
            }
            .head();
            let key = Key::parse(by).expect("a valid `by`").find(&head)?;
            Some(String::from_utf8(key).unwrap())
        };
        assert_eq!(key("query:room").as_deref(), Some("q"));
        assert_eq!(key("query:empty"), None);
        assert_eq!(key("query:roo"), None);
        assert_eq!(key("header:x-room").as_deref(), Some("h"));
        assert_eq!(key("header:x-none"), None);
        assert_eq!(key("cookie:room").as_deref(), Some("c"));
        assert_eq!(key("cookie:b").as_deref(), Some("2"));
        assert_eq!(key("path-segment:1").as_deref(), Some("rooms"));
        assert_eq!(key("path-segment:2").as_deref(), Some("s"));
        assert_eq!(key("path-segment:3"), None);
        assert_eq!(key("path-segment:4"), None);
    }

    #[test]
    fn a_missing_key_means_no_opinion() {
        let mut plugin: ChooseEndpoint = configure(r#"{"by": "query:room"}"#).unwrap();
        let mut upstream = plugin.upstream("chat", three());
        let head = Request {
            target: "/chat",
            ..Request::default()
        }
        .head();
        assert_eq!(plugin.choose(&mut upstream, &head, &all(&three())), None);
    }

    #[test]
    fn a_wrong_configuration_says_what_is_expected() {
        for by in [
            "room",
            "query:",
            "path-segment:0",
            "path-segment:x",
            "body:x",
        ] {
            let error = configure::<ChooseEndpoint>(&format!(r#"{{"by": "{by}"}}"#))
                .err()
                .unwrap();
            assert!(error.starts_with("by: expected \"query:NAME\""), "{error}");
            assert!(error.ends_with(&format!("found \"{by}\"")), "{error}");
        }
    }
}
