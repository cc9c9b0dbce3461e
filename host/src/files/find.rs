//! From a path to an open file: roots and aliases, indices, paths to try, compressed twins.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::StatusCode;

use super::Error;
use super::coding::Candidate;
use super::open::{How, open};
use crate::config::{Coding, Files};

/// What a request asks for, and where that is looked for.
pub(crate) struct Place {
    pub(crate) settings: Arc<Files>,
    /// The folder that paths are below, or with [`Strip::All`] what is served itself.
    pub(crate) base: PathBuf,
    pub(crate) strip: Strip,
    pub(crate) wanted: Wanted,
}

/// What of a path is not looked for below the base.
pub(crate) enum Strip {
    Nothing,
    /// This, if the path begins so.
    Prefix(Vec<u8>),
    All,
}

/// Paths of a request: decoded, beginning with a slash.
pub(crate) enum Wanted {
    Path(Vec<u8>),
    /// What exists first of these, with whether it is to be a folder; else the last.
    FirstOf(Vec<(Vec<u8>, bool)>, Result<Vec<u8>, StatusCode>),
}

/// What there is.
pub(super) enum Found {
    File(Regular),
    /// A folder, by its path without the slash at its end.
    Folder(Vec<u8>),
}

/// A regular file that is open.
pub(super) struct Regular {
    pub(super) file: File,
    /// In bytes, as of now.
    pub(super) length: u64,
    /// Seconds of the Unix epoch.
    pub(super) modified: i64,
    /// Its path, or if it is compressed that of the plain one.
    pub(super) path: PathBuf,
    pub(super) coding: Option<Coding>,
    /// Whether it is there in more than one coding.
    pub(super) varies: bool,
}

enum Opened {
    Regular(Regular),
    Folder,
    /// A FIFO, a device.
    Special,
}

impl Place {
    /// Finds and opens what is asked for.
    pub(super) fn find(&self, codings: &[Candidate], how: How) -> Result<Found, Error> {
        let lookup = Lookup {
            place: self,
            codings,
            how,
        };
        match &self.wanted {
            Wanted::Path(path) => lookup.path(path),
            Wanted::FirstOf(tries, last) => {
                for (path, folder) in tries {
                    if let Some(found) = lookup.attempt(path, *folder)? {
                        return Ok(found);
                    }
                }
                match last {
                    Ok(path) => lookup.path(path),
                    Err(status) => Err(Error::Nothing { status: *status }),
                }
            }
        }
    }
}

struct Lookup<'a> {
    place: &'a Place,
    codings: &'a [Candidate],
    how: How,
}

impl Lookup<'_> {
    fn path(&self, path: &[u8]) -> Result<Found, Error> {
        let below = self.below(path)?;
        if path.ends_with(b"/") {
            return self.index(below).map(Found::File);
        }
        let file = self.file(below)?;
        Ok(file.map_or_else(|| Found::Folder(path.to_owned()), Found::File))
    }

    /// Returns what is at a path if it is what is tried for.
    fn attempt(&self, path: &[u8], folder: bool) -> Result<Option<Found>, Error> {
        let below = self.below(path)?;
        match self.open(below, "") {
            Ok(Opened::Regular(file)) if !folder => Ok(Some(Found::File(self.best(below, file)?))),
            // `$uri/` for a path that has a slash already.
            Ok(Opened::Folder) if folder && (path.is_empty() || path.ends_with(b"/")) => {
                Ok(Some(Found::File(self.index(below)?)))
            }
            Ok(Opened::Folder) if folder => Ok(Some(Found::Folder(path.to_owned()))),
            Err(error) if error.would_block() => Err(error),
            _ => Ok(None),
        }
    }

    /// Returns the first index of a folder.
    fn index(&self, folder: &Path) -> Result<Regular, Error> {
        for name in &self.place.settings.index {
            let below = folder.join(name);
            match self.open(&below, "") {
                Ok(Opened::Regular(file)) => return self.best(&below, file),
                Ok(Opened::Folder | Opened::Special) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let path = self.full(folder);
        match self.open(folder, "")? {
            Opened::Folder => Err(Error::NoIndex { path }),
            Opened::Regular(_) | Opened::Special => Err(Error::NotFound { path }),
        }
    }

    /// Returns a file, in the best coding that the client takes. None: it is a folder.
    fn file(&self, below: &Path) -> Result<Option<Regular>, Error> {
        let (compressed, varies) = self.compressed(below)?;
        if compressed.is_some() {
            return Ok(compressed);
        }
        match self.open(below, "")? {
            Opened::Regular(file) => Ok(Some(Regular { varies, ..file })),
            Opened::Folder => Ok(None),
            Opened::Special => Err(Error::Special {
                path: self.full(below),
            }),
        }
    }

    /// Returns a file that is open already, or better a compressed one.
    fn best(&self, below: &Path, plain: Regular) -> Result<Regular, Error> {
        let (compressed, varies) = self.compressed(below)?;
        Ok(compressed.unwrap_or(Regular { varies, ..plain }))
    }

    /// Returns a compressed file that the client takes, and whether there is a compressed one at all.
    fn compressed(&self, below: &Path) -> Result<(Option<Regular>, bool), Error> {
        let mut exists = false;
        for candidate in self.codings {
            match self.open(below, candidate.coding.suffix()) {
                Ok(Opened::Regular(file)) if candidate.accepted => {
                    let file = Regular {
                        path: self.full(below),
                        coding: Some(candidate.coding),
                        varies: true,
                        ..file
                    };
                    return Ok((Some(file), true));
                }
                Ok(Opened::Regular(_)) => exists = true,
                Err(error) if error.would_block() => return Err(error),
                // Without it there still is the plain one.
                Ok(Opened::Folder | Opened::Special) | Err(_) => {}
            }
        }
        Ok((None, exists))
    }

    fn open(&self, below: &Path, suffix: &str) -> Result<Opened, Error> {
        let settings = &self.place.settings;
        let mut base = Cow::Borrowed(&*self.place.base);
        let mut below = Cow::Borrowed(below);
        if !suffix.is_empty() {
            let named = if below.as_os_str().is_empty() {
                &mut base
            } else {
                &mut below
            };
            named.to_mut().as_mut_os_string().push(suffix);
        }
        let (file, metadata) = open(&base, &below, settings.symlinks, self.how)
            .map_err(|source| Error::of_system(self.full(&below), source))?;
        if metadata.is_dir() {
            return Ok(Opened::Folder);
        }
        if !metadata.is_file() {
            return Ok(Opened::Special);
        }
        Ok(Opened::Regular(Regular {
            file,
            length: metadata.len(),
            modified: metadata.mtime(),
            path: self.full(&below),
            coding: None,
            varies: false,
        }))
    }

    /// Returns the part of a path that is below the base. Nothing in it leads out of there, but links
    /// may.
    fn below<'p>(&self, path: &'p [u8]) -> Result<&'p Path, Error> {
        let rest = match &self.place.strip {
            Strip::Nothing => path,
            Strip::Prefix(prefix) => path.strip_prefix(&**prefix).unwrap_or(path),
            Strip::All => b"",
        };
        // Requests' own paths have none of these, but what is left of one after a prefix may, and so
        // may variables.
        let escapes = |segment: &[u8]| segment == b".." || segment.contains(&0);
        if rest.split(|byte| *byte == b'/').any(escapes) {
            return Err(Error::Escape);
        }
        let start = rest.iter().position(|byte| *byte != b'/');
        let below = start.map_or(&b""[..], |start| &rest[start..]);
        Ok(Path::new(OsStr::from_bytes(below)))
    }

    fn full(&self, below: &Path) -> PathBuf {
        let base = &self.place.base;
        if below.as_os_str().is_empty() {
            base.clone()
        } else {
            base.join(below)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use http::HeaderMap;

    use super::*;
    use crate::config::{Base, Symlinks, Template};
    use crate::files::coding;

    /// What is found, in a few letters.
    fn found(place: &Place, how: How) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("accept-encoding", "gzip".parse().unwrap());
        let codings = coding::accepted(&place.settings.precompressed, &headers);
        match place.find(&codings, how) {
            Ok(Found::File(file)) => {
                let name = file.path.file_name().unwrap_or_default();
                format!("{} {} {:?}", name.display(), file.length, file.coding)
            }
            Ok(Found::Folder(path)) => format!("folder {}", String::from_utf8_lossy(&path)),
            Err(error) if error.would_block() => "would block".to_owned(),
            Err(Error::NotFound { .. }) => "not found".to_owned(),
            Err(Error::Forbidden { .. }) => "forbidden".to_owned(),
            Err(Error::NoIndex { .. }) => "no index".to_owned(),
            Err(Error::Escape) => "escape".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// The requests of other tests find what the kernel has in memory; this is where it has not.
    #[test]
    fn waiting_for_the_disk_finds_the_same() {
        let base = std::env::temp_dir().join(format!("tidegate-find-{}", std::process::id()));
        let outside = base.with_extension("outside");
        fs::create_dir_all(base.join("dir/empty")).unwrap();
        for (name, content) in [("a.js", "1234"), ("a.js.gz", "12"), ("dir/index.html", "1")] {
            fs::write(base.join(name), content).unwrap();
        }
        fs::write(&outside, "").unwrap();
        symlink("a.js", base.join("link.js")).unwrap();
        symlink(&outside, base.join("out.js")).unwrap();
        let rows = [
            ("/a.js", ["a.js 2 Some(Gzip)"; 3]),
            ("/dir/", ["index.html 1 None"; 3]),
            ("/dir", ["folder /dir"; 3]),
            ("/dir/empty/", ["no index"; 3]),
            ("/missing", ["not found"; 3]),
            ("/dir/../a.js", ["escape"; 3]),
            (
                "/link.js",
                ["link.js 4 None", "forbidden", "link.js 4 None"],
            ),
            ("/out.js", ["out.js 0 None", "forbidden", "forbidden"]),
        ];
        let policies = [Symlinks::Follow, Symlinks::Deny, Symlinks::Within];
        for (path, expected) in rows {
            for (symlinks, expected) in policies.into_iter().zip(expected) {
                let place = Place {
                    settings: Arc::new(Files {
                        symlinks,
                        precompressed: vec![Coding::Gzip],
                        ..Files::new(Base::Root(Template::default()))
                    }),
                    base: base.clone(),
                    strip: Strip::Nothing,
                    wanted: Wanted::Path(path.into()),
                };
                assert_eq!(
                    found(&place, How::Blocking),
                    expected,
                    "{path} {symlinks:?}"
                );
                let cached = found(&place, How::Cached);
                assert!(
                    [expected, "would block"].contains(&&*cached),
                    "{path} {symlinks:?}: {cached}"
                );
            }
        }
        fs::remove_dir_all(&base).unwrap();
        fs::remove_file(&outside).unwrap();
    }
}
