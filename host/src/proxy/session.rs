//! The path of a request, from its head to its last byte.
//!
//! Read [`run`] first: it is the whole path in order. How bytes get to a service and back is in
//! `exchange.rs` and `handshake.rs`.

use std::cell::Cell;
use std::error::Error;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::EXPECT;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::body::ResponseBody;
use super::client::Client;
use super::ending::Ending;
use super::failure::Failure;
use super::handshake::Offer;
use super::head::{self, Hop};
use super::notes::{Notes, Place};
use super::variables::{Captured, Variables};
use super::worker::{InForce, Orphan, Worker};
use super::{affinity, answer, exchange, expires, files, handshake, http2, log_line, response};
use crate::config::Action;
use crate::generation::{Generation, Route, Site};
use crate::plugin::{Candidate, ChainRun, Facts, SentRequest, UpstreamView, Verdict};
use crate::protocol::headers::normalize_path;
use crate::route::Found;
use crate::stream::ClientBody;
use crate::telemetry::{Chain, EndpointMetrics};
use crate::upstream::{self, Search, Upstream};

/// Request bodies up to this size are read although nobody wants them.
const DISCARDED_BYTES: u64 = 64 * 1024;

/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_millis(100);

/// A route of a generation. Cheap to clone, and keeps the generation.
#[derive(Clone)]
pub(crate) struct RouteHandle {
    generation: Rc<InForce>,
    site: usize,
    route: usize,
}

/// One request and what it is served by.
pub(crate) struct Session {
    pub(crate) worker: Rc<Worker>,
    pub(crate) client: Rc<Client>,
    pub(crate) route: RouteHandle,
    pub(crate) facts: Arc<Facts>,
    /// None: the route has no plugins.
    pub(crate) chain: Option<ChainRun>,
    pub(crate) search: Search,
    /// The upgrade that is asked for and allowed.
    offer: Option<Offer>,
    /// What belongs to the client's connection.
    hop: Hop,
    /// Groups of the patterns that found the route, if it wants them.
    captured: Option<Box<Captured>>,
    request_id: Cell<Option<u128>>,
    /// When the connection of the attempt under way was there; None: it is a kept one.
    pub(crate) connected: Cell<Option<Instant>>,
    /// The path lacks the slash with which the route's prefix ends.
    lacks_slash: bool,
    /// The request as it was sent, if a plugin will be shown the response.
    shown: Option<Arc<SentRequest>>,
}

/// An endpoint chosen for an attempt.
pub(crate) struct Chosen {
    pub(crate) index: usize,
    pub(crate) metrics: Arc<EndpointMetrics>,
}

/// Serves one request.
pub(crate) async fn run(
    request: Request<ClientBody>,
    client: Rc<Client>,
    worker: Rc<Worker>,
) -> Response<ResponseBody> {
    worker.metrics.requests.increment();
    let (mut head, body) = request.into_parts();
    let understood = match head.version {
        Version::HTTP_2 => http2::translate(&mut head),
        _ => Ok(()),
    };
    let mut ending = Ending::begin(&worker, &client);
    let has_body = !body.is_end_stream();
    let session =
        understood.and_then(|()| Session::begin(&head, has_body, client.clone(), worker.clone()));
    match session {
        Ok(mut session) if session.route.settings.ignore_client_abort => {
            let exchange = async move { session.respond(&mut head, body, ending).await };
            outlive(Box::pin(exchange), worker).await
        }
        Ok(mut session) => session.respond(&mut head, body, ending).await,
        Err(failure) => {
            let response = unrouted(&failure, &head, &client, &worker, &mut ending);
            let must_close = matches!(failure, Failure::PlainOnTls);
            let unread = has_body && !must_close && !is_discarded(&head, body).await;
            ending.answer(response, unread || must_close)
        }
    }
}

/// Runs an exchange in a task of its own, so that it goes on to its end when the client's connection is
/// gone. From then on it is counted as if it were a connection: it has its place among them, and a drain
/// waits for it.
async fn outlive(
    exchange: Pin<Box<dyn Future<Output = Response<ResponseBody>>>>,
    worker: Rc<Worker>,
) -> Response<ResponseBody> {
    let (answered, answer) = oneshot::channel();
    let counted = Rc::new(Cell::new(None));
    let gone = Gone {
        worker,
        counted: Rc::downgrade(&counted),
    };
    tokio::task::spawn_local(async move {
        let _counted = counted;
        if let Err(response) = answered.send(exchange.await) {
            let mut body = response.into_body();
            let mut frame = async || poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            while matches!(frame().await, Some(Ok(_))) {}
        }
    });
    let answer = answer.await;
    // The task has ended with its answer, and counts for nothing.
    drop(gone);
    answer.unwrap_or_else(|_| {
        // The worker ends, or the exchange has panicked.
        let mut response = Response::new(ResponseBody::fixed(Bytes::new()));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

/// Counts an exchange that is not at its end when this is dropped, as it is with its client: at once, so
/// that there is no moment at which neither the connection nor the exchange is counted.
struct Gone {
    worker: Rc<Worker>,
    /// The task of the exchange holds it to its end.
    counted: Weak<Cell<Option<Orphan>>>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(counted) = self.counted.upgrade() {
            counted.set(Some(self.worker.orphan()));
        }
    }
}

/// Returns the answer to a request that no route was found for, as the site has it that it would have
/// belonged to.
fn unrouted(
    failure: &Failure,
    head: &Parts,
    client: &Rc<Client>,
    worker: &Rc<Worker>,
    ending: &mut Ending,
) -> Response<ResponseBody> {
    let host = match failure {
        Failure::NoRoute { host, .. } => host,
        _ => "",
    };
    let mut response = answer::failed(failure, head);
    let Some(place) = Place::without_route(worker, client, host) else {
        return response;
    };
    let site = &place.generation.sites[place.site];
    let facts = Facts {
        scheme: client.scheme(),
        host: host.into(),
        remote: client.remote.ip(),
        is_handshake: false,
        max_header_bytes: place.generation.limits.max_header_bytes,
    };
    let variables = Variables {
        hop: &Hop::default(),
        facts: &facts,
        remote: client.remote,
        local: client.local,
        connection: (client.number, client.requests()),
        tls: client.tls.as_deref(),
        server_name: &site.name,
        route: "",
        upstream: None,
        captured: None,
        maps: &place.generation.maps,
        request_id: &Cell::new(None),
        clock: &worker.clock,
    };
    ending.notes = Notes::begin(place.clone(), &variables, head);
    ending.failed(failure);
    response::finish(&site.settings, worker, &mut response, ending);
    response
}

/// Reads and forgets a body that nobody wants, unless that would make hyper ask the client for it.
/// Returns whether it came to its end.
async fn is_discarded(head: &Parts, body: ClientBody) -> bool {
    !head.headers.contains_key(EXPECT) && discard(body).await
}

/// Reads and forgets a body that nobody wants, if it is short and does not take long, so that the
/// connection can serve the next request. Returns whether it came to its end.
async fn discard(mut body: ClientBody) -> bool {
    if body
        .size_hint()
        .upper()
        .is_none_or(|upper| upper > DISCARDED_BYTES)
    {
        return false;
    }
    let read = async {
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    timeout(DISCARD_TIME, read).await.unwrap_or(false)
}

/// Records a request that hyper could not read, and answered by itself.
pub(crate) fn refused(worker: &Rc<Worker>, client: &Client, status: StatusCode, why: &dyn Error) {
    worker.metrics.requests.increment();
    worker.metrics.responses[status.into()].increment();
    if let Some(place) = Place::without_route(worker, client, "") {
        let mut notes = Notes::unread(place, client.remote);
        notes.status = Some(status);
        notes.failure = Some(Chain(why).to_string().into());
        log_line::write(&notes, worker);
    }
}

impl Place {
    /// Where a request comes to that has no route: the site of its host, else the default one. None:
    /// the listener has no site.
    fn without_route(worker: &Worker, client: &Client, host: &str) -> Option<Self> {
        let generation = client.home.generation(worker);
        let listener = generation.listener(client.home.listener())?;
        let site = listener.sites.find(host)?;
        Some(Self {
            generation,
            site,
            route: None,
        })
    }
}

impl Session {
    /// Gets the response, and what is left of the request out of the way.
    async fn respond(
        &mut self,
        head: &mut Parts,
        body: ClientBody,
        mut ending: Ending,
    ) -> Response<ResponseBody> {
        let has_body = !body.is_end_stream();
        let connects = matches!(body, ClientBody::Upgrade);
        // Asking for it would make hyper ask the client for it.
        let is_withheld = head.headers.contains_key(EXPECT);
        let mut body = Some(body);
        let mut response = self.answer(head, &mut body, &mut ending).await;
        if connects && response.status().is_success() {
            // To a client of HTTP/2 such an answer would mean that what it asked for has begun.
            let failure = Failure::NotSwitched;
            ending.failed(&failure);
            response = answer::failed(&failure, head);
        }
        let unread = match body {
            Some(body) if has_body => is_withheld || !discard(body).await,
            Some(_) => false,
            None => !ending.has_received(),
        };
        ending.answer(response, unread)
    }

    /// Returns the response: the service's, a plugin's, or the proxy's own.
    async fn answer(
        &mut self,
        head: &mut Parts,
        body: &mut Option<ClientBody>,
        ending: &mut Ending,
    ) -> Response<ResponseBody> {
        ending.notes = Notes::begin(self.route.place(), &self.variables(), head);
        let response = match self.serve(head, body, ending).await {
            Ok(response) => Ok(response),
            // A plugin gets to see the proxy's own answers as well.
            Err(failure) => {
                ending.failed(&failure);
                if self.shown.is_none() {
                    self.remember(head, None);
                }
                self.judge(answer::failed(&failure, head), ending).await
            }
        };
        response.unwrap_or_else(|failure| {
            ending.failed(&failure);
            let mut response = answer::failed(&failure, head);
            response::finish(&self.route.settings, &self.worker, &mut response, ending);
            response
        })
    }

    /// Checks the head and finds its route.
    pub(super) fn begin(
        head: &Parts,
        has_body: bool,
        client: Rc<Client>,
        worker: Rc<Worker>,
    ) -> Result<Self, Failure> {
        let generation = client.home.generation(&worker);
        let limits = &generation.limits;
        let listener = generation.listener(client.home.listener());
        if client.tls.is_none() && listener.is_some_and(|listener| listener.tls.is_some()) {
            return Err(Failure::PlainOnTls);
        }
        if head::target(head).len() > limits.max_uri_bytes {
            return Err(Failure::TargetTooLong {
                limit: limits.max_uri_bytes,
            });
        }
        if head.headers.len() > limits.max_headers || head::size(head) > limits.max_header_bytes {
            return Err(Failure::HeadTooLarge {
                limit: limits.max_header_bytes,
            });
        }
        if !head::is_plainly_framed(&head.headers) {
            return Err(Failure::TransferCoding);
        }
        if head.method == Method::CONNECT {
            return Err(Failure::BadRequest("CONNECT is for forward proxies"));
        }
        let host = head::host(head)?;
        let path = normalize_path(head.uri.path())
            .map_err(|_| Failure::BadRequest("path leads out of the root or cannot be decoded"))?;
        let site = listener.and_then(|listener| listener.sites.find(&host));
        let found = site.and_then(|site| {
            let table = &generation.sites[site].table;
            table.find(&path).map(|found| (site, found))
        });
        let Some((site, found)) = found else {
            return Err(Failure::NoRoute {
                host,
                path: path.into_owned(),
            });
        };
        let (Found::Route(index) | Found::WithSlash(index)) = found;
        let route = RouteHandle {
            generation: generation.clone(),
            site,
            route: index,
        };
        let captured = route
            .wants_groups
            .then(|| Captured::of(&route.pattern, &route.site().names, &path, &host));
        let offer = handshake::offer(head, has_body, &route.settings);
        if offer.is_none() && http2::is_extended_connect(head) {
            return Err(Failure::ForeignProtocol);
        }
        let facts = Arc::new(Facts {
            scheme: client.scheme(),
            host: host.into(),
            remote: client.remote.ip(),
            is_handshake: offer.is_some(),
            max_header_bytes: limits.max_header_bytes,
        });
        let search_from = facts.remote;
        let chain =
            (!route.chain.is_empty()).then(|| route.chain.begin(&worker.instances, &head.headers));
        Ok(Self {
            worker,
            client,
            route,
            facts,
            chain,
            search: Search::new(search_from),
            offer,
            hop: Hop::default(),
            captured,
            request_id: Cell::new(None),
            connected: Cell::new(None),
            lacks_slash: matches!(found, Found::WithSlash(_)),
            shown: None,
        })
    }

    /// Shows the head to the plugins and gets the response from whoever is to give it.
    async fn serve(
        &mut self,
        head: &mut Parts,
        body: &mut Option<ClientBody>,
        ending: &mut Ending,
    ) -> Result<Response<ResponseBody>, Failure> {
        if let Some(response) = self.slash_added(head) {
            return self.judge(response, ending).await;
        }
        self.check_length(body.as_ref())?;
        self.receive(head)?;
        if let Some(response) = self.ask_plugins(head).await? {
            self.remember(head, None);
            return self.judge(response.map(ResponseBody::fixed), ending).await;
        }
        let route = self.route.clone();
        let Some(upstream) = &route.upstream else {
            let response = match &route.action {
                // Boxed, as a handshake is.
                Action::Files(settings) => Box::pin(files::run(self, settings, head)).await?,
                Action::Respond(respond) => answer::fixed(self, respond, head),
                Action::Proxy(_) => unreachable!("a route that proxies has an upstream"),
            };
            self.remember(head, None);
            return self.judge(response, ending).await;
        };
        // Before the head becomes one for the service: keys and cookies are the client's.
        affinity::prefer(self, upstream, head);
        match self.take_offer(head) {
            None => exchange::run(self, upstream, head, body.take(), ending).await,
            // Boxed: it is larger than an exchange, and every request would have to make room for it.
            Some(offer) => Box::pin(handshake::run(self, upstream, offer, head, ending)).await,
        }
    }

    /// Shows the head of the request to the plugins. Returns the answer that one of them gives.
    async fn ask_plugins(&mut self, head: &mut Parts) -> Result<Option<Response<Bytes>>, Failure> {
        let Some(chain) = &mut self.chain else {
            return Ok(None);
        };
        let mut verdict = chain.on_request(head, &self.facts)?;
        loop {
            verdict = match verdict {
                Verdict::Continue => return Ok(None),
                Verdict::Respond(response) => return Ok(Some(response)),
                // Boxed: few wait, and every request would have to make room for it.
                Verdict::Wait => Box::pin(chain.resume_request(head, &self.facts)).await?,
            }
        }
    }

    /// Returns the redirect to the path with a slash at its end, if that is what it lacks.
    pub(super) fn slash_added(&self, head: &Parts) -> Option<Response<ResponseBody>> {
        let prefix = self.route.pattern.prefix().filter(|_| self.lacks_slash)?;
        let path = prefix.trim_end_matches('/');
        Some(answer::with_slash(self, path.as_bytes(), head))
    }

    /// Takes out of the head what concerns the client's connection alone, and judges what is left before
    /// a plugin can change it or spend time on it.
    pub(super) fn receive(&mut self, head: &mut Parts) -> Result<(), Failure> {
        // As in nginx, which keeps requests from being sent back to where they came from.
        if head.method == Method::TRACE && !matches!(self.route.action, Action::Files(_)) {
            return Err(Failure::Trace);
        }
        let names = self.route.generation().limits.field_names;
        self.hop = Hop::take(&mut head.headers, names);
        match &self.offer {
            Some(offer) => {
                offer.check_origin(&head.headers, &self.route.settings.websocket.origins)
            }
            None => Ok(()),
        }
    }

    /// Returns the upgrade to ask the service for: fields of the operator's own may leave none.
    pub(super) fn take_offer(&mut self, head: &Parts) -> Option<Offer> {
        let offer = self.offer.take();
        offer.filter(|offer| {
            head::leaves_upgrade(&self.route, &self.variables(), head, offer.token())
        })
    }

    /// Refuses a body that says itself that it is too long (RFC 9110 §15.5.14).
    fn check_length(&self, body: Option<&ClientBody>) -> Result<(), Failure> {
        let limit = self.route.settings.max_body_bytes;
        if limit != 0 && body.is_some_and(|body| body.size_hint().lower() > limit) {
            return Err(upstream::BodyProblem::TooLarge { limit }.into());
        }
        Ok(())
    }

    /// Shows a response to the plugins, last to first, and makes it ready for the client.
    pub(crate) async fn judge(
        &mut self,
        mut response: Response<ResponseBody>,
        ending: &mut Ending,
    ) -> Result<Response<ResponseBody>, Failure> {
        expires::set(&mut response, self.route.settings.expires);
        if let (Some(chain), Some(sent)) = (&mut self.chain, &self.shown) {
            let (mut head, body) = response.into_parts();
            let mut verdict = chain.on_response(sent, &mut head)?;
            response = loop {
                verdict = match verdict {
                    Verdict::Continue => break Response::from_parts(head, body),
                    Verdict::Respond(response) => break response.map(ResponseBody::fixed),
                    Verdict::Wait => Box::pin(chain.resume_response(sent, &mut head)).await?,
                }
            };
        }
        if let (Some(notes), Some(chain)) = (&mut ending.notes, &self.chain) {
            notes.plugin_time = chain.time_spent();
        }
        response::finish(&self.route.settings, &self.worker, &mut response, ending);
        Ok(response)
    }

    /// Keeps the request head for plugins that will be shown the response.
    pub(crate) fn remember(&mut self, head: &Parts, endpoint: Option<SocketAddr>) {
        if self.chain.as_ref().is_some_and(ChainRun::sees_responses) {
            self.shown = Some(Arc::new(SentRequest {
                facts: self.facts.clone(),
                method: head.method.clone(),
                target: head::target(head).into(),
                headers: head.headers.clone(),
                endpoint,
            }));
        }
    }

    /// Returns what `$request_id` stands for, if somebody has asked.
    pub(crate) fn request_id(&self) -> Option<u128> {
        self.request_id.get()
    }

    /// Returns what variables are asked about.
    pub(crate) fn variables(&self) -> Variables<'_> {
        Variables {
            hop: &self.hop,
            facts: &self.facts,
            remote: self.client.remote,
            local: self.client.local,
            connection: (self.client.number, self.client.requests()),
            tls: self.client.tls.as_deref(),
            server_name: &self.route.site().name,
            route: &self.route.label,
            upstream: self.route.upstream.as_deref(),
            captured: self.captured.as_deref(),
            maps: &self.route.generation().maps,
            request_id: &self.request_id,
            clock: &self.worker.clock,
        }
    }

    /// Chooses the endpoint of the next attempt: a plugin's choice first, else as the upstream
    /// shares out requests.
    pub(crate) fn choose(
        &mut self,
        upstream: &Upstream,
        head: &mut Parts,
        ending: &mut Ending,
    ) -> Result<Chosen, Failure> {
        let taken = self
            .plugin_choice(upstream, head)?
            .and_then(|index| upstream.take(index))
            .or_else(|| self.worker.balancer.pick(upstream, &mut self.search));
        let no_endpoint = || upstream::Error::NoEndpoint {
            upstream: upstream.name.clone(),
        };
        let (index, open) = taken.ok_or_else(no_endpoint)?;
        let endpoint = &upstream.endpoints[index];
        let metrics = self.worker.endpoint_metrics(upstream, endpoint);
        metrics.picks.increment();
        ending.opens(endpoint, open, &metrics);
        Ok(Chosen { index, metrics })
    }

    fn plugin_choice(
        &mut self,
        upstream: &Upstream,
        head: &mut Parts,
    ) -> Result<Option<usize>, Failure> {
        let Some(chain) = self.chain.as_mut().filter(|chain| chain.chooses()) else {
            return Ok(None);
        };
        let candidates: Vec<_> = upstream
            .candidates(&self.search)
            .into_iter()
            .filter_map(|index| {
                let open = upstream.endpoints[index].state.open();
                Some(Candidate {
                    endpoint: u32::try_from(index).ok()?,
                    open,
                })
            })
            .collect();
        if candidates.is_empty() {
            return Ok(None);
        }
        let endpoints = &self.route.endpoints;
        let view = UpstreamView {
            id: upstream.id,
            name: &upstream.name,
            endpoints,
        };
        Ok(chain.choose(view, head, &self.facts, &candidates)?)
    }

    /// Notes that an attempt failed, so that the endpoint is judged by it.
    pub(crate) fn attempt_failed(
        &self,
        upstream: &Upstream,
        chosen: &Chosen,
        error: &upstream::Error,
    ) {
        chosen.metrics.failures.increment();
        let is_out = self.worker.balancer.failed(upstream, chosen.index);
        let endpoint = &upstream.endpoints[chosen.index].name;
        if is_out {
            let upstream = &upstream.name;
            warn!(%upstream, %endpoint, error = %Chain(error), "endpoint is out for its failures");
        } else {
            debug!(%endpoint, error = %Chain(error), "attempt failed");
        }
    }
}

impl RouteHandle {
    /// Returns where a request is that came to this route.
    fn place(&self) -> Place {
        Place {
            generation: self.generation.clone(),
            site: self.site,
            route: Some(self.route),
        }
    }

    /// Returns the site the route belongs to.
    pub(crate) fn site(&self) -> &Site {
        &self.generation.sites[self.site]
    }

    /// Returns the places of the site and, within it, of the route.
    pub(crate) fn numbers(&self) -> (usize, usize) {
        (self.site, self.route)
    }

    /// Returns the generation the session began with.
    pub(crate) fn generation(&self) -> &Generation {
        &self.generation
    }
}

impl Deref for RouteHandle {
    type Target = Route;

    fn deref(&self) -> &Route {
        &self.site().routes[self.route]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every request's future is made once and moved about: what is rare in it is boxed.
    #[test]
    fn the_future_of_a_request_is_small() {
        fn size<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(run);
        assert!(size <= 4096, "{size} bytes");
    }
}
