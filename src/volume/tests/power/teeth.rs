//! Each rule, broken in the real code, is found out by the scripts of this folder.

use crate::broken::{Rule, breaking};

use super::anew::files_anew;
use super::copied;
use super::scripts::{contents, keys, names};
use super::session::{Counts, both, exhaust};
use super::{Setup, failing, full, keystore, random};

/// Tries the scripts of one kind, then random ones, until one fails; the sentence it failed with.
fn found(rule: Rule) -> Option<String> {
    use Rule::*;
    let torn = Setup {
        whole_pages: false,
        ..Setup::GCM
    };
    if matches!(
        rule,
        RedoUnsynced | RedoEarly | RedoIgnored | RedoForgotten | RedoDropped
    ) {
        return (0..400).find_map(|seed| full::run(full::TORN, seed, 50).err());
    }
    if rule == LostSlotKept {
        return full::cut_full(Setup::GCM).err();
    }
    if rule == CleanUnearned {
        return (0..60).find_map(|seed| failing::fail_unmount(Setup::GCM, seed).err());
    }
    let scripts = match rule {
        KeystoreUnsynced | KeystoreNameUnsynced => {
            return keystore::both_journals(1).err();
        }
        CopyUnsynced | CopyEarly | ShareForgotten => return copied::each_way(1).err(),
        AnewUnsynced | AnewNameUnsynced => files_anew(),
        RewrapUnsynced | VolumeFileUnsynced | EpochNotWritten | CleanUnsynced => keys(),
        ReplaceUnsynced | TagUnsynced | SideFileUnsynced | NoDirFile | DirFileUnsynced
        | NoMarker | MarkerIgnored | PurgeUnsynced | NamesUnsynced => names(),
        _ => contents(),
    };
    let setup = match rule {
        NotMoved | MoveUnsynced => torn,
        NamesUnsynced => Setup::FILE_SYNCS,
        _ => Setup::GCM,
    };
    if matches!(rule, CacheTrusted | NotRewritten) {
        let runs = (0..60).map(|seed| failing::fail(Setup::GCM, seed, rule == CacheTrusted));
        if let Some(error) = runs.filter_map(Result::err).next() {
            return Some(error);
        }
    }
    for (_, before, script) in &scripts {
        for setup in both(setup) {
            if let Err(error) = exhaust(setup, 1, 6, before, script) {
                return Some(error);
            }
        }
    }
    // What takes a failed sync, a kill, or a write into a running sync.
    let mut counts = Counts::default();
    for seed in 0..400 {
        let setup = if seed % 2 == 0 { Setup::GCM } else { torn };
        match random::run(setup, seed, 50) {
            Ok(ran) => counts.add(ran),
            Err(error) => return Some(error),
        }
    }
    println!("{rule:?}: {counts:?}");
    None
}

fn is_found(rule: Rule) {
    // A panic is no verdict: it fails the test.
    let verdict = breaking(rule, || found(rule));
    let verdict = verdict.unwrap_or_else(|| panic!("{rule:?} was broken and nothing noticed"));
    println!("{rule:?}: {verdict}");
    let crashed = ["power cut", "killed", "a sync failed", "the keystore"];
    assert!(
        crashed.iter().any(|what| verdict.contains(what)),
        "{rule:?} was found without a crash: {verdict}"
    );
}

macro_rules! teeth {
    ($($name:ident: $rule:ident,)*) => {
        $(#[test] fn $name() { is_found(Rule::$rule); })*
    };
}

teeth! {
    a_record_written_over_the_durable_half: HalfInPlace,
    a_slot_of_a_durable_version_taken_again: SlotReused,
    a_write_in_place_without_its_sync: InPlaceUnsynced,
    a_second_write_in_place: InPlaceTwice,
    a_block_written_while_a_sync_ran_beside: BesideAll,
    shrinking_before_the_size_is_durable: ShrinkUnsynced,
    cutting_before_moved_blocks_are_durable: MoveUnsynced,
    blocks_left_in_slots_past_the_end: NotMoved,
    records_left_past_the_end: RecordsKept,
    the_older_half_ignored: NoOlderHalf,
    no_zeros_between_two_sizes: NoZeros,
    a_file_in_doubt_not_mended: NotMended,
    a_cache_that_is_trusted: CacheTrusted,
    nothing_written_again_after_a_failed_sync: NotRewritten,
    settling_without_the_first_sync: SettleUnsynced,
    settling_without_the_second_sync: StateUnsynced,
    a_clean_mark_before_all_is_durable: CleanUnsynced,
    a_clean_mark_after_a_failed_sync: CleanUnearned,
    a_pass_that_ignores_what_was_written_meanwhile: MarkIgnored,
    an_epoch_that_is_not_written: EpochNotWritten,
    an_old_key_area_zeroed_early: RewrapUnsynced,
    headers_ahead_of_the_volume_file: VolumeFileUnsynced,
    small_files_renamed_unsynced: ReplaceUnsynced,
    a_name_before_its_tag: TagUnsynced,
    a_long_name_before_its_side_file: SideFileUnsynced,
    a_directory_renamed_without_its_file: NoDirFile,
    a_directory_renamed_before_its_file_is_durable: DirFileUnsynced,
    a_directory_renamed_without_a_marker: NoMarker,
    a_marker_ignored: MarkerIgnored,
    a_directory_emptied_before_it_is_hidden: PurgeUnsynced,
    tags_dropped_before_their_names: NamesUnsynced,
    a_file_anew_that_is_not_durable: AnewUnsynced,
    a_file_anew_whose_name_is_not_durable: AnewNameUnsynced,
    a_copy_that_is_a_volume_before_it_is_durable: CopyUnsynced,
    a_copy_that_is_a_volume_without_a_mount_file: CopyEarly,
    a_copy_that_forgets_a_failed_sync: ShareForgotten,
    a_block_left_where_its_file_is_cut: LostSlotKept,
    a_block_written_over_before_its_copy_is_durable: RedoUnsynced,
    a_copy_dropped_before_its_block_is_durable: RedoEarly,
    copies_that_nobody_looks_at: RedoIgnored,
    copies_of_the_mount_before_written_over: RedoForgotten,
    copies_of_the_mount_before_dropped_with_others: RedoDropped,
    an_fsync_that_does_nothing: FsyncIgnored,
    a_keystore_renamed_unsynced: KeystoreUnsynced,
    a_keystore_whose_directory_is_not_synced: KeystoreNameUnsynced,
}
