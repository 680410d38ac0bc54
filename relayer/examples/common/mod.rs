//! What the two training programs and the test of the embedded models share: options, data, a seeded generator, the
//! `sequential` model run by candle, scores, and the files that are written beside a model.
#![allow(dead_code, reason = "each program uses its share of this module")]

pub(crate) mod applicants;
pub(crate) mod dataset;
pub(crate) mod digits;
pub(crate) mod engine;
pub(crate) mod metrics;
pub(crate) mod options;
pub(crate) mod random;
pub(crate) mod report;
pub(crate) mod scores;
pub(crate) mod sequential;
pub(crate) mod unfold;
