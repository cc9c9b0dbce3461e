//! Asks a service whether a request may go on, opening handshakes included: what `auth_request` is in nginx.
//!
//! ```toml
//! [plugins.auth]
//! module = "builtin:auth-request"
//! call = ["accounts"]
//! [plugins.auth.config]
//! upstream = "accounts"
//! target = "/check"
//! forward = ["Cookie", "Authorization"]
//! copy = ["X-User"]
//! timeout_ms = 1000
//! ```
//!
//! The service gets a `GET` of `target` with the fields that `forward` names (these two unless written
//! otherwise) and `X-Original-Method`, `X-Original-Host` and `X-Original-Target` of the request. It
//! answers with
//!
//! - 200 to 299: the request goes on. The fields that `copy` names are set on it as they are in the answer;
//!   what the client sent under these names is gone in any case.
//! - 401 or 403: the client gets that, with the answer's `WWW-Authenticate`, type and body.
//!
//! Anything else, and no answer within `timeout_ms` (2000 unless written otherwise), is answered with 500.

use std::error::Error;
use std::time::Duration;

use serde::Deserialize;
use tidegate_plugin::call::{self, Request, Response};
use tidegate_plugin::{Answer, AsyncOnRequest, Plugin, RequestHead, Verdict, check_field, log};

struct AuthRequest {
    config: Config,
}

/// The configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    upstream: String,
    target: String,
    #[serde(default = "credentials")]
    forward: Vec<String>,
    #[serde(default)]
    copy: Vec<String>,
    #[serde(default = "two_seconds")]
    timeout_ms: u64,
}

fn credentials() -> Vec<String> {
    vec!["Cookie".to_owned(), "Authorization".to_owned()]
}

fn two_seconds() -> u64 {
    2000
}

impl Plugin for AuthRequest {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, Box<dyn Error>> {
        if !call::is_granted(&config.upstream) {
            let upstream = &config.upstream;
            return Err(format!("upstream: expected one that `call` of the plugin names, such as call = [{upstream:?}]; found {upstream:?}").into());
        }
        if !config.target.starts_with('/') {
            return Err(format!("target: expected a path, found {:?}", config.target).into());
        }
        for (key, names) in [("forward", &config.forward), ("copy", &config.copy)] {
            for name in names {
                check_field(name, "").map_err(|error| format!("{key}: {error}"))?;
            }
        }
        Ok(Self { config })
    }
}

impl AsyncOnRequest for AuthRequest {
    async fn on_request(&self, head: &mut RequestHead<'_>) -> Verdict {
        match self.question(head).send().await {
            Ok(answer) if answer.is_success() => self.admit(head, &answer),
            Ok(answer) if matches!(answer.status, 401 | 403) => Verdict::Respond(refusal(answer)),
            Ok(answer) => {
                log::error!("the service answered with {}", answer.status);
                Verdict::Respond(Answer::new(500))
            }
            Err(error) => {
                log::error!("{}: {error}", self.config.upstream);
                Verdict::Respond(Answer::new(500))
            }
        }
    }
}

impl AuthRequest {
    fn question(&self, head: &RequestHead<'_>) -> Request {
        let mut request = Request::get(&self.config.upstream, &self.config.target)
            .timeout(Duration::from_millis(self.config.timeout_ms))
            .field("x-original-method", head.method())
            .field("x-original-host", head.host())
            .field("x-original-target", head.target());
        for name in &self.config.forward {
            for value in head.get_all(name) {
                request = request.field(name, value);
            }
        }
        request
    }

    fn admit(&self, head: &mut RequestHead<'_>, answer: &Response) -> Verdict {
        for name in &self.config.copy {
            let done = match answer.get(name) {
                Some(value) => head.set(name, value),
                None => head.remove(name).map(drop),
            };
            if let Err(error) = done {
                log::error!("copy: {error}");
                return Verdict::Respond(Answer::new(500));
            }
        }
        Verdict::Continue
    }
}

fn refusal(answer: Response) -> Answer {
    let passed = ["www-authenticate", "content-type"];
    let fields = answer.fields.iter();
    let fields = fields.filter(|(name, _)| passed.contains(&name.as_str()));
    let refusal = fields.fold(Answer::new(answer.status), |refusal, (name, value)| {
        refusal.field(name, value.clone())
    });
    refusal.body(answer.body)
}

tidegate_plugin::export!(AuthRequest: async OnRequest);

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_plugin::call::Error as CallError;
    use tidegate_plugin::testing::{self, configure, run};

    const CONFIG: &str =
        r#"{"upstream": "accounts", "target": "/check", "copy": ["X-User", "X-Role"]}"#;

    fn judge(answer: Result<Response, CallError>) -> (Verdict, RequestHead<'static>) {
        let plugin: AuthRequest = configure(CONFIG).unwrap();
        let mut head = testing::Request {
            target: "/chat?room=7",
            fields: &[("cookie", "id=1"), ("x-user", "root"), ("x-role", "admin")],
            ..testing::Request::default()
        }
        .head();
        let verdict = run(plugin.on_request(&mut head), |request| {
            assert_eq!((&*request.method, &*request.target), ("GET", "/check"));
            let field = |name| {
                let mut fields = request.fields.iter();
                let (_, value) = fields.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
                String::from_utf8(value.clone()).ok()
            };
            assert_eq!(field("cookie").as_deref(), Some("id=1"));
            assert_eq!(field("x-original-target").as_deref(), Some("/chat?room=7"));
            assert_eq!(field("x-user"), None);
            answer.clone()
        });
        (verdict, head)
    }

    #[test]
    fn who_is_let_in_gets_the_fields_of_the_answer_and_keeps_none_of_these() {
        let mut answer = Response::new(204);
        answer.fields.push(("x-user".to_owned(), b"ann".to_vec()));
        let (verdict, head) = judge(Ok(answer));
        assert_eq!(verdict, Verdict::Continue);
        assert_eq!(head.text("x-user").as_deref(), Some("ann"));
        assert_eq!(head.get("x-role"), None);
    }

    #[test]
    fn a_refusal_is_handed_on_and_all_else_is_an_error() {
        let mut answer = Response::new(401);
        let challenge = ("www-authenticate".to_owned(), b"Basic".to_vec());
        answer.fields.push(challenge.clone());
        answer.fields.push(("server".to_owned(), b"x".to_vec()));
        answer.body = b"who?".to_vec();
        let Verdict::Respond(refusal) = judge(Ok(answer)).0 else {
            panic!("let in");
        };
        assert_eq!((refusal.status, refusal.fields), (401, vec![challenge]));
        assert_eq!(refusal.body, b"who?");

        for answer in [Ok(Response::new(302)), Err(CallError::Timeout)] {
            assert_eq!(judge(answer).0, Verdict::Respond(Answer::new(500)));
        }
    }

    #[test]
    fn what_cannot_work_is_refused_at_the_start() {
        for (config, expected) in [
            (r#"{"upstream": "", "target": "/"}"#, "upstream: expected"),
            (r#"{"upstream": "a", "target": "x"}"#, "target: expected"),
            (
                r#"{"upstream": "a", "target": "/", "forward": ["Upgrade"]}"#,
                "forward: field `upgrade`",
            ),
        ] {
            let error = configure::<AuthRequest>(config).err().unwrap();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
