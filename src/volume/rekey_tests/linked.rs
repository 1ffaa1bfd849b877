//! Files with several names, some of which go while a rotation walks.

use std::collections::HashSet;
use std::sync::Mutex;

use super::*;
use crate::volume::sync::locked;

/// What a walk has seen under a name that went before it came to the file is not taken for done under the others.
#[test]
fn a_file_whose_listed_name_goes_is_met_again_under_the_next() {
    let keys = Homes::new().first;
    let setup = Setup::new(Suite::Gcm, &keys, None);
    let volume = setup.open(only(&keys)).unwrap();
    let root = volume.root();
    let (node, _) = volume.lookup(&root, name(0).as_bytes()).unwrap();
    volume.link(&node, &root, b"second").unwrap();
    volume.close().unwrap();
    drop((node, root, volume));

    let volume = setup.open(only(&keys)).unwrap();
    let root = volume.root();
    let (node, _) = volume.lookup(&root, name(0).as_bytes()).unwrap();
    let seen = Mutex::new(HashSet::from([node.id()]));
    let nodes = [Arc::clone(&node)];
    assert_eq!(volume.states(&nodes, &seen).unwrap().len(), 1);
    assert!(locked(&seen).contains(&node.id()));

    volume.unlink(&root, name(0).as_bytes()).unwrap();
    assert_eq!(volume.states(&nodes, &seen).unwrap().len(), 0);
    assert!(!locked(&seen).contains(&node.id()));
    let (same, _) = volume.lookup(&root, b"second").unwrap();
    assert_eq!(same.id(), node.id());
    assert_eq!(volume.states(&nodes, &seen).unwrap().len(), 1);
    volume.close().unwrap();
}
