//! Brings a serving thread to the processor of the program that it serves.
//!
//! A program that waits for each answer before it asks again never runs at the same time as the thread that serves it. On
//! another processor, which sleeps meanwhile, that thread has to be woken for each request, and the program for each answer: in
//! a virtual machine 100 µs for what takes 10 on the same one (docs/PERFORMANCE.md). Linux wakes a thread where it ran last,
//! so one that was elsewhere once stays there. It is moved here, not bound: where it goes from there is the scheduler's.
//!
//! What is known is each thread's own: one that serves several programs by turns stays where it is.

use std::cell::Cell;
use std::num::NonZero;
use std::sync::LazyLock;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Requests of one program in a row after which a thread looks where that runs: a look takes 8 µs.
const ROW: u32 = 32;
/// The same, at most, where programs do not stay with a thread that came to them.
const LONGEST_ROW: u32 = 4096;
/// Bytes of content from which waking does not count beside the work, and it is better that both run at a time.
const LARGE: usize = 64 << 10;
/// Where /proc/PID/stat has the processor, in fields after the name (proc_pid_stat(5), field 39).
const PROCESSOR: usize = 36;

static SEVERAL: LazyLock<bool> = LazyLock::new(|| {
    std::thread::available_parallelism().is_ok_and(|many| many > NonZero::<usize>::MIN)
});

thread_local! {
    static SERVED: Cell<Served> = const { Cell::new(Served::NONE) };
}

/// Before this thread serves a request of a thread (its id, as the kernel has it in requests) with so many bytes of content.
pub(super) fn come_to(program: u32, content: usize) {
    let mut served = SERVED.get();
    if *SEVERAL && served.is_time(program, content) {
        served.looked(visit(program));
    }
    SERVED.set(served);
}

/// Whom a thread served last.
#[derive(Clone, Copy)]
struct Served {
    program: u32,
    /// Its requests in a row.
    row: u32,
    /// Requests in a row before the next look.
    until: u32,
}

/// Where a program was when it was looked for.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Here,
    /// Elsewhere; this thread went there.
    There,
    /// Not to be found, or where this thread must not go.
    Nowhere,
}

impl Served {
    const NONE: Self = Self {
        program: 0,
        row: 0,
        until: ROW,
    };

    fn is_time(&mut self, program: u32, content: usize) -> bool {
        if self.program != program {
            *self = Self {
                program,
                ..Self::NONE
            };
            return false;
        }
        if content >= LARGE {
            self.row = 0;
            return false;
        }
        self.row += 1;
        self.row >= self.until
    }

    fn looked(&mut self, found: Found) {
        self.row = 0;
        self.until = match found {
            Found::Here => ROW,
            Found::There | Found::Nowhere => LONGEST_ROW.min(2 * self.until),
        };
    }
}

/// Goes to the processor on which a thread runs, or ran last.
fn visit(program: u32) -> Found {
    let Some(processor) = processor_of(program) else {
        return Found::Nowhere;
    };
    if processor == sched_getcpu() {
        return Found::Here;
    }
    match Bound::to(processor) {
        Some(_bound) => Found::There,
        None => Found::Nowhere,
    }
}

/// This thread while it may run on one processor only.
struct Bound {
    allowed: CpuSet,
}

impl Bound {
    /// `None`: it must not run there.
    fn to(processor: usize) -> Option<Self> {
        let allowed = sched_getaffinity(None).ok()?;
        if processor >= CpuSet::MAX_CPU || !allowed.is_set(processor) {
            return None;
        }
        let mut only = CpuSet::new();
        only.set(processor);
        sched_setaffinity(None, &only).ok()?;
        Some(Self { allowed })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(error) = sched_setaffinity(None, &self.allowed) {
            tracing::warn!("a serving thread is bound to one processor now: {error}");
        }
    }
}

fn processor_of(thread: u32) -> Option<usize> {
    let path = format!("/proc/{thread}/stat");
    let file =
        rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut line = [0; 1024];
    let len = rustix::io::read(&file, &mut line).ok()?;
    let line = line.get(..len)?;
    let name_end = line.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(line.get(name_end + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(PROCESSOR)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn row(served: &mut Served, program: u32, content: usize, requests: u32) -> usize {
        (0..requests)
            .filter(|_| {
                let is_time = served.is_time(program, content);
                if is_time {
                    served.looked(Found::Here);
                }
                is_time
            })
            .count()
    }

    #[test]
    fn one_program_is_looked_for_every_so_many_requests() {
        let mut served = Served::NONE;
        assert_eq!(
            row(&mut served, 7, 4096, ROW),
            0,
            "the first begins the row"
        );
        assert_eq!(row(&mut served, 7, 4096, 10 * ROW), 10);
    }

    #[test]
    fn programs_by_turns_are_not_looked_for_nor_who_moves_much_at_a_time() {
        let mut served = Served::NONE;
        for _ in 0..100 {
            assert_eq!(row(&mut served, 7, 0, ROW), 0);
            assert_eq!(row(&mut served, 8, 0, ROW), 0);
            assert_eq!(row(&mut served, 8, LARGE, ROW), 0);
        }
    }

    #[test]
    fn a_program_that_does_not_stay_is_looked_for_ever_less() {
        let mut served = Served::NONE;
        let mut requests = Vec::new();
        for _ in 0..12 {
            let mut count = 1;
            while !served.is_time(7, 0) {
                count += 1;
            }
            served.looked(Found::There);
            requests.push(count);
        }
        let doubled = requests.windows(2).skip(1);
        assert!(
            doubled
                .clone()
                .all(|pair| pair[1] == pair[0] * 2 || pair[1] == LONGEST_ROW)
        );
        assert_eq!(requests.last(), Some(&LONGEST_ROW));
        served.looked(Found::Here);
        assert_eq!(
            served.until, ROW,
            "one that stayed is looked for as in the beginning"
        );
    }

    #[test]
    fn what_one_program_did_does_not_count_against_the_next() {
        let mut served = Served::NONE;
        for _ in 0..12 {
            served.looked(Found::Nowhere);
        }
        assert_eq!(row(&mut served, 8, 0, ROW + 1), 1);
    }

    /// One on each of two processors: who is with one of them must go to come to the other.
    #[test]
    fn a_thread_moves_between_programs_on_two_processors() {
        let all = allowed();
        let [first, second, ..] = all.as_slice() else {
            panic!("this needs two processors")
        };
        let went = beside(*first, |one| {
            beside(*second, |other| {
                let visits = [one, other].into_iter().cycle().take(1000).map(visit);
                visits.filter(|found| *found == Found::There).count()
            })
        });
        assert!(went > 0, "always where each program was, a thousand times");
        assert_eq!(allowed(), all);
    }

    /// Runs `with` a thread that waits on this processor.
    fn beside<T>(processor: usize, with: impl FnOnce(u32) -> T) -> T {
        let (say, said) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                let _bound = Bound::to(processor).unwrap();
                let id = rustix::thread::gettid().as_raw_nonzero().get();
                say.send(id.unsigned_abs()).unwrap();
                let _ = ended.recv();
            });
            let done = with(said.recv().unwrap());
            drop(end);
            done
        })
    }

    fn allowed() -> Vec<usize> {
        let set = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU)
            .filter(|cpu| set.is_set(*cpu))
            .collect()
    }

    #[test]
    fn a_thread_goes_where_the_program_is_and_stays_free_to_go() {
        let all = allowed();
        assert!(all.len() > 1, "this needs two processors");
        for processor in &all {
            let bound = Bound::to(*processor).unwrap();
            assert_eq!((sched_getcpu(), allowed()), (*processor, vec![*processor]));
            drop(bound);
            beside(*processor, |program| {
                assert_eq!(processor_of(program), Some(*processor));
                assert_ne!(visit(program), Found::Nowhere);
                assert_eq!(allowed(), all);
            });
        }
    }

    #[test]
    fn a_thread_that_is_kept_to_some_processors_does_not_leave_them() {
        let all = allowed();
        let [first, second, ..] = all.as_slice() else {
            panic!("this needs two processors")
        };
        beside(*second, |program| {
            let _bound = Bound::to(*first).unwrap();
            assert_eq!(visit(program), Found::Nowhere);
            assert_eq!(allowed(), [*first]);
        });
        assert_eq!(visit(u32::MAX), Found::Nowhere, "no such thread");
    }
}
