//! What must be kept of a request and its response, for texts that are made when their heads are gone.

use http::HeaderName;
use http::header::{REFERER, USER_AGENT};

use super::logs::LogFormat;
use super::maps::Map;
use super::settings::Settings;
use super::variables::{Names, Stage, Variable};

/// What must be kept until an exchange or session is over.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Keep {
    /// Variables that the head of the request tells.
    pub(crate) request: Vec<Variable>,
    /// Fields of the service's response.
    pub(crate) upstream: Vec<HeaderName>,
    /// Fields of the response as it goes out.
    pub(crate) sent: Vec<HeaderName>,
    /// There is something to be made later.
    pub(crate) is_needed: bool,
}

impl Keep {
    /// Collects what the templates of a route or site will want.
    pub(crate) fn of(settings: &Settings, maps: &[Map]) -> Self {
        let mut keep = Self {
            is_needed: !settings.access_logs.is_empty(),
            ..Self::default()
        };
        for log in &settings.access_logs {
            let facts = match &log.format {
                LogFormat::Json => vec![
                    Variable::HttpHost,
                    Variable::RemoteUser,
                    Variable::Request,
                    Variable::Http(REFERER),
                    Variable::Http(USER_AGENT),
                ],
                LogFormat::Lines(lines) if lines.facts => vec![Variable::HttpHost],
                LogFormat::Lines(_) => Vec::new(),
            };
            for variable in &facts {
                keep.add(variable, maps);
            }
        }
        for template in settings.late_templates() {
            for variable in template.variables() {
                keep.is_needed = true;
                keep.add(variable, maps);
            }
        }
        keep
    }

    fn add(&mut self, variable: &Variable, maps: &[Map]) {
        match variable {
            Variable::UpstreamHttp(name) if !self.upstream.contains(name) => {
                self.upstream.push(name.clone());
            }
            Variable::SentHttp(name) if !self.sent.contains(name) => self.sent.push(name.clone()),
            Variable::Map(index) if maps[*index].stage > Stage::Request => {
                for inner in maps[*index].variables() {
                    self.add(inner, maps);
                }
            }
            _ if variable.is_known_always() || self.request.contains(variable) => {}
            _ if variable.stage(&Names::default()) == Stage::Request => {
                self.request.push(variable.clone());
            }
            _ => {}
        }
    }
}
