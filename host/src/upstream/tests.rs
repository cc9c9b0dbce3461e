//! Whom the balancers choose. The sequences were observed at nginx 1.22, with the same addresses, weights,
//! keys and clients.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::*;
use crate::config;

/// Endpoints of these weights on ports 19001 and so on.
fn endpoints(weights: &[u32]) -> Vec<config::Endpoint> {
    let endpoint = |(port, &weight): (u16, &u32)| {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        config::Endpoint {
            host: config::Host::Address(address.ip()),
            port,
            written: address.to_string(),
            weight,
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
            max_connections: 0,
            slow_start: Duration::ZERO,
            backup: false,
            down: false,
        }
    };
    (19001..).zip(weights).map(endpoint).collect()
}

fn settings(balance: config::Balance, endpoints: Vec<config::Endpoint>) -> config::Upstream {
    config::Upstream {
        name: "test".into(),
        endpoints,
        balance,
        sticky: None,
        health: None,
        keep_alive: 0,
        keep_alive_timeout: Duration::ZERO,
        tls: None,
    }
}

fn upstream(balance: config::Balance, endpoints: Vec<config::Endpoint>) -> Arc<Upstream> {
    Upstream::new(
        &settings(balance, endpoints),
        &Known::default(),
        Before::Nothing,
    )
    .unwrap()
}

fn round_robin(weights: &[u32]) -> Arc<Upstream> {
    upstream(config::Balance::RoundRobin, endpoints(weights))
}

fn by_key(consistent: bool) -> config::Balance {
    let key = Template::parse("$arg_k").unwrap();
    config::Balance::Hash { key, consistent }
}

fn anyone() -> Search {
    Search::new(IpAddr::from([127, 0, 0, 1]))
}

fn of_client(client: &str) -> Search {
    Search::new(client.parse().unwrap())
}

fn of_key(key: &str) -> Search {
    let mut search = anyone();
    search.prefer(Key::new(key.as_bytes()), None);
    search
}

/// The letter of the endpoint picked for a request that is over at once, `-` for none.
fn pick(balancer: &Balancer, upstream: &Upstream, mut search: Search) -> char {
    let picked = balancer.pick(upstream, &mut search);
    picked.map_or('-', |(index, _)| letter(index))
}

fn letter(index: usize) -> char {
    char::from(b'a' + u8::try_from(index).unwrap())
}

fn picks(balancer: &Balancer, upstream: &Upstream, count: usize) -> String {
    (0..count)
        .map(|_| pick(balancer, upstream, anyone()))
        .collect()
}

/// Picks for `key0` and so on.
fn picks_by_key(upstream: &Upstream) -> String {
    let balancer = Balancer::new(0);
    (0..40)
        .map(|n| pick(&balancer, upstream, of_key(&format!("key{n}"))))
        .collect()
}

/// Picks for the clients 127.0.0.1, 127.0.1.1 and so on.
fn picks_by_client(upstream: &Upstream) -> String {
    let balancer = Balancer::new(0);
    (0..40)
        .map(|n| pick(&balancer, upstream, of_client(&format!("127.0.{n}.1"))))
        .collect()
}

#[test]
fn weights_5_1_1_give_a_smooth_order() {
    let upstream = round_robin(&[5, 1, 1]);
    assert_eq!(picks(&Balancer::new(0), &upstream, 14), "aabacaaaabacaa");
}

#[test]
fn equal_endpoints_alternate_and_workers_start_apart() {
    let upstream = round_robin(&[1, 1]);
    assert_eq!(picks(&Balancer::new(0), &upstream, 4), "abab");
    assert_eq!(picks(&Balancer::new(1), &upstream, 4), "baba");
}

#[test]
fn equal_weights_of_50_behave_as_1() {
    let upstream = round_robin(&[50; 4]);
    assert_eq!(picks(&Balancer::new(0), &upstream, 8), "abcdabcd");
}

#[test]
fn backups_serve_only_when_every_other_endpoint_is_out() {
    for balance in [
        config::Balance::RoundRobin,
        config::Balance::LeastConnections,
    ] {
        let mut endpoints = endpoints(&[1, 1, 1]);
        endpoints[2].backup = true;
        let upstream = upstream(balance, endpoints);
        let balancer = Balancer::new(0);
        assert_eq!(picks(&balancer, &upstream, 4), "abab");
        balancer.failed(&upstream, 0);
        assert_eq!(picks(&balancer, &upstream, 2), "bb");
        balancer.failed(&upstream, 1);
        assert_eq!(picks(&balancer, &upstream, 2), "cc");
        balancer.failed(&upstream, 2);
        assert_eq!(picks(&balancer, &upstream, 1), "-");
    }
}

#[test]
fn what_was_tried_is_not_picked_again() {
    let every = [
        config::Balance::RoundRobin,
        config::Balance::LeastConnections,
        config::Balance::IpHash,
        config::Balance::RandomTwo,
        by_key(false),
        by_key(true),
    ];
    for balance in every {
        let upstream = upstream(balance.clone(), endpoints(&[1, 1, 1]));
        let balancer = Balancer::new(0);
        let mut search = of_key("a");
        let mut picked = Vec::new();
        while let Some((index, _)) = balancer.pick(&upstream, &mut search) {
            search.failed(index);
            picked.push(index);
            assert_eq!(upstream.candidates(&search).len(), 3 - picked.len());
        }
        picked.sort_unstable();
        assert_eq!(picked, [0, 1, 2], "{balance:?}");
    }
}

#[test]
fn a_single_endpoint_is_never_out_for_its_failures() {
    let upstream = round_robin(&[1]);
    let balancer = Balancer::new(0);
    balancer.failed(&upstream, 0);
    assert_eq!(picks(&balancer, &upstream, 1), "a");
}

#[test]
fn the_fewest_open_for_the_weight_are_given_the_next_and_equals_take_turns() {
    let upstream = upstream(config::Balance::LeastConnections, endpoints(&[2, 1, 1]));
    let balancer = Balancer::new(0);
    let mut open = Vec::new();
    let order: String = (0..8)
        .map(|_| {
            let (index, guard) = balancer.pick(&upstream, &mut anyone()).unwrap();
            open.push((index, guard));
            letter(index)
        })
        .collect();
    // Twice the weight, twice as many.
    assert_eq!(order, "abcacaba");
    open.retain(|(index, _)| *index != 2);
    assert_eq!(pick(&balancer, &upstream, anyone()), 'c');
    // What is open at another worker counts as well.
    assert_eq!(pick(&Balancer::new(1), &upstream, anyone()), 'c');
}

/// A client of 192.168.2 is at 155 of 6271.
#[test]
fn a_client_stays_with_the_endpoint_of_its_network() {
    for client in ["192.168.2.1", "192.168.2.77"] {
        assert_eq!(hash::ip_hash(89, client.parse().unwrap()), 155);
    }
    let upstream = upstream(config::Balance::IpHash, endpoints(&[3, 1, 2]));
    assert_eq!(
        picks_by_client(&upstream),
        "abccaaabccaaabccaaabccaaabccaaabccaaabcc"
    );
    let balancer = Balancer::new(0);
    let v6 = |client| pick(&balancer, &upstream, of_client(client));
    assert_eq!(v6("2001:db8::1"), v6("2001:db8::1"));
    assert_ne!(
        hash::ip_hash(89, "2001:db8::1".parse().unwrap()),
        hash::ip_hash(89, "2001:db8::2".parse().unwrap())
    );
}

#[test]
fn clients_of_an_endpoint_that_is_down_go_where_nginx_sends_them() {
    let mut endpoints = endpoints(&[3, 1, 2]);
    endpoints[0].down = true;
    let by_client = upstream(config::Balance::IpHash, endpoints.clone());
    assert_eq!(
        picks_by_client(&by_client),
        "bbcccbcbcccbcbcccbbbcccccbccbccbccbbcbcc"
    );
    assert_eq!(
        picks_by_key(&upstream(by_key(false), endpoints.clone())),
        "ccbccccbbbccccccccccbccccccbcbccccbccccc"
    );
    assert_eq!(
        picks_by_key(&upstream(by_key(true), endpoints)),
        "bcbbcbbccbbbcccccccbccbbccbbccccbbccccbc"
    );
}

#[test]
fn a_key_goes_where_nginx_sends_it() {
    let plain = upstream(by_key(false), endpoints(&[3, 1, 2]));
    assert_eq!(
        picks_by_key(&plain),
        "ccbcaccbaacaccaaaaacaaccccababacacaacaac"
    );
    let ring = upstream(by_key(true), endpoints(&[3, 1, 2]));
    assert_eq!(
        picks_by_key(&ring),
        "bcabaaacaabbaaacaccbccbaccbacaacbbacaabc"
    );
}

#[test]
fn the_addresses_of_one_name_share_its_place_on_the_ring_and_take_turns() {
    let mut endpoints = endpoints(&[1, 1, 1]);
    // `localhost:19001`, with its two addresses.
    endpoints[0].written = "localhost:19001".into();
    endpoints[1].written = "localhost:19001".into();
    endpoints[1].host = config::Host::Address("::1".parse().unwrap());
    endpoints[1].port = 19001;
    endpoints[2].port = 19002;
    endpoints[2].written = "127.0.0.1:19002".into();
    let upstream = upstream(by_key(true), endpoints);
    let picked = picks_by_key(&upstream);
    let by_name: String = picked
        .chars()
        .map(|letter| if letter == 'c' { 'b' } else { 'a' })
        .collect();
    assert_eq!(by_name, "bbbbabaabbbabbaaabbabbbbaabbaaaabbbaabbb");
    let turns: String = picked.chars().filter(|letter| *letter != 'c').collect();
    assert!(turns.starts_with("abab"), "{turns}");
}

#[test]
fn requests_without_a_key_take_turns() {
    for consistent in [false, true] {
        let upstream = upstream(by_key(consistent), endpoints(&[1, 1]));
        assert_eq!(picks(&Balancer::new(0), &upstream, 4), "abab");
    }
}

#[test]
fn of_two_drawn_the_one_with_fewer_open_is_taken() {
    let upstream = upstream(config::Balance::RandomTwo, endpoints(&[1, 1]));
    let balancer = Balancer::new(0);
    let mut open = Vec::new();
    for _ in 0..50 {
        open.push(balancer.pick(&upstream, &mut anyone()).unwrap());
    }
    // With two endpoints both are drawn each time, so neither is ever ahead by more than one.
    let of_first = open.iter().filter(|(index, _)| *index == 0).count();
    assert_eq!(of_first, 25);
}

#[test]
fn a_full_endpoint_is_passed_over_until_something_ends() {
    let mut endpoints = endpoints(&[1, 1]);
    endpoints[0].max_connections = 1;
    endpoints[1].max_connections = 2;
    let upstream = upstream(config::Balance::RoundRobin, endpoints);
    let balancer = Balancer::new(0);
    let mut open = Vec::new();
    for expected in [0, 1, 1] {
        let taken = balancer.pick(&upstream, &mut anyone()).unwrap();
        assert_eq!(taken.0, expected);
        open.push(taken);
    }
    assert_eq!(picks(&balancer, &upstream, 1), "-");
    assert!(upstream.take(0).is_none(), "nor is it for a plugin to take");
    assert!(upstream.candidates(&anyone()).is_empty());
    open.remove(0);
    assert_eq!(picks(&balancer, &upstream, 2), "aa");
}

#[test]
fn threads_that_race_for_the_last_places_never_take_too_many() {
    let mut endpoints = endpoints(&[1]);
    endpoints[0].max_connections = 100;
    let upstream = upstream(config::Balance::RoundRobin, endpoints);
    let taken: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let upstream = &upstream;
                scope.spawn(move || {
                    let balancer = Balancer::new(n);
                    let open: Vec<_> = (0..50)
                        .filter_map(|_| balancer.pick(upstream, &mut anyone()))
                        .collect();
                    let taken = open.len();
                    std::mem::forget(open);
                    taken
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(taken, 100);
}

#[test]
fn threads_that_race_for_the_probe_of_a_failed_endpoint_send_exactly_one() {
    let mut endpoints = endpoints(&[1, 1]);
    endpoints[0].fail_timeout = Duration::from_millis(1);
    let upstream = upstream(config::Balance::RoundRobin, endpoints);
    for _ in 0..100 {
        Balancer::new(0).failed(&upstream, 0);
        std::thread::sleep(Duration::from_millis(3));
        // All look at the same moment, so that none can be a second probe after another timeout.
        let now = health::now();
        let probes: usize = std::thread::scope(|scope| {
            let upstream = &upstream;
            let claim = move || usize::from(upstream.endpoints[0].claim(false, now).is_some());
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(claim)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(probes, 1);
        upstream.endpoints[0].succeeded();
    }
}

#[test]
fn an_endpoint_that_is_down_gets_nothing() {
    let mut endpoints = endpoints(&[1, 1]);
    endpoints[0].down = true;
    let upstream = upstream(config::Balance::RoundRobin, endpoints);
    assert_eq!(picks(&Balancer::new(0), &upstream, 3), "bbb");
    assert!(upstream.take(0).is_none());
}

#[test]
fn an_endpoint_that_came_back_grows_into_its_share() {
    let mut endpoints = endpoints(&[1, 1]);
    endpoints[0].slow_start = Duration::from_secs(3600);
    let settings = settings(config::Balance::RoundRobin, endpoints);
    let upstream = Upstream::new(&settings, &Known::default(), Before::Nothing).unwrap();
    let endpoint = &upstream.endpoints[0];
    assert_eq!(endpoint.ramped(1000, health::now()), 1000, "from the start");

    let now = health::now();
    endpoint.state.health.rises(now);
    let after = |minutes: u64| endpoint.ramped(1000, now + minutes * 60_000);
    assert_eq!([0, 15, 30, 60].map(after), [1, 250, 500, 1000]);
    assert_eq!(picks(&Balancer::new(0), &upstream, 20), "b".repeat(20));

    // The one that has been there all along is not eased in by a reload, one that joins is.
    let mut more = settings.clone();
    let mut third = more.endpoints[0].clone();
    third.port = 19003;
    more.endpoints.push(third);
    let upstream = Upstream::new(
        &more,
        &Known::default(),
        Before::Same(&Upstream::new(&settings, &Known::default(), Before::Nothing).unwrap()),
    )
    .unwrap();
    let ramped = |index: usize| upstream.endpoints[index].ramped(1000, health::now());
    assert_eq!([ramped(0), ramped(2)], [1000, 1]);
}

#[test]
fn a_cookie_leads_back_to_its_endpoint_while_that_is_up() {
    let mut endpoints = endpoints(&[1, 1, 1]);
    endpoints[2].backup = true;
    let mut settings = settings(config::Balance::RoundRobin, endpoints);
    settings.sticky = Some(config::Sticky {
        cookie: "srv".into(),
        expires: Some(Duration::from_secs(3600)),
        domain: Some("example.com".into()),
        path: Some("/".into()),
        http_only: true,
        secure: true,
        same_site: Some(config::SameSite::Lax),
    });
    let upstream = Upstream::new(&settings, &Known::default(), Before::Nothing).unwrap();
    let sticky = upstream.sticky.as_ref().unwrap();
    let field = sticky.set_cookie(1, std::time::UNIX_EPOCH).unwrap();
    let field = field.to_str().unwrap();
    let (value, attributes) = field
        .strip_prefix("srv=")
        .unwrap()
        .split_once("; ")
        .unwrap();
    assert_eq!(
        attributes,
        "Expires=Thu, 01 Jan 1970 01:00:00 GMT; Max-Age=3600; Domain=example.com; Path=/; HttpOnly; Secure; SameSite=Lax"
    );
    assert_eq!(sticky.find(value), Some(1));
    assert_eq!(sticky.find("nobody"), None);

    let balancer = Balancer::new(0);
    let belongs = |index| {
        let mut search = anyone();
        search.prefer(Key::default(), Some(index));
        search
    };
    for _ in 0..3 {
        assert_eq!(pick(&balancer, &upstream, belongs(1)), 'b');
    }
    assert_eq!(
        pick(&balancer, &upstream, belongs(2)),
        'a',
        "not to a backup while others are up"
    );
    balancer.failed(&upstream, 1);
    assert_eq!(pick(&balancer, &upstream, belongs(1)), 'a');
}

#[test]
fn an_endpoint_that_comes_back_is_known_if_something_is_still_open_there() {
    let both = settings(config::Balance::LeastConnections, endpoints(&[1, 1]));
    let mut one = both.clone();
    one.endpoints.truncate(1);
    let before = Upstream::new(&both, &Known::default(), Before::Nothing).unwrap();
    let id = before.endpoints[1].state.id;
    let open = before.take(1).unwrap();

    let without = before.moved(&one, &Known::default()).unwrap();
    assert!(
        without.moved(&one, &Known::default()).is_none(),
        "nothing moved"
    );
    let after = without.moved(&both, &Known::default()).unwrap();
    assert_eq!(after.endpoints[1].state.id, id);
    assert_eq!(after.endpoints[1].state.open(), 1);
    assert_eq!(pick(&Balancer::new(0), &after, anyone()), 'a');

    // Once all that was open there has ended, it is forgotten.
    let without = after.moved(&one, &Known::default()).unwrap();
    drop((open, before, after));
    let after = without.moved(&both, &Known::default()).unwrap();
    assert_ne!(after.endpoints[1].state.id, id);
}
