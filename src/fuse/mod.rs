//! The fuser adapter: inode numbers, handles, errno, session. Knows no cipher, no key, and not `std::fs`.
