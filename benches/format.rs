//! What each file costs a core beside its blocks: header, state, wrap, names. Prints a table in Markdown.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a measurement that fails has no result

mod timing;

use std::hint::black_box;

use strongroom::crypto::{GcmSiv, Secret, Siv};
use strongroom::format::header::{
    Core, FileKeys, KeyArea, commitment, name_tag, verify_commitment,
};
use strongroom::format::ids::{DirId, FileId, KeyId, VolumeId};
use strongroom::format::names::{EntryClass, classify, open_name, seal_name};
use strongroom::format::record::{Half, Kind, Record};
use strongroom::format::state::{State, StateFlags};
use strongroom::format::suite::{Envelope, Suite};
use strongroom::format::wrap::{self, Purpose, WrapAlgorithm};
use timing::seconds;

const FILE: FileId = FileId([3; 16]);
const DIR: DirId = DirId([4; 16]);
const VOLUME: VolumeId = VolumeId([5; 16]);

fn main() {
    println!("| one core | ns | a second |\n|---|---|---|");
    let (data_key, bind) = (Secret::random(), Secret::random());
    wraps(&data_key);
    header(&data_key, &bind);
    names();
    records();
}

/// What a rotation does to each data key, and what opening a file for the first time does.
fn wraps(data_key: &Secret<32>) {
    let kek = GcmSiv::new(&Secret::random());
    let context = wrap::context(Purpose::DataKey, &VOLUME, Some(&FILE), 0);
    let wrapped = wrap::software_wrap(&kek, &context, data_key);
    measure("wrap a data key", || {
        wrap::software_wrap(&kek, &context, data_key)
    });
    measure("unwrap a data key", || {
        wrap::software_unwrap(&kek, &context, &wrapped).unwrap()
    });
    measure("re-wrap: unwrap and wrap", || {
        let key = wrap::software_unwrap(&kek, &context, &wrapped).unwrap();
        wrap::software_wrap(&kek, &context, &key)
    });
}

fn header(data_key: &Secret<32>, bind: &Secret<32>) {
    for (suite, name) in [(Suite::Gcm, "GCM-SIV"), (Suite::Xts, "XTS")] {
        measure(&format!("derive a file's keys, {name}"), || {
            FileKeys::derive(suite, data_key, bind, &FILE).unwrap()
        });
    }
    let keys = FileKeys::derive(Suite::Gcm, data_key, bind, &FILE).unwrap();
    let mut core = Core {
        suite: Suite::Gcm,
        volume: VOLUME,
        file: FILE,
        commitment: [0; 32],
    };
    core.commitment = commitment(data_key, bind, &core.encode());
    let area = KeyArea {
        sequence: 1,
        envelope: Envelope::Direct,
        algorithm: WrapAlgorithm::AesGcmSiv,
        key_version: 1,
        key_id: KeyId([6; 16]),
        wrapped: vec![7; 60],
    };
    let (core_bytes, area_bytes) = (core.encode(), area.encode(&keys.header, &FILE));
    measure("encode a core with its commitment", || {
        commitment(data_key, bind, &core.encode())
    });
    measure("parse a core and verify its commitment", || {
        let parsed = Core::parse(&core_bytes).unwrap();
        verify_commitment(data_key, bind, &core_bytes).unwrap();
        parsed
    });
    measure("encode a key area", || area.encode(&keys.header, &FILE));
    measure("parse and verify a key area", || {
        KeyArea::verify(&area_bytes, &keys.header, &FILE).unwrap();
        KeyArea::parse(&area_bytes).unwrap()
    });
    let state = State {
        size: 4096,
        flags: StateFlags::default(),
        epoch: 3,
        sequence: 2,
        tags: vec![name_tag(&keys.header, &FILE, &DIR, b"name")],
        ..State::default()
    };
    let state_bytes = state.encode(&keys.header, &FILE);
    measure("encode a state", || state.encode(&keys.header, &FILE));
    measure("parse and verify a state", || {
        State::parse(&state_bytes, &keys.header, &FILE).unwrap()
    });
    measure("tag of a name", || {
        name_tag(&keys.header, &FILE, &DIR, b"a stored name")
    });
}

fn names() {
    let siv = Siv::new(&Secret::random());
    for length in [16, 100, 200] {
        let name = vec![b'n'; length];
        let stored = seal_name(&siv, &DIR, &name);
        let long = stored.long.as_deref();
        measure(&format!("seal a name of {length} bytes"), || {
            seal_name(&siv, &DIR, &name)
        });
        measure(&format!("open a name of {length} bytes"), || {
            open_name(&siv, &DIR, &stored.entry, long).unwrap()
        });
    }
    let stored = seal_name(&siv, &DIR, b"a name");
    measure("classify a stored name", || -> EntryClass {
        classify(&stored.entry)
    });
}

fn records() {
    let half = Half {
        nonce: [1; 12],
        tag: [2; 16],
        slot: 3,
        kind: Kind::Data,
        sequence: 4,
    };
    let record = Record {
        halves: [Some(half), Some(half)],
    };
    let bytes = record.encode();
    measure("encode a record", || record.encode());
    measure("parse a record", || Record::parse(&bytes).unwrap());
}

fn measure<T>(what: &str, mut call: impl FnMut() -> T) {
    let time = seconds(|| {
        black_box(call());
    });
    timing::row(
        what,
        &[format!("{:.0}", time * 1e9), format!("{:.0}", 1.0 / time)],
    );
}
