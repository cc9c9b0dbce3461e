//! Where a plugin's code comes from: a file, or the binary itself.

use std::borrow::Cow;
use std::io;

use crate::config::Module;

include!(concat!(env!("OUT_DIR"), "/builtin.rs"));

/// Reads the bytes that a module names. Fails if the file cannot be read, or the name is not one of
/// the stock plugins.
pub(crate) fn read_module(module: &Module) -> io::Result<Cow<'static, [u8]>> {
    match module {
        Module::File(path) => std::fs::read(path).map(Cow::Owned),
        Module::Builtin(name) => BUILTIN
            .iter()
            .find(|(builtin, _)| builtin == name)
            .map(|(_, bytes)| Cow::Borrowed(*bytes))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no stock plugin of that name")),
    }
}
