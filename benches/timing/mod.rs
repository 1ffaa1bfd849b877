//! How long a call takes. For calls that compute: the thread's own time, so that what else runs on the machine counts little.
//! For calls that wait for others: the clock on the wall.
#![allow(dead_code)] // each bench uses a part

#[path = "../../src/cli/bench/clock.rs"]
mod clock;
#[allow(unused_imports)] // its tests run with the library
#[path = "../../src/cli/bench/figures.rs"]
mod figures;
#[path = "../../src/cli/bench/random.rs"]
pub mod random;

use std::time::{Duration, Instant};

use clock::own_time;
use figures::Figures;

const ROUNDS: usize = 25;
const ROUND: Duration = Duration::from_millis(4);

/// The median time of one call, seconds of the thread's own. Looking at that clock costs half a microsecond, so it is done
/// once in many calls.
pub fn seconds(mut call: impl FnMut()) -> f64 {
    let mut timed = |calls: u32| {
        let start = own_time();
        (0..calls).for_each(|_| call());
        own_time() - start
    };
    let mut calls = 1;
    while timed(calls) < ROUND / 2 {
        calls *= 2;
    }
    let rounds = (0..ROUNDS).map(|_| timed(calls).as_secs_f64() / f64::from(calls));
    median(rounds)
}

/// How long this took, seconds on the wall.
pub fn elapsed(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

/// The one in the middle; at least one figure.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values = values.into_iter();
    let first = values.next().expect("figures");
    let mut figures = Figures::of(first);
    values.for_each(|value| figures.add(value));
    figures.median()
}

/// A row of a table in Markdown.
pub fn row(name: &str, cells: &[String]) {
    println!("| {name} | {} |", cells.join(" | "));
}
