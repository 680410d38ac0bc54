//! `candor demo`: a whole world on this machine, and what happens in it, told.

pub mod narrator;
