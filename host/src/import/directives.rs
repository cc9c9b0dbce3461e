//! The directives of nginx that are known here, and whether each can be kept.
//!
//! What a directive becomes is written where its block is translated; `table.rs` lists them.

use super::report::Report;
use super::table::ROWS;
use super::tree::Directive;
use crate::config::nearest;

/// Blocks a directive may stand in, one bit each.
pub(super) type Blocks = u16;
pub(super) const MAIN: Blocks = 1;
pub(super) const EVENTS: Blocks = 1 << 1;
pub(super) const HTTP: Blocks = 1 << 2;
pub(super) const UPSTREAM: Blocks = 1 << 3;
pub(super) const SERVER: Blocks = 1 << 4;
pub(super) const LOCATION: Blocks = 1 << 5;

/// A directive of nginx.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) blocks: Blocks,
    /// Fewest and most arguments.
    pub(super) arguments: (usize, usize),
    pub(super) has_block: bool,
    /// Whether it may stand in a block only once.
    pub(super) is_single: bool,
    pub(super) fate: Fate,
}

/// What becomes of a directive.
pub(super) enum Fate {
    /// It is translated, or said to be an error, where its block is.
    Kept,
    /// It is left out; why that changes nothing that matters.
    Dropped(&'static str),
    /// Harmless with this argument, and the same as [`Fate::Refused`] with any other.
    OnlyWith(&'static str, &'static str),
    /// Its meaning would be lost; what to do instead.
    Refused(&'static str),
}

/// Says how many arguments there are instead of how many there should be.
pub(super) fn wrong_count(expected: &str, found: usize) -> String {
    match found {
        0 => format!("expected {expected}, found none"),
        _ => format!("expected {expected}, found {found}"),
    }
}

/// Checks the directives of a block and those within: that nginx knows them, that they may stand
/// there, how many arguments they have, and whether they can be kept. `allowed` are names of
/// directives that may be left out although that changes what happens.
pub(super) fn check(
    directives: &[Directive],
    block: Blocks,
    allowed: &[String],
    report: &mut Report,
) {
    let mut seen: Vec<&Directive> = Vec::new();
    for directive in directives {
        let Some(row) = ROWS.iter().find(|row| row.name == directive.name) else {
            unknown(directive, allowed, report);
            continue;
        };
        if let Some(problem) = misplaced(row, directive, block) {
            report.error(&directive.place, &directive.name, problem, hint(row));
            directive.is_bad.set(true);
            continue;
        }
        let twin = seen.iter().find(|other| other.name == directive.name);
        if let (true, Some(twin)) = (row.is_single, twin) {
            let text = format!("stands in this block already ({})", twin.place);
            report.error(&directive.place, &directive.name, text, None);
            directive.is_bad.set(true);
            continue;
        }
        seen.push(directive);
        judge(row, directive, allowed, report);
        let within = match directive.name.as_str() {
            "http" => HTTP,
            "events" => EVENTS,
            "server" if directive.block.is_some() => SERVER,
            "upstream" => UPSTREAM,
            "location" => LOCATION,
            _ => continue,
        };
        check(directive.children(), within, allowed, report);
    }
}

fn unknown(directive: &Directive, allowed: &[String], report: &mut Report) {
    if allowed.contains(&directive.name) {
        directive.drop("left out because --drop names it");
        return;
    }
    let known = ROWS.iter().map(|row| row.name);
    let hint = nearest::name(&directive.name, known).map_or_else(
        || {
            format!(
                "if nothing depends on it, `--drop {}` leaves it out",
                directive.name
            )
        },
        |near| format!("did you mean `{near}`?"),
    );
    let place = &directive.place;
    directive.is_bad.set(true);
    report.error(place, &directive.name, "unknown directive", Some(hint));
}

/// What is wrong with where and how a directive stands.
fn misplaced(row: &Row, directive: &Directive, block: Blocks) -> Option<String> {
    // `server` is a block in `http` and a line in `upstream`.
    let has_block = row.has_block && !(row.name == "server" && block == UPSTREAM);
    let (least, most) = match row.name {
        "server" if block == UPSTREAM => (1, usize::MAX),
        "server" => (0, 0),
        _ => row.arguments,
    };
    if row.blocks & block == 0 {
        let place = match block {
            MAIN => "outside of all blocks",
            EVENTS => "in `events`",
            HTTP => "in `http`",
            UPSTREAM => "in `upstream`",
            SERVER => "in `server`",
            _ => "in `location`",
        };
        return Some(format!("is not allowed {place}"));
    }
    let found = directive.arguments.len();
    if found < least || found > most {
        let expected = match (least, most) {
            (0, 0) => "no argument".to_owned(),
            (1, 1) => "1 argument".to_owned(),
            (1, usize::MAX) => "at least 1 argument".to_owned(),
            (least, usize::MAX) => format!("at least {least} arguments"),
            (least, most) if least == most => format!("{least} arguments"),
            (least, most) => format!("{least} to {most} arguments"),
        };
        return Some(wrong_count(&expected, found));
    }
    match (has_block, directive.block.is_some()) {
        (true, false) => Some("expected a block in `{` and `}`, found `;`".to_owned()),
        (false, true) => Some("expected `;`, found a block".to_owned()),
        _ => None,
    }
}

/// What helps those who got a directive wrong that many get wrong.
fn hint(row: &Row) -> Option<String> {
    match row.name {
        "proxy_pass" => Some("write the service's address: proxy_pass http://127.0.0.1:9001;"),
        "proxy_set_header" => Some("write name and value; values with spaces need quotes"),
        _ => None,
    }
    .map(str::to_owned)
}

fn judge(row: &Row, directive: &Directive, allowed: &[String], report: &mut Report) {
    let is_allowed = allowed.iter().any(|name| name == row.name);
    match row.fate {
        Fate::Kept => {}
        Fate::Dropped(why) => directive.drop(why),
        Fate::OnlyWith(argument, _) if directive.argument(0) == argument => {
            directive.drop("as it is here in any case");
        }
        Fate::OnlyWith(..) | Fate::Refused(_) if is_allowed => {
            directive.drop("left out because --drop names it");
        }
        Fate::OnlyWith(_, hint) | Fate::Refused(hint) => {
            let text = match directive.name.as_str() {
                "if" => "is not supported".to_owned(),
                _ => "its meaning cannot be kept".to_owned(),
            };
            directive.is_bad.set(true);
            let hint = Some(hint.to_owned());
            report.error(&directive.place, &directive.name, text, hint);
        }
    }
}
