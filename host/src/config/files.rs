//! Files that a route serves, as they are written: the `files` table and `expires`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use super::reader::{Table, Value};
use super::template::{Part, Template};
use super::units;
use super::variables::{Names, Stage};

/// What a route serves from the file system.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Files {
    pub(crate) base: Base,
    /// Names looked for in a folder, in this order. Default: `index.html`.
    pub(crate) index: Vec<String>,
    /// Paths that are tried in place of the request's own. Default: none.
    pub(crate) tries: Option<Tries>,
    /// Media types by extension in lower case, before those that are known anyway.
    pub(crate) types: BTreeMap<String, HeaderValue>,
    /// Media type of what has no known extension. Default: `application/octet-stream`.
    pub(crate) default_type: HeaderValue,
    /// Added to media types of text. Default: none.
    pub(crate) charset: Option<String>,
    /// Codings whose files may stand beside the plain ones, the preferred one first. Default: none.
    pub(crate) precompressed: Vec<Coding>,
    pub(crate) symlinks: Symlinks,
    pub(crate) if_modified_since: IfModifiedSince,
}

/// Where files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Base {
    /// The whole path of the request is looked for in this folder.
    Root(Template),
    /// What the route's pattern matched is left out first; a pattern that is a regular expression
    /// matches all of it.
    Alias(Template),
}

/// What is tried in order until it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tries {
    pub(crate) paths: Vec<Try>,
    pub(crate) otherwise: Otherwise,
}

/// A path, as requests have them, to a file or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Try {
    /// Without the slash with which it is written if it asks for a folder.
    pub(crate) path: Template,
    pub(crate) folder: bool,
}

/// What is served if nothing that is tried exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Otherwise {
    Path(Template),
    Status(StatusCode),
}

/// How a file beside the plain one is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// `.br`
    Brotli,
    /// `.gz`
    Gzip,
}

/// Which symbolic links below the base are followed. Default: all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Symlinks {
    Follow,
    /// None.
    Deny,
    /// Those whose target is below the base.
    Within,
}

/// When `If-Modified-Since` makes a 304. Default: if it is exactly the time of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfModifiedSince {
    Exact,
    /// The file is not newer.
    Before,
    Off,
}

/// What `Expires` and `Cache-Control` say of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expires {
    /// Nothing of ours.
    Off,
    /// It has long been stale.
    Epoch,
    /// It stays fresh for good.
    Max,
    /// It stays fresh for this long, from now or from when it was last modified. A negative time is
    /// in the past.
    After { seconds: i64, modified: bool },
}

const FILES: &str = "a folder such as \"/srv/www\", or a table with `root` or `alias`";
const INDEX: &str = "a list of names of files such as [\"index.html\"]";
const TRIES: &str = "a list such as [\"$uri\", \"$uri/\", \"/index.html\"] or [\"$uri\", \"=404\"]";
const TYPES: &str = "a table such as { wasm = \"application/wasm\" }";
const TYPE: &str = "a media type such as \"text/html\"";
const CHARSET: &str = "a charset such as \"utf-8\"";
const CODING: &str = "\"br\" or \"gzip\"";
const EXPIRES: &str =
    "a duration such as \"30d\", \"-1s\" or \"modified 30d\", or \"epoch\", \"max\" or \"off\"";

const SYMLINKS: [(&str, Symlinks); 3] = [
    ("follow", Symlinks::Follow),
    ("deny", Symlinks::Deny),
    ("within", Symlinks::Within),
];

const IF_MODIFIED_SINCE: [(&str, IfModifiedSince); 3] = [
    ("exact", IfModifiedSince::Exact),
    ("before", IfModifiedSince::Before),
    ("off", IfModifiedSince::Off),
];

/// Reads `files`.
pub(super) fn read(value: &Value<'_>, names: &Names<'_>) -> Option<Arc<Files>> {
    let files = if value.is_table() {
        value.table(FILES, |t| table(t, names)).flatten()
    } else {
        folder(value, FILES, names).map(|root| Files::new(Base::Root(root)))
    };
    files.map(Arc::new)
}

impl Files {
    /// All templates.
    pub(super) fn templates(&self) -> impl Iterator<Item = &Template> {
        let (Base::Root(base) | Base::Alias(base)) = &self.base;
        let tries = self.tries.iter().flat_map(|tries| {
            let otherwise = match &tries.otherwise {
                Otherwise::Path(path) => Some(path),
                Otherwise::Status(_) => None,
            };
            tries.paths.iter().map(|item| &item.path).chain(otherwise)
        });
        [base].into_iter().chain(tries)
    }

    /// With the default of everything else.
    pub(crate) fn new(base: Base) -> Self {
        Self {
            base,
            index: vec!["index.html".to_owned()],
            tries: None,
            types: BTreeMap::new(),
            default_type: HeaderValue::from_static("application/octet-stream"),
            charset: None,
            precompressed: Vec::new(),
            symlinks: Symlinks::Follow,
            if_modified_since: IfModifiedSince::Exact,
        }
    }
}

fn table(t: &Table<'_>, names: &Names<'_>) -> Option<Files> {
    const BASES: &str = "expected one of `root` and `alias`";
    let root = t.get("root");
    let alias = t.get("alias");
    match (&root, &alias) {
        (None, None) => t.problem(format_args!("{BASES}, found none")),
        (Some(_), Some(alias)) => alias.problem(format_args!("{BASES}, found both")),
        _ => {}
    }
    let root = root.and_then(|value| folder(&value, "a folder such as \"/srv/www\"", names));
    let alias =
        alias.and_then(|value| place(&value, "a folder or file such as \"/srv/pictures\"", names));
    let base = root.map(Base::Root).or(alias.map(Base::Alias));
    // Read even without a base, so that all problems are seen.
    let default = Files::new(Base::Root(Template::default()));
    let files = Files {
        index: t.get("index").map_or(default.index, |value| index(&value)),
        tries: t.get("try").and_then(|value| tries(&value, names)),
        types: t.get("types").map_or(default.types, |value| types(&value)),
        default_type: t
            .get("default_type")
            .and_then(|value| media_type(&value))
            .unwrap_or(default.default_type),
        charset: t.get("charset").and_then(|value| charset(&value)),
        precompressed: t
            .get("precompressed")
            .map_or(default.precompressed, |value| precompressed(&value)),
        symlinks: t.choice("symlinks", SYMLINKS, default.symlinks),
        if_modified_since: t.choice(
            "if_modified_since",
            IF_MODIFIED_SINCE,
            default.if_modified_since,
        ),
        base: default.base,
    };
    Some(Files {
        base: base?,
        ..files
    })
}

/// Reads a path that must be that of a folder, if it is known before there are requests. One that
/// does not exist yet may do so later.
fn folder(value: &Value<'_>, what: &str, names: &Names<'_>) -> Option<Template> {
    let template = place(value, what, names)?;
    if let Some(path) = constant(&template)
        && Path::new(path).exists()
        && !Path::new(path).is_dir()
    {
        value.expected(what);
    }
    Some(template)
}

/// Reads a path, with variables or without, and makes it begin in the folder of the file being read.
fn place(value: &Value<'_>, what: &str, names: &Names<'_>) -> Option<Template> {
    let text = value.parse(what, |text| (!text.is_empty()).then_some(text))?;
    let text = if text.starts_with('/') {
        text.to_owned()
    } else {
        let folder = value.folder().display().to_string().replace('$', "$$");
        let folder = if folder.is_empty() { "." } else { &folder };
        format!("{folder}/{text}")
    };
    let template = template(value, &text, names)?;
    if let Some(path) = constant(&template)
        && !Path::new(path).exists()
    {
        value.warn(format_args!(
            "{path:?} does not exist; requests are answered with 404 until it does"
        ));
    }
    Some(template)
}

/// The text of a template without variables.
fn constant(template: &Template) -> Option<&str> {
    match template.parts() {
        [Part::Literal(text)] => Some(text),
        _ => None,
    }
}

fn template(value: &Value<'_>, text: &str, names: &Names<'_>) -> Option<Template> {
    match Template::read(text, names, Stage::Request) {
        Ok(template) => Some(template),
        Err(problem) => {
            value.problem(format_args!("{problem} (in {})", value.found()));
            None
        }
    }
}

fn index(value: &Value<'_>) -> Vec<String> {
    let is_name = |text: &str| !matches!(text, "" | "." | "..") && !text.contains(['/', '\0', '$']);
    let mut names = Vec::new();
    for item in value.list(INDEX) {
        match item.as_str().filter(|name| is_name(name)) {
            Some(name) => names.push(name.to_owned()),
            None => item.expected("the name of a file such as \"index.html\""),
        }
    }
    names
}

fn tries(value: &Value<'_>, names: &Names<'_>) -> Option<Tries> {
    const PATH: &str = "a path such as \"$uri\" or \"/index.html\"";
    const LAST: &str = "a path such as \"/index.html\" or a status such as \"=404\"";
    let mut items = value.list(TRIES);
    if items.len() < 2 && value.is_list() {
        value.expected_because(TRIES, "the last one is served if no other exists");
    }
    let last = items.pop()?;
    let is_path = |text: &&str| text.starts_with('/') || text.starts_with('$');
    let path = |item: &Value<'_>| {
        let text = item.parse(PATH, |text| Some(text).filter(is_path))?;
        let name = text.strip_suffix('/');
        Some(Try {
            path: template(item, name.unwrap_or(text), names)?,
            folder: name.is_some(),
        })
    };
    let paths = items.iter().filter_map(path).collect();
    let status = last.as_str().and_then(|text| text.strip_prefix('='));
    let otherwise = match status {
        Some(code) => {
            let code = code.parse().ok().filter(|code| (400..600).contains(code));
            let status = code.and_then(|code| StatusCode::from_u16(code).ok());
            if status.is_none() {
                last.expected("a status from \"=400\" to \"=599\"");
            }
            Otherwise::Status(status?)
        }
        None => {
            let text = last.parse(LAST, |text| Some(text).filter(is_path))?;
            Otherwise::Path(template(&last, text, names)?)
        }
    };
    Some(Tries { paths, otherwise })
}

fn types(value: &Value<'_>) -> BTreeMap<String, HeaderValue> {
    let mut types = BTreeMap::new();
    for entry in value.entries(TYPES) {
        let extension = entry.name().to_ascii_lowercase();
        if extension.is_empty() || extension.contains(['.', '/']) {
            entry.problem("expected an extension without its dot, such as `html`");
            continue;
        }
        let Some(media_type) = media_type(&entry) else {
            continue;
        };
        if types.insert(extension, media_type).is_some() {
            entry.problem("this extension is already in this table; case makes no difference");
        }
    }
    types
}

fn media_type(value: &Value<'_>) -> Option<HeaderValue> {
    value.parse(TYPE, |text| {
        let (kind, rest) = text.split_once('/')?;
        let is_type = is_token(kind) && !rest.is_empty() && rest.is_ascii();
        HeaderValue::from_str(text).ok().filter(|_| is_type)
    })
}

fn charset(value: &Value<'_>) -> Option<String> {
    value.parse(CHARSET, |text| is_token(text).then(|| text.to_owned()))
}

fn is_token(text: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token)
}

fn precompressed(value: &Value<'_>) -> Vec<Coding> {
    let mut codings = Vec::new();
    for item in value.list("a list such as [\"br\", \"gzip\"]") {
        let coding = match item.as_str() {
            Some("br") => Coding::Brotli,
            Some("gzip") => Coding::Gzip,
            _ => {
                item.expected(CODING);
                continue;
            }
        };
        if codings.contains(&coding) {
            item.problem(format_args!("{} is already in this list", item.found()));
        } else {
            codings.push(coding);
        }
    }
    codings
}

/// Reads `expires`.
pub(super) fn expires(value: &Value<'_>) -> Expires {
    let parsed = value.parse(EXPIRES, |text| match text {
        "off" => Some(Expires::Off),
        "epoch" => Some(Expires::Epoch),
        "max" => Some(Expires::Max),
        _ => {
            let after_modified = text.strip_prefix("modified ");
            let time = after_modified.unwrap_or(text);
            let past = time.strip_prefix('-');
            let length = units::duration(past.unwrap_or(time))?.as_secs();
            let seconds = i64::try_from(length).ok()?;
            Some(Expires::After {
                seconds: if past.is_some() { -seconds } else { seconds },
                modified: after_modified.is_some(),
            })
        }
    });
    parsed.unwrap_or(Expires::Off)
}

impl Coding {
    /// The coding as `Accept-Encoding` and `Content-Encoding` name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// What the name of a file so compressed ends in.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Gzip => ".gz",
        }
    }
}

impl Base {
    /// Whether the values of variables are part of the path.
    pub(crate) fn varies(&self) -> bool {
        let (Self::Root(template) | Self::Alias(template)) = self;
        let is_variable = |part: &Part| matches!(part, Part::Variable(_));
        template.parts().iter().any(is_variable)
    }
}
