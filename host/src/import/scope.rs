//! What is in force at a place: its own directives, and what it inherits.

use super::tree::Directive;

/// Blocks around a place, the outermost first.
#[derive(Debug, Clone)]
pub(super) struct Scope<'a> {
    levels: Vec<&'a [Directive]>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(http: &'a [Directive]) -> Self {
        Self { levels: vec![http] }
    }

    /// The place within a block of this one.
    pub(super) fn within(&self, block: &'a Directive) -> Self {
        let mut levels = self.levels.clone();
        levels.push(block.children());
        Self { levels }
    }

    /// The directive in force, from the innermost block that has it.
    pub(super) fn find(&self, name: &str) -> Option<&'a Directive> {
        self.all(name).first().copied()
    }

    /// All of that name in the innermost block that has any: lists such as `proxy_set_header` are
    /// inherited as a whole or not at all.
    pub(super) fn all(&self, name: &str) -> Vec<&'a Directive> {
        let of = |level: &&'a [Directive]| -> Vec<&'a Directive> {
            level.iter().filter(|d| d.is(name)).collect()
        };
        let mut levels = self.levels.iter().rev().map(of);
        levels.find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// The same place, of which the blocks of locations alone count.
    pub(super) fn locations(&self) -> Self {
        Self {
            levels: self.levels.iter().skip(2).copied().collect(),
        }
    }

    /// Whether a directive stands in its block behind one of that name.
    pub(super) fn is_behind(&self, directive: &Directive, name: &str) -> bool {
        self.levels.iter().any(|level| {
            let place = level
                .iter()
                .position(|other| std::ptr::eq(other, directive));
            place.is_some_and(|place| level[..place].iter().any(|other| other.is(name)))
        })
    }

    /// The directives of the innermost block itself.
    pub(super) fn own(&self) -> &'a [Directive] {
        self.levels.last().copied().unwrap_or_default()
    }

    /// A directive of the innermost block itself.
    pub(super) fn own_named(&self, name: &str) -> Option<&'a Directive> {
        self.own().iter().find(|directive| directive.is(name))
    }
}
