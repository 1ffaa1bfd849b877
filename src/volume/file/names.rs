//! The names a file is known by in this mount, for its name tags. Memory only; the tree tells of every change before and
//! after it. Invariant: settling gets names only while no change is under way, so that the tag of a name that exists is
//! never dropped.

use crate::volume::file::body::{Names, Place};

#[derive(Debug)]
pub(super) struct KnownNames {
    here: Place,
    known: Vec<Place>,
    gone: Vec<Place>,
    /// Names that are about to appear or to go.
    moving: Vec<Place>,
    changes: u64,
}

/// Names as of one moment.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) names: Names,
    changes: u64,
}

impl KnownNames {
    pub(super) fn new(here: Place) -> Self {
        Self {
            known: vec![here.clone()],
            here,
            gone: Vec::new(),
            moving: Vec::new(),
            changes: 0,
        }
    }

    /// Whether no name went that is known.
    pub(super) fn lost_none(&self) -> bool {
        self.gone.is_empty()
    }

    pub(super) fn here(&self) -> &Place {
        &self.here
    }

    /// Whether the file is known to have this name.
    pub(super) fn knows(&self, place: &Place) -> bool {
        self.known.contains(place)
    }

    /// It was found under this name.
    pub(super) fn seen(&mut self, place: &Place) {
        if !self.known.contains(place) {
            self.changes += 1;
            if self.known.is_empty() {
                self.here = place.clone();
            }
            self.known.push(place.clone());
            self.gone.retain(|gone| gone != place);
        }
    }

    /// A directory change with this name begins.
    pub(super) fn moving(&mut self, place: &Place) {
        self.changes += 1;
        self.moving.push(place.clone());
    }

    /// It ended; the file has the name.
    pub(super) fn is(&mut self, place: &Place) {
        self.ended(place);
        self.seen(place);
        self.here = place.clone();
    }

    /// It ended; the file does not have the name.
    pub(super) fn gone(&mut self, place: &Place) {
        self.ended(place);
        self.known.retain(|known| known != place);
        if !self.gone.contains(place) {
            self.gone.push(place.clone());
        }
        if self.here == *place
            && let Some(other) = self.known.last()
        {
            self.here = other.clone();
        }
    }

    fn ended(&mut self, place: &Place) {
        self.changes += 1;
        if let Some(at) = self.moving.iter().position(|moving| moving == place) {
            self.moving.swap_remove(at);
        }
    }

    /// Every name that a new header must have a tag for: those it has and those about to appear.
    pub(super) fn for_header(&self) -> Vec<Place> {
        let mut places = self.known.clone();
        places.extend(
            self.moving
                .iter()
                .filter(|moving| !self.known.contains(moving))
                .cloned(),
        );
        places
    }

    /// For settling; `None` while a change is under way. Where the one name that is left is not the one that is known,
    /// this says that there are more, so that no tag is dropped but those of names that went.
    pub(super) fn capture(&self, links: u64) -> Option<Captured> {
        if !self.moving.is_empty() {
            return None;
        }
        let only_here = self.known.iter().eq([&self.here]);
        let links = if only_here { links } else { links.max(2) };
        let names = Names {
            links,
            here: self.here.clone(),
            gone: self.gone.clone(),
        };
        Some(Captured {
            names,
            changes: self.changes,
        })
    }

    /// Whether nothing changed since.
    pub(super) fn still(&self, captured: &Captured) -> bool {
        self.changes == captured.changes
    }

    /// The tags of the captured gone names were dropped.
    pub(super) fn dropped(&mut self, captured: &Captured) {
        self.gone
            .retain(|place| !captured.names.gone.contains(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::DirId;

    fn place(name: &str) -> Place {
        Place {
            dir: DirId([0; 16]),
            stored: name.into(),
        }
    }

    #[test]
    fn gives_no_names_to_settling_while_one_is_moving() {
        let mut names = KnownNames::new(place("a"));
        assert!(names.capture(1).is_some());
        names.moving(&place("b"));
        assert!(names.capture(1).is_none());
        names.is(&place("b"));
        let between = names.capture(1).unwrap();
        assert_eq!(between.names.links, 2, "a is not known to be gone yet");
        names.gone(&place("a"));
        let captured = names.capture(1).unwrap();
        assert_eq!(
            (captured.names.here.clone(), captured.names.gone.clone()),
            (place("b"), vec![place("a")])
        );
        names.moving(&place("b"));
        assert!(!names.still(&captured));
    }

    #[test]
    fn drops_no_unknown_tag_when_all_known_names_went() {
        let mut names = KnownNames::new(place("a"));
        names.moving(&place("a"));
        names.gone(&place("a"));
        assert_eq!(names.capture(1).unwrap().names.links, 2);
        names.seen(&place("b"));
        assert_eq!(names.capture(1).unwrap().names.links, 1);
    }

    #[test]
    fn a_name_that_comes_back_is_not_gone() {
        let mut names = KnownNames::new(place("a"));
        names.moving(&place("b"));
        names.is(&place("b"));
        names.gone(&place("a"));
        names.moving(&place("a"));
        names.is(&place("a"));
        names.gone(&place("b"));
        let captured = names.capture(1).unwrap();
        assert_eq!(
            (captured.names.here, captured.names.gone),
            (place("a"), vec![place("b")])
        );
    }

    #[test]
    fn a_link_that_failed_leaves_its_tag_to_be_dropped() {
        let mut names = KnownNames::new(place("a"));
        names.moving(&place("b"));
        assert_eq!(names.for_header(), [place("a"), place("b")]);
        names.gone(&place("b"));
        let captured = names.capture(1).unwrap();
        assert_eq!(
            (captured.names.here, captured.names.gone),
            (place("a"), vec![place("b")])
        );
    }
}
