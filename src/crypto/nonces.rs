//! Nonces for blocks, from the OS generator, many with one call: a call for each 4 KiB written costs as much as the cipher.
//! Keys, ids and all else that must be secret or hard to guess come from [`super::random_bytes`] directly.
//!
//! A nonce stands beside its block for all to see, so those that wait are no secret; they must not come twice. Invariant: what
//! was handed out is wiped from the pool. A pool belongs to one thread, and no process forks without exec, which takes it away. A
//! virtual machine that is started twice from one snapshot hands out those that waited in both: at most `WAITING` of
//! each thread, under which GCM-SIV shows whether two texts of one block are equal, and nothing else (RFC 8452).

use std::cell::RefCell;

use super::random_bytes;

/// Nonces drawn at once, by each thread.
const WAITING: usize = 64;

/// The last `left` ones were not handed out yet.
struct Pool {
    nonces: [[u8; 12]; WAITING],
    left: usize,
}

thread_local!(static POOL: RefCell<Pool> = const { RefCell::new(Pool::new()) });

impl Pool {
    const fn new() -> Self {
        Self {
            nonces: [[0; 12]; WAITING],
            left: 0,
        }
    }

    fn take(&mut self) -> [u8; 12] {
        let next = WAITING - self.left;
        match self.nonces.get_mut(next) {
            Some(nonce) => {
                self.left -= 1;
                std::mem::take(nonce)
            }
            None => {
                random_bytes(self.nonces.as_flattened_mut());
                self.left = WAITING;
                self.take()
            }
        }
    }
}

/// A nonce of 12 random bytes that was not handed out before. For blocks: see above what it is not for.
pub fn fresh_nonce() -> [u8; 12] {
    #[cfg(test)]
    if crate::repeated::is_followed() {
        let mut nonce = [0; 12]; // a run that follows a seed must not depend on the one before
        random_bytes(&mut nonce);
        return nonce;
    }
    POOL.with_borrow_mut(Pool::take)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::thread;

    #[test]
    fn no_nonce_comes_twice_in_any_thread() {
        let many = 5 * WAITING + 1;
        let threads: Vec<_> = (0..4)
            .map(|_| thread::spawn(move || (0..many).map(|_| fresh_nonce()).collect::<Vec<_>>()))
            .collect();
        let all: HashSet<_> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(all.len(), 4 * many);
        assert!(!all.contains(&[0; 12]), "a wiped one");
    }

    #[test]
    fn what_was_handed_out_is_gone_from_the_pool() {
        let mut pool = Pool::new();
        for taken in 1..=WAITING {
            let nonce = pool.take();
            assert!(!pool.nonces.contains(&nonce));
            assert_eq!(pool.left, WAITING - taken);
            let wiped = pool.nonces.iter().filter(|nonce| **nonce == [0; 12]);
            assert_eq!(wiped.count(), taken);
        }
    }
}
