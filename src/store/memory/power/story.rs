//! What happened to the stores of one thread, in words: for a failure that a seed repeats.

use std::cell::RefCell;
use std::collections::VecDeque;

/// The last lines, and how many are kept.
struct Story {
    lines: VecDeque<String>,
    kept: usize,
}

thread_local!(static STORY: RefCell<Option<Story>> = const { RefCell::new(None) });

pub(super) fn tell(line: impl FnOnce() -> String) {
    STORY.with_borrow_mut(|story| {
        if let Some(Story { lines, kept }) = story {
            if lines.len() == *kept {
                lines.pop_front();
            }
            lines.push_back(line());
        }
    });
}

/// The last `kept` changes, syncs and cuts that this thread made while `work` ran.
pub(crate) fn told(kept: usize, work: impl FnOnce()) -> Vec<String> {
    let lines = VecDeque::new();
    STORY.set(Some(Story { lines, kept }));
    work();
    STORY.take().map_or(Vec::new(), |story| story.lines.into())
}
