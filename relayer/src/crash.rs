//! Places at which the end-to-end tests kill the process, to prove that every step is durable before its effect.
//!
//! `CANDOR_CRASH_AT=<name>` makes a debug build kill itself with SIGKILL at the place of that name: no destructor, no flush, nothing. Release builds
//! contain none of it.

/// Dies here if the tests asked for it.
#[inline]
pub(crate) fn point(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var("CANDOR_CRASH_AT").is_ok_and(|wanted| wanted == name) {
        eprintln!("crash point {name}: killing this process");
        let _ = std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
