//! Ciphers, derivation and secret types. Knows no offset and does no I/O.
