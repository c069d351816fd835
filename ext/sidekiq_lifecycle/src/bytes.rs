//! The bytes of Ruby's strings, whatever their encoding, without a copy.

#![allow(unsafe_code)]

use magnus::RString;

/// Gives the bytes of two strings to `read`, which must not touch Ruby.
pub fn of_two<T>(one: RString, other: RString, read: impl FnOnce(&[u8], &[u8]) -> T) -> T {
    // SAFETY: the caller holds the GVL and keeps both strings on its stack, and `read` calls nothing of Ruby's, so nobody
    // can change or free them before it returns.
    unsafe { read(one.as_slice(), other.as_slice()) }
}
