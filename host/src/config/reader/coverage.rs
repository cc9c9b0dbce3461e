//! Which keys were asked for and which of them the file had: lets a test of the example file find
//! the keys it forgets.

use std::cell::RefCell;
use std::collections::BTreeMap;

thread_local! {
    static KEYS: RefCell<BTreeMap<String, bool>> = RefCell::default();
}

pub(super) fn record(key: &str, present: bool) {
    KEYS.with_borrow_mut(|keys| *keys.entry(key.to_owned()).or_default() |= present);
}

pub(in crate::config) fn take() -> BTreeMap<String, bool> {
    KEYS.take()
}
