//! Places at which the end-to-end tests kill the process, to prove that every step is durable before its effect.
//!
//! `CANDOR_CRASH_AT=<name>` makes a debug build kill itself with SIGKILL at the place of that name: no destructor, no flush, nothing. Release builds
//! contain none of it.

/// Every place, in the order in which a request comes by.
pub const PLACES: [&str; 16] = [
    "seen",              // the request and the cursor are stored
    "inferred-unstored", // the model has run, its output is nowhere
    "inferred",          // the output is stored
    "signed",            // the signature is stored
    "fulfill-stored",    // the transaction is stored, and not sent
    "fulfill-sent",      // it is sent, and its fate unknown
    "fulfill-mined",     // it is in a block, and that is not stored
    "fulfill-recorded",  // that is stored
    "finalize-stored",
    "finalize-sent",
    "finalize-mined",
    "finalize-recorded",
    "payout-stored",
    "payout-sent",
    "payout-mined",
    "payout-recorded",
];

/// The places that an input comes by that is at a URI.
pub const INPUT_PLACES: [&str; 2] = [
    "input-fetched", // it is here, and nowhere stored
    "input-stored",  // the request has it
];

/// The places that a move of a dispute comes by. The tests of disputes go through these.
pub const DISPUTE_PLACES: [&str; 3] = [
    "dispute-stored", // the transaction is stored, and not sent
    "dispute-sent",   // it is sent, and its fate unknown
    "dispute-mined",  // it is in a block, and that is not stored
];

/// Dies here if the tests asked for it.
#[inline]
pub(crate) fn point(place: &str) {
    #[cfg(debug_assertions)]
    {
        let known = PLACES.contains(&place) || INPUT_PLACES.contains(&place) || DISPUTE_PLACES.contains(&place);
        assert!(known, "{place} is not in the list that the tests go through");
        if std::env::var("CANDOR_CRASH_AT").is_ok_and(|wanted| wanted == place) {
            eprintln!("crash point {place}: killing this process");
            let _ = std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
            std::process::abort();
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = place;
}
