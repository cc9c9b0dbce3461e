//! Masking keys for frames that the proxy itself makes towards a service.

use std::cell::RefCell;

use aws_lc_rs::rand;

/// Keys drawn at once, so that the generator is asked rarely.
const KEYS: usize = 64;

thread_local! {
    static POOL: RefCell<(usize, [[u8; 4]; KEYS])> = const { RefCell::new((KEYS, [[0; 4]; KEYS])) };
}

/// Returns a key that nobody can foresee (RFC 6455 §5.3), fresh for each frame.
pub(crate) fn fresh() -> [u8; 4] {
    POOL.with_borrow_mut(|(next, keys)| {
        if *next == KEYS {
            // The generator of the system does not fail once it has been seeded; were it to, known
            // keys would be a lesser evil than a session that ends.
            if let Err(error) = rand::fill(keys.as_flattened_mut()) {
                tracing::error!(%error, "no random bytes for masking keys");
            }
            *next = 0;
        }
        *next += 1;
        keys[*next - 1]
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_differ() {
        let keys: std::collections::HashSet<_> = (0..200).map(|_| super::fresh()).collect();
        assert!(keys.len() > 195);
    }
}
