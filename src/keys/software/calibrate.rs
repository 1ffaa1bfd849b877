//! Finds what Argon2id shall cost on this machine: 256 MiB and about half a second.

use std::time::{Duration, Instant};

use super::{Argon2Cost, KeystoreError};

const TARGET: Duration = Duration::from_millis(500);
const MEMORY_KIB: u32 = 256 << 10;
const LEAST_MEMORY_KIB: u32 = 32 << 10;
const MOST_PASSES: u32 = 16;

/// Parameters that take about half a second here: 256 MiB (halved where one pass takes over a second or the memory is not
/// to be had, not below 32 MiB), and as many passes as fit. One lane, since the passes run on one thread.
///
/// # Errors
/// `NoMemory` where not even 32 MiB are to be had.
pub fn calibrate() -> Result<Argon2Cost, KeystoreError> {
    let mut memory_kib = MEMORY_KIB;
    loop {
        let one_pass = Argon2Cost {
            memory_kib,
            passes: 1,
            lanes: 1,
        };
        let start = Instant::now();
        match super::seal::argon2id(b"calibration", &[0; 16], &one_pass) {
            Err(KeystoreError::NoMemory(_)) if memory_kib > LEAST_MEMORY_KIB => {}
            Err(error) => return Err(error),
            Ok(_) if start.elapsed() > 2 * TARGET && memory_kib > LEAST_MEMORY_KIB => {}
            Ok(_) => {
                let passes = TARGET.as_millis() / start.elapsed().as_millis().max(1);
                let passes = u32::try_from(passes)
                    .unwrap_or(MOST_PASSES)
                    .clamp(1, MOST_PASSES);
                return Ok(Argon2Cost { passes, ..one_pass });
            }
        }
        memory_kib /= 2;
    }
}
