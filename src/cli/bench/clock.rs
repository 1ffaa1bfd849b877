//! Time that a thread had a core.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long this thread has computed so far, so that what else runs on the machine counts little.
pub fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
}
