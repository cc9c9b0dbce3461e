//! TLS in front, and two proxies in a row.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{SetUp, change, changes};
use crate::harness::{Connection, Service, Tidegate, eventually, handshake};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 5));

fn chat() -> String {
    handshake("/chat").replace("Host: example.com", "Host: www.xncoding.com")
}

/// A client of an edge.
async fn client(set_up: &SetUp, edge: &Tidegate) -> Connection {
    let address = edge.address(0);
    set_up
        .authority
        .connect_from(CLIENT, address, "www.xncoding.com")
        .await
}

#[tokio::test]
async fn a8_wss_in_front_is_ws_behind() {
    let set_up = SetUp::new().await;
    let service = Service::telling("1").await;
    let to = format!("http://{}", service.address);
    for edge in set_up
        .both("s3-edge", &[change("http://board.xncoding.com", to)])
        .await
    {
        let mut client = client(&set_up, &edge).await;
        let (_, told) = client.open_told(&chat()).await;
        assert_eq!(told.fields("x-real-ip"), ["127.0.0.5"]);
        assert_eq!(told.fields("x-forwarded-for"), ["127.0.0.5"]);
        assert_eq!(told.fields("upgrade"), ["websocket"]);
        client
            .expect_echo("a secret on one side, plain on the other")
            .await;
    }
}

/// An edge and what is behind it, both imported or both written.
struct Tiers {
    edge: Tidegate,
    inner: Tidegate,
}

/// Starts two tiers before a service, twice. The edge says what `edge` makes of it, and the inner one has
/// another site for hosts that it does not know.
async fn tiers(
    set_up: &SetUp,
    service: SocketAddr,
    edge: Option<super::Change>,
    inner: Option<super::Change>,
) -> Vec<Tiers> {
    let app = change("localhost:8282", format!("localhost:{}", service.port()));
    let logged = |name: &str, log: &str| {
        changes(
            [
                &format!("server_name {name};"),
                &format!("server_name {name}; access_log /var/log/nginx/{log};"),
            ],
            [
                &format!("names = [\"{name}\"]"),
                &format!(
                    "names = [\"{name}\"]\naccess_log = {{ path = \"{log}\", format = \"combined\" }}"
                ),
            ],
        )
    };
    let mut changed = vec![app, logged("board.xncoding.com", "inner.log")];
    changed.extend(inner);
    let unknown = [
        "\nserver { listen 80 default_server; return 404 \"unknown\"; }\n",
        "\n[[sites]]\n[[sites.routes]]\nmatch = \"/\"\nrespond = { status = 404, body = \"unknown\" }\n",
    ];
    let inner = set_up.both_with("s3-inner", &changed, unknown).await;
    let mut tiers = Vec::new();
    for (n, inner) in inner.into_iter().enumerate() {
        let to = format!("http://board.xncoding.com:{}", inner.address(0).port());
        let mut changed = vec![
            change("http://board.xncoding.com", to),
            logged("www.xncoding.com", "edge.log"),
        ];
        changed.extend(edge.as_ref().map(|edge| {
            changes(
                [&edge.nginx.0, &edge.nginx.1],
                [&edge.tidegate.0, &edge.tidegate.1],
            )
        }));
        let [imported, written] = set_up.both("s3-edge", &changed).await;
        let edge = if n == 0 { imported } else { written };
        tiers.push(Tiers { edge, inner });
    }
    tiers
}

#[tokio::test]
async fn a9_the_inner_tier_is_found_by_the_name_that_the_edge_has_for_it() {
    let set_up = SetUp::new().await;
    let service = Service::telling("1").await;
    for Tiers {
        edge,
        inner: _inner,
    } in tiers(&set_up, service.address, None, None).await
    {
        let mut client = client(&set_up, &edge).await;
        let (_, told) = client.open_told(&chat()).await;
        assert_eq!(told.fields("host"), ["board.xncoding.com"]);
        // The client, and then the edge.
        assert_eq!(told.fields("x-forwarded-for"), ["127.0.0.5, 127.0.0.1"]);
        assert_eq!(told.fields("x-real-ip"), ["127.0.0.1"]);
        client.expect_echo("through two tiers").await;
    }
    let host = changes(
        [
            "proxy_set_header X-Real-IP",
            "proxy_set_header Host $host; proxy_set_header X-Real-IP",
        ],
        ["  X-Real-IP =", "  Host = \"$host\"\n  X-Real-IP ="],
    );
    for Tiers {
        edge,
        inner: _inner,
    } in tiers(&set_up, service.address, Some(host), None).await
    {
        let mut client = client(&set_up, &edge).await;
        let response = client.exchange(&chat()).await;
        assert_eq!((response.status(), response.text()), (404, "unknown"));
    }
}

#[tokio::test]
async fn a10_the_shorter_of_two_timeouts_ends_the_tunnel_and_both_tiers_log_it() {
    let set_up = SetUp::new().await;
    let service = Service::telling("1").await;
    let short = changes(
        [
            "proxy_pass http://board;",
            "proxy_pass http://board; proxy_read_timeout 500ms;",
        ],
        [
            "upstream = \"board\"",
            "upstream = \"board\"\n  timeouts = { read = \"500ms\" }",
        ],
    );
    for Tiers { edge, inner } in tiers(&set_up, service.address, None, Some(short)).await {
        let mut client = client(&set_up, &edge).await;
        client.open_told(&chat()).await;
        client.read_to_end().await;
        for (tier, log) in [(&edge, "edge.log"), (&inner, "inner.log")] {
            let line = eventually(log, async || {
                let log = tier.folder.read(log);
                (!log.is_empty()).then_some(log)
            })
            .await;
            assert!(
                line.contains("\"GET /chat HTTP/1.1\" 101 "),
                "{log}: {line}"
            );
            assert_eq!(line.lines().count(), 1, "{log}: {line}");
        }
    }
}
