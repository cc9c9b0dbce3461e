//! Directives as they nest in an nginx file, with what it includes in its place.
//!
//! Which directives there are is left to `directives.rs`.

use std::cell::{Cell, OnceCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::directives;
use super::lexer::{Lexer, Token};
use super::report::{Place, Report};

/// How deep blocks may nest: no sensible file comes near, and the stack holds far more.
const DEEPEST: usize = 32;

/// `name arguments;` or `name arguments { block }`.
#[derive(Debug)]
pub(super) struct Directive {
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) block: Option<Vec<Directive>>,
    pub(super) place: Place,
    /// Whether something in the output comes from it.
    pub(super) is_used: Cell<bool>,
    /// Whether something is wrong with it as such, so that it cannot be translated.
    pub(super) is_bad: Cell<bool>,
    /// Why it is left out.
    dropped: OnceCell<String>,
}

impl Directive {
    /// Leaves it out; the first reason counts.
    pub(super) fn drop(&self, why: &str) {
        self.dropped.get_or_init(|| why.to_owned());
    }

    /// Why it is left out, if it is.
    pub(super) fn dropped(&self) -> Option<&str> {
        self.dropped.get().map(String::as_str)
    }

    /// Whether it has this name, and can be translated.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name == name && !self.is_bad.get()
    }

    /// Whether something in its block cannot be translated, so that what is missing there may well
    /// have been meant.
    pub(super) fn has_bad(&self) -> bool {
        self.children()
            .iter()
            .any(|directive| directive.is_bad.get())
    }

    /// As it is written, on one line, without its block.
    pub(super) fn text(&self) -> String {
        let mut text = self.name.clone();
        for argument in &self.arguments {
            text.push(' ');
            let plain = |c: char| !c.is_whitespace() && !"\"';{}".contains(c);
            if !argument.is_empty() && argument.chars().all(plain) {
                text.push_str(argument);
            } else if argument.contains('\'') {
                text.push_str(&format!("\"{argument}\""));
            } else {
                text.push_str(&format!("'{argument}'"));
            }
        }
        text
    }

    /// Its argument at a place; empty if it has fewer.
    pub(super) fn argument(&self, index: usize) -> &str {
        self.arguments.get(index).map_or("", String::as_str)
    }

    /// The directives of its block.
    pub(super) fn children(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }
}

/// Reads a file and all that it includes. What is wrong goes to the report; the rest of a file behind
/// an error of syntax is not read, since it would only make more of them.
pub(super) fn read(file: &Path, report: &mut Report) -> Vec<Directive> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut reader = Reader {
        folder,
        report,
        open: Vec::new(),
    };
    match fs::read(file) {
        Ok(bytes) => reader.text(file, &bytes),
        Err(error) => {
            let text = format!("cannot be read: {}", reason(&error));
            reader.report.error(&Place::file(file), "", text, None);
            Vec::new()
        }
    }
}

struct Reader<'a> {
    /// Where relative names of included files begin: the folder of the main file.
    folder: &'a Path,
    report: &'a mut Report,
    /// Files being read, the main one first.
    open: Vec<PathBuf>,
}

/// A line of a file, and what is wrong there.
type SyntaxError = (usize, String);

impl Reader<'_> {
    fn text(&mut self, file: &Path, bytes: &[u8]) -> Vec<Directive> {
        let shared: Rc<Path> = file.into();
        let text = String::from_utf8_lossy(bytes);
        let mut lexer = Lexer::new(text.strip_prefix('\u{feff}').unwrap_or(&text));
        self.open.push(file.to_owned());
        let mut directives = Vec::new();
        if let Err((line, text)) = self.block(&shared, &mut lexer, &mut directives, None, 0) {
            let place = Place { file: shared, line };
            self.report.error(&place, "", text, None);
        }
        self.open.pop();
        directives
    }

    /// Reads up to the brace that closes `opened`, or to the end of the file.
    fn block(
        &mut self,
        file: &Rc<Path>,
        lexer: &mut Lexer<'_>,
        directives: &mut Vec<Directive>,
        opened: Option<(&str, usize)>,
        depth: usize,
    ) -> Result<(), SyntaxError> {
        let mut words: Vec<(String, usize)> = Vec::new();
        loop {
            let token = lexer
                .next()
                .map_err(|(error, at)| (at, error.to_string()))?;
            let Some((token, line)) = token else {
                return match (words.first(), opened) {
                    (Some((name, at)), _) => {
                        let text = format!("the file ends before the `;` or `{{` of `{name}`");
                        Err((*at, text))
                    }
                    (None, Some((name, at))) => {
                        Err((at, format!("the file ends before the `}}` of `{name}`")))
                    }
                    (None, None) => Ok(()),
                };
            };
            match (token, words.first()) {
                (Token::Word(word), _) => words.push((word, line)),
                (Token::Semicolon, Some(_)) => {
                    let directive = self.directive(file, std::mem::take(&mut words), None);
                    match directive.name.as_str() {
                        "include" => directives.extend(self.include(&directive)),
                        _ => directives.push(directive),
                    }
                }
                (Token::Open, Some((name, at))) => {
                    if depth == DEEPEST {
                        return Err((line, "blocks nest too deeply".to_owned()));
                    }
                    let mut block = Vec::new();
                    self.block(file, lexer, &mut block, Some((name, *at)), depth + 1)?;
                    let words = std::mem::take(&mut words);
                    directives.push(self.directive(file, words, Some(block)));
                }
                (Token::Close, None) if opened.is_some() => return Ok(()),
                (Token::Close, None) => {
                    return Err((line, "unexpected `}`: no block is open".to_owned()));
                }
                (Token::Close, Some((name, at))) => {
                    return Err((*at, format!("`{name}` has no `;` at its end")));
                }
                (Token::Semicolon, None) => {
                    return Err((line, "unexpected `;`: nothing is before it".to_owned()));
                }
                (Token::Open, None) => {
                    return Err((line, "unexpected `{`: nothing is before it".to_owned()));
                }
            }
        }
    }

    /// Makes a directive of its words. A file that is not UTF-8 may be so in comments only.
    fn directive(
        &mut self,
        file: &Rc<Path>,
        words: Vec<(String, usize)>,
        block: Option<Vec<Directive>>,
    ) -> Directive {
        let place = Place {
            file: file.clone(),
            line: words.first().map_or(1, |(_, line)| *line),
        };
        let mut words = words.into_iter().map(|(word, _)| word);
        let directive = Directive {
            name: words.next().unwrap_or_default(),
            arguments: words.collect(),
            block,
            place,
            is_used: Cell::new(false),
            is_bad: Cell::new(false),
            dropped: OnceCell::new(),
        };
        if directive.text().contains('\u{fffd}') {
            let hint = "convert the file to UTF-8";
            let name = &directive.name;
            self.report
                .error(&directive.place, name, "is not UTF-8", Some(hint.into()));
        }
        directive
    }

    /// Reads what an `include` names. A pattern may match nothing; a name must exist.
    fn include(&mut self, directive: &Directive) -> Vec<Directive> {
        let mut directives = Vec::new();
        for file in self.included(directive) {
            if self.open.contains(&file) {
                let text = format!("{} includes itself", file.display());
                self.report.error(&directive.place, "include", text, None);
                continue;
            }
            match fs::read(&file) {
                Ok(bytes) => directives.extend(self.text(&file, &bytes)),
                Err(error) => {
                    let text = format!("{} cannot be read: {}", file.display(), reason(&error));
                    let folder = self.folder.display();
                    let hint = format!("relative names begin in the main file's folder, {folder}");
                    let hint = (!directive.argument(0).starts_with('/')).then_some(hint);
                    self.report.error(&directive.place, "include", text, hint);
                }
            }
        }
        directives
    }

    /// The files an `include` names, by name.
    fn included(&mut self, directive: &Directive) -> Vec<PathBuf> {
        let error = |report: &mut Report, text: String| {
            report.error(&directive.place, "include", text, None);
            Vec::new()
        };
        let [name] = &directive.arguments[..] else {
            let text = directives::wrong_count("1 argument", directive.arguments.len());
            return error(self.report, text);
        };
        let file = self.folder.join(name);
        if !name.contains(['*', '?', '[']) {
            return vec![file];
        }
        let options = glob::MatchOptions {
            require_literal_separator: true,
            require_literal_leading_dot: true,
            ..Default::default()
        };
        match glob::glob_with(&file.to_string_lossy(), options) {
            Ok(found) => found.filter_map(Result::ok).collect(),
            Err(wrong) => error(
                self.report,
                format!("{name:?} is no pattern: {}", wrong.msg),
            ),
        }
    }
}

/// What the system says, without the number that it ends in.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error")
        .map_or(text.as_str(), |(text, _)| text)
        .to_owned()
}
