//! One piece of work for each of many items, on several threads where what it waits for serves several at a time.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;

/// Items of some microseconds' work that are worth a thread.
const SHARE: usize = 256;

/// How many threads this machine has for so many items of work that waits for nothing.
pub(crate) fn threads_for(items: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    (items / SHARE).clamp(1, cores)
}

/// The results, in the order of the items. A panic of one is a panic of all.
pub(crate) fn each<T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    if threads <= 1 || items.len() <= 1 {
        return items.iter().map(work).collect();
    }
    let share = items.len().div_ceil(threads);
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = items
            .chunks(share)
            .map(|share| scope.spawn(move || share.iter().map(work).collect::<Vec<_>>()))
            .collect();
        let ended = running.into_iter().map(|thread| thread.join());
        ended
            .flat_map(|results| results.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::each;

    #[test]
    fn keeps_the_order_and_works_at_once() {
        let all_there = Barrier::new(4);
        let items: Vec<_> = (0..4).collect();
        let doubled = each(4, &items, |n| {
            all_there.wait(); // ends only if all four are there together
            2 * n
        });
        assert_eq!(doubled, [0, 2, 4, 6]);
        for (threads, count) in [(3, 10), (16, 5), (1, 5), (4, 0)] {
            let items: Vec<usize> = (0..count).collect();
            assert_eq!(each(threads, &items, |n| *n), items);
        }
    }
}
