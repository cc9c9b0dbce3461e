//! Clients that leave before they were answered: nginx's 499 and `proxy_ignore_client_abort`.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Semaphore;

use crate::harness::{Service, Tidegate, eventually, route_to, within};

/// A service that tells when it was asked, and answers when it may.
async fn patient(asked: &Arc<Semaphore>, may_answer: &Arc<Semaphore>) -> Service {
    let (asked, may_answer) = (asked.clone(), may_answer.clone());
    Service::start(move |mut connection| {
        let (asked, may_answer) = (asked.clone(), may_answer.clone());
        async move {
            while connection.next_request().await.is_some() {
                asked.add_permits(1);
                may_answer.acquire().await.unwrap().forget();
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
                if connection.try_send(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

async fn record(tidegate: &mut Tidegate) -> Value {
    let line = tidegate.process.stdout.line().await;
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

async fn waits_for(what: &str, permits: &Semaphore) {
    let permit = within(what, permits.acquire()).await.unwrap();
    permit.forget();
}

#[tokio::test]
async fn an_exchange_goes_on_without_its_client_if_the_route_says_so() {
    let (asked, may_answer) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let service = patient(&asked, &may_answer).await;
    let mut tidegate = Tidegate::serving(&format!(
        "{}ignore_client_abort = true\n[access_log]\npath = \"stdout\"\nformat = \"json\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"",
        route_to(&service)
    ))
    .await;
    let mut client = tidegate.connect().await;
    client.send_head("GET /impatient HTTP/1.1\nHost: a").await;
    waits_for("request at the service", &asked).await;
    client.reset();
    // The proxy knows that the client is gone, and the exchange is still open.
    let open = async |name: &str| tidegate.metrics().await.sum(name, &[]);
    eventually("the client's end", async || {
        (open("tidegate_connections_open").await == 0.0).then_some(())
    })
    .await;
    assert_eq!(open("tidegate_endpoint_open").await, 1.0);
    may_answer.add_permits(1);
    let first = record(&mut tidegate).await;
    assert_eq!(
        (&first["target"], &first["status"]),
        (&"/impatient".into(), &200.into())
    );
    // The whole response was read, so its connection serves the next request.
    may_answer.add_permits(1);
    assert_eq!(tidegate.get("/next").await.text(), "done");
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn an_exchange_ends_with_its_client_otherwise() {
    let (asked, may_answer) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let service = patient(&asked, &may_answer).await;
    let mut tidegate = Tidegate::serving(&format!(
        "{}[access_log]\npath = \"stdout\"\nformat = \"json\"\n[admin]\nlisten = \"127.0.0.1:0\"",
        route_to(&service)
    ))
    .await;
    let mut client = tidegate.connect().await;
    client.send_head("GET /impatient HTTP/1.1\nHost: a").await;
    waits_for("request at the service", &asked).await;
    client.reset();
    let first = record(&mut tidegate).await;
    assert_eq!(
        (&first["target"], &first["status"]),
        (&"/impatient".into(), &499.into())
    );
    let metrics = tidegate.metrics().await;
    assert_eq!(metrics.sum("tidegate_endpoint_open", &[]), 0.0);
    // Nobody is there to hear it.
    may_answer.add_permits(1);
    service.finished().await;
    assert_eq!(service.connections(), 1);
}
