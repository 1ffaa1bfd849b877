//! Work that is left, last in first out: so the work of one place is done before more of it is found, and what waits stays
//! bounded by depth and batch, not by the number of files.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::volume::sync::locked;

/// Tasks of any number of workers. It has ended when nothing is left and nobody works.
pub(super) struct Queue<T> {
    left: Mutex<Left<T>>,
    changed: Condvar,
}

struct Left<T> {
    tasks: Vec<T>,
    working: usize,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self {
            left: Mutex::new(Left {
                tasks: Vec::new(),
                working: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Adds tasks; the last one is done first.
    pub(super) fn put(&self, tasks: impl IntoIterator<Item = T>) {
        locked(&self.left).tasks.extend(tasks);
        self.changed.notify_all();
    }

    /// Does tasks until nothing is left.
    pub(super) fn work(&self, mut each: impl FnMut(T)) {
        while let Some(task) = self.take() {
            let _working = Working(self);
            each(task);
        }
    }

    fn take(&self) -> Option<T> {
        let mut left = locked(&self.left);
        loop {
            if let Some(task) = left.tasks.pop() {
                left.working += 1;
                return Some(task);
            }
            if left.working == 0 {
                return None;
            }
            left = self
                .changed
                .wait(left)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Waits until the end, or so long.
    pub(super) fn wait_for_end(&self, at_most: Duration) {
        let left = locked(&self.left);
        let _ = self.changed.wait_timeout_while(left, at_most, |left| {
            left.working > 0 || !left.tasks.is_empty()
        });
    }
}

/// Somebody works; also after a panic nobody waits for ever.
struct Working<'a, T>(&'a Queue<T>);

impl<T> Drop for Working<'_, T> {
    fn drop(&mut self) {
        let mut left = locked(&self.0.left);
        left.working -= 1;
        if left.working == 0 && left.tasks.is_empty() {
            self.0.changed.notify_all();
        }
    }
}
