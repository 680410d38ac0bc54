//! Puts the whole system on a chain.
