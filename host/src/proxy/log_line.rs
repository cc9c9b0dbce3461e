//! Lines of access logs, made of the notes on an exchange or session at its end.

use super::notes::{Moment, Notes};
use super::worker::Worker;
use crate::config::{Escape, LogFormat, LogLines, Part, Variable};
use crate::telemetry::{
    HeadTexts, push_escaped, push_facts, push_json, push_json_escaped, since_epoch,
};

/// Writes the lines of all access logs that want one.
pub(crate) fn write(notes: &Notes, worker: &Worker) {
    let moment = Moment {
        clock: &worker.clock,
        headers: None,
    };
    for log in &notes.place().later().logs {
        if let Some(when) = &log.when
            && matches!(&notes.render(when, &moment, None)[..], b"" | b"0")
        {
            continue;
        }
        worker.access_logs.add(&log.file, |out| match &log.format {
            LogFormat::Json => json(notes, &moment, out),
            LogFormat::Lines(lines) => line(notes, lines, &moment, out),
        });
    }
}

fn line(notes: &Notes, lines: &LogLines, moment: &Moment<'_>, out: &mut Vec<u8>) {
    for part in lines.template.parts() {
        match part {
            Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Part::Variable(variable) => value(notes, variable, lines.escape, moment, out),
        }
    }
    if lines.facts {
        let host = text(notes, Variable::HttpHost, moment);
        push_facts(out, notes, host.as_deref(), notes.started.elapsed());
    }
    out.push(b'\n');
}

/// Appends a value, escaped; a hyphen for what is missing, where a blank would be misread.
fn value(
    notes: &Notes,
    variable: &Variable,
    escape: Escape,
    moment: &Moment<'_>,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    if notes.write(variable, moment, None, out).is_none() {
        out.truncate(start);
        if escape == Escape::Hex {
            out.push(b'-');
        }
        return;
    }
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if escape == Escape::Off || out[start..].iter().all(is_plain) {
        return;
    }
    let raw = out.split_off(start);
    match escape {
        Escape::Json => push_json_escaped(out, &raw),
        Escape::Hex | Escape::Off => push_escaped(out, &raw),
    }
}

fn json(notes: &Notes, moment: &Moment<'_>, out: &mut Vec<u8>) {
    let text = |variable| text(notes, variable, moment);
    let (request, host, user) = (
        text(Variable::Request),
        text(Variable::HttpHost),
        text(Variable::RemoteUser),
    );
    let referer = text(Variable::Http(http::header::REFERER));
    let agent = text(Variable::Http(http::header::USER_AGENT));
    let head = HeadTexts {
        request: request.as_deref(),
        host: host.as_deref(),
        remote_user: user.as_deref(),
        referer: referer.as_deref(),
        user_agent: agent.as_deref(),
    };
    let now = since_epoch();
    let mut clock = moment.clock.borrow_mut();
    push_json(
        out,
        notes,
        &head,
        (now, clock.at(now)),
        notes.started.elapsed(),
    );
}

fn text(notes: &Notes, variable: Variable, moment: &Moment<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    notes.write(&variable, moment, None, &mut out)?;
    Some(out)
}
