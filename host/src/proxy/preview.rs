//! What becomes of a request as far as nobody else is asked: for `tidegate explain`.
//!
//! A session takes the same steps here as when it is served, up to the one that would send something
//! or call a plugin. Nothing of it is decided here.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::request::Parts;
use http::{Response, response};

use super::body::ResponseBody;
use super::client::{Client, Http, TlsFacts};
use super::ending::Ending;
use super::failure::Failure;
use super::home::Home;
use super::session::{RouteHandle, Session};
use super::worker::Worker;
use super::{affinity, answer, files, handshake, head};
use crate::config::{Action, Template, Variable};
use crate::generation::Generation;
use crate::plugin::{ChainRun, Takes};
use crate::telemetry::Metrics;
use crate::upstream::{Balancer, Search, Upstream};

/// Where a request comes in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Place of the listener in the configuration.
    pub(crate) listener: usize,
    pub(crate) is_tls: bool,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// A request on its way through a generation.
pub(crate) struct Preview {
    session: Session,
    /// As it came, but for the fields of its connection.
    head: Parts,
    /// An answer that no plugin is asked about.
    early: Option<Response<ResponseBody>>,
    /// Of nothing that anybody counts.
    ending: Ending,
}

/// What happens next.
pub(crate) enum Next {
    /// An answer that needs nobody else.
    Answer(response::Parts),
    /// The request as a service would get it, and whether it asks for an upgrade.
    Service { head: Parts, upgrade: bool },
}

impl Preview {
    /// Begins as a session begins: the head is judged, and its route found.
    pub(crate) fn begin(
        generation: &Arc<Generation>,
        entry: Entry,
        mut head: Parts,
    ) -> Result<Self, Failure> {
        let in_force = Arc::new(ArcSwap::new(generation.clone()));
        let worker = Worker::new(0, in_force, Metrics::new(1).worker(0));
        let Entry {
            listener,
            is_tls,
            local,
            remote,
        } = entry;
        // As clients of today would agree on; what this one would is not known.
        let tls = is_tls.then(|| TlsFacts {
            protocol: "TLSv1.3",
            cipher: "TLS_AES_256_GCM_SHA384",
            server_name: head::host(&head).ok().map(Into::into),
            is_resumed: false,
        });
        let tls = tls.map(Box::new);
        let client = Rc::new(Client::new(
            remote,
            local,
            Home::new(generation.listeners[listener].id, worker.generation()),
            tls,
            Http::One,
            &worker,
        ));
        let ending = Ending::begin(&worker, &client);
        let mut session = Session::begin(&head, false, client, worker)?;
        let early = session.slash_added(&head);
        if early.is_none() {
            session.receive(&mut head)?;
        }
        Ok(Self {
            session,
            head,
            early,
            ending,
        })
    }

    /// Returns the route.
    pub(crate) fn route(&self) -> &RouteHandle {
        &self.session.route
    }

    /// Returns the names of the route's plugins, first to last, and what each would be asked about.
    pub(crate) fn plugins(&self) -> impl Iterator<Item = (&str, Takes)> {
        self.session.chain.iter().flat_map(ChainRun::phases)
    }

    /// Returns the value of a variable, as far as the request tells it.
    pub(crate) fn variable(&self, variable: &Variable) -> Option<String> {
        let mut value = Vec::new();
        let variables = self.session.variables();
        variables.write(variable, &self.head, None, &mut value)?;
        Some(String::from_utf8_lossy(&value).into_owned())
    }

    /// Returns a text with the values of its variables.
    pub(crate) fn render(&self, template: &Template) -> String {
        let text = self.session.variables().render(template, &self.head);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Returns what happens if all plugins let the request pass as it is.
    ///
    /// A file is looked for as it would be, and not read further than to its head.
    pub(crate) async fn next(&mut self) -> Result<Next, Failure> {
        if let Some(response) = self.early.take() {
            return Ok(Next::Answer(response.into_parts().0));
        }
        let mut head = self.head.clone();
        let route = self.session.route.clone();
        let answer = match &route.action {
            Action::Respond(respond) => Some(answer::fixed(&self.session, respond, &head)),
            Action::Files(settings) => Some(files::run(&self.session, settings, &head).await?),
            Action::Proxy(_) => None,
        };
        if let Some(response) = answer {
            // No plugin was told of the request, so none is shown the response.
            let response = self.session.judge(response, &mut self.ending).await?;
            return Ok(Next::Answer(response.into_parts().0));
        }
        let offer = self.session.take_offer(&head);
        match &offer {
            None => {
                let variables = self.session.variables();
                head::for_service(&mut head, &route, &variables, None)?;
            }
            Some(offer) => {
                handshake::prepare(&self.session, offer, &mut head)?;
            }
        }
        Ok(Next::Service {
            head,
            upgrade: offer.is_some(),
        })
    }

    /// Chooses endpoints as for this request, each after the one before it failed, if none is out.
    pub(crate) fn tries(&mut self, upstream: &Upstream) -> Tries {
        self.session.search = Search::new(self.session.facts.remote);
        affinity::prefer(&mut self.session, upstream, &self.head);
        let search = &mut self.session.search;
        let sticky = search.sticky();
        let mut order = Vec::new();
        let mut hash = None;
        while let Some((index, _)) = self.session.worker.balancer.pick(upstream, search) {
            hash = hash.or(search.hash());
            order.push(index);
            search.failed(index);
        }
        Tries {
            order,
            hash,
            sticky,
        }
    }

    /// Chooses endpoints as for requests like this one that come after each other to a worker that has
    /// had none, all of which stay open.
    pub(crate) fn picks(&mut self, upstream: &Upstream, count: usize) -> Vec<usize> {
        let balancer = Balancer::new(0);
        let mut open = Vec::new();
        for _ in 0..count {
            self.session.search = Search::new(self.session.facts.remote);
            affinity::prefer(&mut self.session, upstream, &self.head);
            open.extend(balancer.pick(upstream, &mut self.session.search));
        }
        open.into_iter().map(|(index, _)| index).collect()
    }
}

/// The endpoints one request would try.
pub(crate) struct Tries {
    /// Places in the upstream.
    pub(crate) order: Vec<usize>,
    /// What led to the first of them, if a hash did.
    pub(crate) hash: Option<u32>,
    /// Where the client's cookie says that it belongs.
    pub(crate) sticky: Option<usize>,
}
