//! The admin listener: whether the proxy takes sessions, and what it has counted.
//!
//! It runs on the control thread. What the numbers mean is in `telemetry/`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tracing::error;

use crate::telemetry::{self, Metrics};

/// Serves until the task is dropped. `draining` is set by whoever begins the drain.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<Metrics>, draining: Arc<AtomicBool>) {
    let router = Router::new()
        .route("/healthz", get(health))
        .with_state(draining)
        .route("/metrics", get(scrape))
        .with_state(metrics)
        .fallback(not_found);
    if let Err(error) = axum::serve(listener, router).await {
        error!(%error, "the admin listener ended");
    }
}

/// 503 tells a load balancer to send new clients elsewhere while the old ones finish.
async fn health(State(draining): State<Arc<AtomicBool>>) -> (StatusCode, &'static str) {
    if draining.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, telemetry::CONTENT_TYPE)], metrics.encode())
}

async fn not_found() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "here are /healthz and /metrics\n")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// Asks an admin listener of its own for `path` and returns all it answers.
    async fn get(path: &str, metrics: Arc<Metrics>, draining: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let server = tokio::spawn(serve(
            listener,
            metrics,
            Arc::new(AtomicBool::new(draining)),
        ));
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    #[tokio::test]
    async fn health_is_503_from_the_beginning_of_a_drain() {
        let answer = get("/healthz", Metrics::new(1), false).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nok\n"),
            "{answer}"
        );
        let answer = get("/healthz", Metrics::new(1), true).await;
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\ndraining\n"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn metrics_are_served_as_openmetrics() {
        let metrics = Metrics::new(1);
        metrics.worker(0).requests.increment();
        let answer = get("/metrics", metrics, false).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(
            answer.contains("content-type: application/openmetrics-text;"),
            "{answer}"
        );
        assert!(answer.contains("\ntidegate_requests_total 1\n"), "{answer}");
    }

    #[tokio::test]
    async fn any_other_path_says_what_there_is() {
        let answer = get("/", Metrics::new(1), false).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert!(answer.contains("/healthz and /metrics"), "{answer}");
    }
}
