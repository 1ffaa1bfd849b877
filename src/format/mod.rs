//! The bytes on disk: pure functions over slices. Knows no file descriptor. The byte map stands in `docs/FORMAT.md`.

pub mod ids;
