//! What people have at hand, made into the bytes that a model takes: a picture, or a loan application in words.

pub mod applicant;
pub mod picture;
