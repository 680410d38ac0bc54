//! Places at which the end-to-end tests kill the process, to prove that every step is durable before its effect.
//!
//! `CANDOR_CRASH_AT=<name>` makes a debug build kill itself with SIGKILL at the place of that name: no destructor, no flush, nothing. Release builds
//! contain none of it.

/// The places on a request's straight way, in the order in which it comes by.
pub const PLACES: [&str; 20] = [
    "opened",            // the database is made, or opened, and knows whose it is
    "led",               // this process holds the submitter's lease
    "seen",              // the request and the cursor are stored
    "claimed",           // so is who works on it
    "inferred-unstored", // the model has run, its output is nowhere
    "inferred",          // the output is stored
    "claimed-again",     // and who is to sign it
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

/// The places off it.
pub const DETOURS: [&str; 12] = [
    "dropped",       // a request is given up
    "rewound",       // what a reorganisation took back is forgotten
    "read-again",    // the cursor is set back, for what an endpoint has left out
    "released",      // a request is free again after a transaction that did not do its work
    "reopened",      // transactions that a reorganisation took back are in flight again
    "bump-stored",   // a dearer transaction is stored, and not sent
    "bump-sent",     // it is sent
    "cancel-stored", // one that does nothing, in the place of one for which nothing is left to do
    "cancel-sent",
    "cancel-mined",
    "nonce-taken", // somebody else's transaction had the nonce, and that is stored
    "left",        // stopped politely: what was claimed is given back
];

/// The places where only several processes come by.
pub const SHARED_PLACES: [&str; 1] = [
    "expired", // what nobody here could answer is given up
];

/// The places that a move of a dispute comes by. The tests of disputes go through these.
pub const DISPUTE_PLACES: [&str; 4] = [
    "dispute-stored",   // the transaction is stored, and not sent
    "dispute-sent",     // it is sent, and its fate unknown
    "dispute-mined",    // it is in a block, and that is not stored
    "dispute-recorded", // that is stored
];

/// Dies here if the tests asked for it.
#[inline]
pub(crate) fn point(place: &str) {
    #[cfg(debug_assertions)]
    {
        let lists = [&PLACES[..], &INPUT_PLACES, &DETOURS, &SHARED_PLACES, &DISPUTE_PLACES];
        let known = lists.iter().any(|list| list.contains(&place));
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
