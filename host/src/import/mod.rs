//! nginx files into a configuration of ours: `tidegate import`.
//!
//! What nginx does with a directive, the result does as well; a directive of which that is not so is
//! an error, unless it is known to change nothing that matters (`table.rs`).

mod directives;
mod files;
mod lexer;
mod listen;
mod location;
mod maps;
mod output;
mod report;
mod scope;
mod settings;
mod table;
#[cfg(test)]
mod tests;
mod translator;
mod tree;
mod upstream;
mod values;

use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::{self, Config};
use directives::{HTTP, MAIN};
use output::Output;
use report::{Place, Report};
use translator::Translator;
use tree::Directive;

/// Translate nginx's configuration
///
/// Reads whole files of nginx, and files that are meant to be included in its `http` block, and writes
/// one of Tidegate that does the same. What was translated, left out or relied on is told on standard
/// error. A directive whose meaning cannot be kept is an error, and nothing is written.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate import /etc/nginx/nginx.conf -o tidegate.toml
  tidegate import site.conf chat.conf | less
  tidegate import --drop gzip --drop limit_req nginx.conf

Exit codes: 0 translated, 1 something cannot be kept, 2 wrong arguments.")]
pub(crate) struct Arguments {
    /// Files of nginx
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where to write the configuration; standard output if not given
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// Report as one JSON object
    #[arg(long)]
    json: bool,
}

/// What the operator says beside the files.
#[derive(Debug, Default, Args)]
struct Options {
    /// Where nginx is installed: relative paths of `root` and `access_log` begin there
    #[arg(long, value_name = "FOLDER")]
    prefix: Option<PathBuf>,
    /// Leave out a directive although that changes what happens
    #[arg(long, value_name = "DIRECTIVE")]
    drop: Vec<String>,
}

/// What is printed in the end.
pub(crate) struct Outcome {
    pub(crate) report: String,
    /// The configuration, unless it is in a file; or what went wrong beside what is in the report.
    pub(crate) text: Result<Option<String>, Option<String>>,
}

impl Arguments {
    /// Translates the files, and writes the result where it is to be written.
    pub(crate) fn run(&self) -> Outcome {
        let imported = import(&self.files, &self.options);
        let report = match self.json {
            true => imported.report.json().to_string(),
            false => imported.report.to_string(),
        };
        let text = match (imported.text, &self.output) {
            (None, _) => Err(None),
            (Some(text), None) => Ok(Some(text)),
            (Some(text), Some(file)) => match std::fs::write(file, text) {
                Ok(()) => Ok(None),
                Err(error) => Err(Some(format!(
                    "{}: cannot be written: {error}",
                    file.display()
                ))),
            },
        };
        Outcome { report, text }
    }
}

/// A configuration, unless something is wrong, and what there is to tell.
#[derive(Debug)]
struct Imported {
    text: Option<String>,
    report: Report,
}

/// Translates files: whole ones, and ones that are meant to be included in `http`.
fn import(files: &[PathBuf], options: &Options) -> Imported {
    let mut report = Report::default();
    let mut main = Vec::new();
    let mut http = Vec::new();
    let mut read = Vec::new();
    for file in files {
        read.push(tree::read(file, &mut report));
    }
    let mut text = None;
    // Behind an error of syntax nothing can be judged.
    if report.is_ok() {
        for directives in read {
            sort(directives, options, &mut main, &mut http, &mut report);
        }
        let first = files.first().map_or(Path::new(""), PathBuf::as_path);
        let translator = Translator {
            report: &mut report,
            options,
            file: first.to_owned(),
            folder: absolute(first.parent().unwrap_or(Path::new(""))),
            main: &main,
            http: &http,
            groups: Vec::new(),
        };
        let names: Vec<_> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        let output = translator.run(&format!("From {}, by `tidegate import`.", names.join(", ")));
        if report.is_ok() {
            unused(&main, &mut report);
            unused(&http, &mut report);
            verify(&output, &mut report);
        }
        text = Some(output.text());
    }
    report.sort();
    Imported {
        text: text.filter(|_| report.is_ok()),
        report,
    }
}

/// Divides the directives of a file into those of `http` and those outside of it.
fn sort(
    directives: Vec<Directive>,
    options: &Options,
    main: &mut Vec<Directive>,
    http: &mut Vec<Directive>,
    report: &mut Report,
) {
    let is_whole = |directive: &Directive| matches!(directive.name.as_str(), "http" | "events");
    if !directives.iter().any(is_whole) {
        directives::check(&directives, HTTP, &options.drop, report);
        http.extend(directives);
        return;
    }
    directives::check(&directives, MAIN, &options.drop, report);
    for mut directive in directives {
        match directive.name.as_str() {
            "http" => http.extend(directive.block.take().unwrap_or_default()),
            "events" => main.extend(directive.block.take().unwrap_or_default()),
            _ => main.push(directive),
        }
    }
}

/// Notes directives that nothing in the output comes from: they are overridden everywhere, or stand
/// where nothing asks for them.
fn unused(directives: &[Directive], report: &mut Report) {
    for directive in directives {
        if let Some(why) = directive.dropped() {
            report.dropped(&directive.place, &directive.text(), why);
            continue;
        }
        if !directive.is_used.get() {
            let why = "nothing here is affected by it";
            report.dropped(&directive.place, &directive.text(), why);
            continue;
        }
        if !matches!(directive.name.as_str(), "map" | "types") {
            unused(directive.children(), report);
        }
    }
}

/// Reads the result as `tidegate check` would. What is wrong with it is told of the line of the nginx
/// file it comes from.
fn verify(output: &Output, report: &mut Report) {
    let Err(error) = Config::parse(&output.text(), Path::new("tidegate.toml")) else {
        return;
    };
    match error {
        config::Error::Invalid { problems, .. } => {
            for problem in problems {
                match output.place(problem.line) {
                    Some(place) => report.error(place, &problem.key, problem.text, None),
                    None => {
                        let place = Place::file(&problem.file);
                        report.error(&place, &problem.key, problem.text, None);
                    }
                }
            }
        }
        error @ config::Error::Read { .. } => {
            report.error(&Place::file(Path::new("")), "", error.to_string(), None);
        }
    }
}

fn absolute(folder: &Path) -> PathBuf {
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}
