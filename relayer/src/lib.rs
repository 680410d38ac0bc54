//! The Candor relayer.
