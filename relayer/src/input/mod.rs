//! What people have at hand, made into the bytes that a model takes: a picture, or a loan application in words; and real inputs that no
//! model was trained on.

pub mod applicant;
pub mod heldout;
pub mod picture;
