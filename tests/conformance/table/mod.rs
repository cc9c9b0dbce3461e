//! The rows, by subject.

mod agreements;
mod closing;
mod compression;
mod fragments;
mod framing;
mod limits;
mod text;

use super::Case;

/// All rows.
pub(super) fn cases() -> Vec<Case> {
    let subjects = [
        framing::cases,
        fragments::cases,
        text::cases,
        closing::cases,
        limits::cases,
        agreements::cases,
        compression::cases,
    ];
    subjects.iter().flat_map(|cases| cases()).collect()
}
