//! Every move of a volume from one home of its key to another, in both envelopes, while programs write, and with kills on
//! the way: nothing is lost, and after each move no header is left under the former key.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has failed, as it should

mod support;

#[path = "moves/chain.rs"]
mod chain;
#[path = "moves/load.rs"]
mod load;
#[path = "moves/vault.rs"]
mod vault;

use std::time::Duration;

use load::Load;
use support::tokens::{KINDS, Kind, TestToken};
use vault::{Home, Kill, Vault};

const FILES: usize = 1_000;
/// Moves that a kill interrupted, at least.
const KILLS: usize = 10;

/// The keystore and the tokens with AES-GCM in both envelopes, the others with volume keys.
fn homes(tokens: &[TestToken]) -> Vec<Home<'_>> {
    let mut homes = vec![Home::keystore("direct"), Home::keystore("volume")];
    for token in tokens {
        if !matches!(token.kind, Kind::Tpm | Kind::OpenCryptoki) {
            homes.push(Home::token(token, "direct"));
        }
        homes.push(Home::token(token, "volume"));
    }
    homes
}

#[test]
fn a_volume_moves_between_all_homes_under_load_and_kills() {
    let tokens: Vec<_> = KINDS.map(TestToken::start).into();
    let homes = homes(&tokens);
    let mut vault = Vault::new(&tokens, &homes[0]);
    vault.mount();
    vault.fill(FILES);
    let route = chain::every_ordered_pair(homes.len());
    assert_eq!(route.len(), homes.len() * (homes.len() - 1));
    let load = Load::below(&vault.mnt());
    let mut dice = chain::Dice::new();
    let (mut killed, mut walk) = (0, Duration::from_millis(500));
    std::thread::scope(|scope| {
        let stopped = load.run(scope);
        for (number, (from, to)) in route.iter().enumerate() {
            let (from, to) = (&homes[*from], &homes[*to]);
            println!("move {number}: {from} -> {to}");
            vault.assert_is_at(from);
            let unmounted = number % 15 == 7;
            if unmounted {
                load.pause();
                vault.unmount();
            }
            if number % 4 == 1 {
                let kill = if number % 16 == 1 && !from.dies_in_login() && !to.dies_in_login() {
                    Kill::Begun(dice.below(Duration::from_millis(300)))
                } else {
                    Kill::Walking(dice.below(walk / 2))
                };
                killed += usize::from(vault.move_and_kill(to, kill, unmounted, &load));
            }
            walk = vault.move_to(to, unmounted).min(Duration::from_secs(2));
            if unmounted {
                vault.mount();
                load.go_on();
            }
            vault.assert_is_at(to);
            vault.assert_whole(FILES);
            load.assert_whole();
        }
        drop(stopped);
    });
    assert!(killed >= KILLS, "only {killed} kills left a move to finish");
    vault.unmount();
    vault.mount();
    vault.assert_whole(FILES);
    load.assert_whole();
    vault.assert_exports(FILES);
    vault.unmount();
}
