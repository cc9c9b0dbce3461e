//! An explanation for a terminal.

use std::fmt::Write;

use super::{Candidates, Choice, Explanation, Head, Outcome, Phases, What};

/// Width of the names on the left.
const LEFT: usize = 10;

/// How many of those not chosen are shown before the rest is only counted.
const OTHERS: usize = 12;

/// The whole text.
pub(super) fn text(explanation: &Explanation) -> String {
    let mut text = String::new();
    write(&mut text, explanation);
    text
}

fn write(out: &mut String, explanation: &Explanation) {
    let request = &explanation.request;
    let mut line = |left: &str, right: &str| row(out, left, right);
    line(
        "request",
        &format!("{} {}, from {}", request.method, request.url, request.from),
    );
    line(
        "",
        &format!("host {:?}, path {:?}", request.host, request.path),
    );
    choice(out, "listener", &explanation.listener);
    choice(out, "site", &explanation.site);
    match &explanation.route {
        Some(route) => choice(out, "route", route),
        None => {
            out.push('\n');
            row(out, "route", "none is for this path");
        }
    }
    if let Some(refused) = &explanation.refused {
        out.push('\n');
        row(
            out,
            "answer",
            &format!("{}: {}", refused.status, refused.why),
        );
        return;
    }
    heading(out, "variables", explanation.variables.is_empty());
    for value in &explanation.variables {
        let why = value.why.as_ref().map(|why| format!("  ({why})"));
        let why = why.unwrap_or_default();
        row(
            out,
            "",
            &format!("${} = {:?}{why}", value.name, value.value),
        );
    }
    plugins(out, &explanation.plugins);
    for outcome in &explanation.outcomes {
        self::outcome(out, outcome);
    }
    if let Some(upstream) = &explanation.upstream {
        candidates(out, upstream);
    }
    heading(out, "in force", explanation.settings.is_empty());
    for value in &explanation.settings {
        row(out, "", &format!("{} = {}", value.name, value.value));
    }
}

fn row(out: &mut String, left: &str, right: &str) {
    // Writing to a string does not fail.
    let _infallible = writeln!(out, "{}", format!("{left:LEFT$} {right}").trim_end());
}

fn heading(out: &mut String, text: &str, is_empty: bool) {
    if !is_empty {
        out.push('\n');
        row(out, text, "");
    }
}

fn choice(out: &mut String, left: &str, choice: &Choice) {
    out.push('\n');
    row(out, left, &format!("{}  ({})", choice.name, choice.key));
    row(out, "", &format!("because {}", choice.why));
    let mut others = choice.others.iter();
    for other in others.by_ref().take(OTHERS) {
        row(out, "", &format!("not {}: {}", other.name, other.why));
    }
    match others.count() {
        0 => {}
        count => row(out, "", &format!("nor {count} more; --json has them all")),
    }
}

fn plugins(out: &mut String, phases: &Phases) {
    let rows = [
        ("request", &phases.request),
        ("endpoint", &phases.endpoint),
        ("response", &phases.response),
        ("messages from the client", &phases.messages_from_client),
        ("messages from the service", &phases.messages_from_service),
    ];
    let is_empty = rows.iter().all(|(_, plugins)| plugins.is_empty());
    heading(out, "plugins", is_empty);
    for (phase, plugins) in rows.iter().filter(|(_, plugins)| !plugins.is_empty()) {
        row(out, "", &format!("{phase}: {}", plugins.join(" → ")));
    }
    if !is_empty {
        row(
            out,
            "",
            "None of them was asked: what they would change is not shown.",
        );
    }
}

fn outcome(out: &mut String, outcome: &Outcome) {
    out.push('\n');
    let (verb, head) = match &outcome.what {
        What::Sent(head) => ("is sent as", head),
        What::Answered(head) => ("is answered with", head),
        What::Refused(refused) => {
            let text = format!("is refused with {}: {}", refused.status, refused.why);
            row(out, outcome.kind, &text);
            return;
        }
    };
    row(out, outcome.kind, verb);
    self::head(out, head);
}

fn head(out: &mut String, head: &Head) {
    row(out, "", &format!("  {}", head.line));
    for (name, value) in &head.fields {
        row(out, "", &format!("  {name}: {value}"));
    }
    if let Some(note) = &head.note {
        row(out, "", note);
    }
}

fn candidates(out: &mut String, upstream: &Candidates) {
    out.push('\n');
    row(
        out,
        "upstream",
        &format!("{}, {}", upstream.name, upstream.balance),
    );
    for endpoint in &upstream.endpoints {
        let backup = if endpoint.backup { ", backup" } else { "" };
        let text = format!(
            "{}: weight {}{backup}, {}",
            endpoint.address, endpoint.weight, endpoint.share
        );
        row(out, "", &text);
    }
    if let Some(note) = &upstream.note {
        row(out, "", note);
    }
    if !upstream.tries.is_empty() {
        let tries = upstream.tries.join(", then ");
        row(out, "", &format!("this request tries {tries}"));
    }
    if !upstream.next.is_empty() {
        row(
            out,
            "",
            &format!(
                "requests like it, all kept open, go to {}",
                upstream.next.join(", ")
            ),
        );
    }
}
