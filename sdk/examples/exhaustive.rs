//! Runs the functions of the reference arithmetic over all 2^32 inputs and prints the table in `docs/arithmetic.md`.
//!
//!     cargo run --release -p candor-sdk --example exhaustive -- [--threads N] [--stride N] [FUNCTION ...]
//!
//! With no function named, all of them. A stride above 1 looks at runs of 4096 neighbours out of every
//! `N * 4096`, for a quick look. Exits with 1 if a function breaks its promise: at most 2 units in the last place,
//! monotonic where it should be, right zeros and NaNs.

#[path = "../tests/common/accuracy.rs"]
mod accuracy;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use accuracy::{RANKS, Report, SUBJECTS, Subject, measure, measure_nans};

/// Inputs between two looks at the shared counter.
const RUN: u64 = 4096;

fn survey(subject: &Subject, threads: usize, stride: u64) -> Report {
    let next = AtomicU64::new(0);
    let mut total = measure_nans(subject, (1..0x80_0000).step_by(stride as usize));
    thread::scope(|scope| {
        let work = || {
            let mut report = Report::default();
            loop {
                let start = next.fetch_add(RUN * stride, Ordering::Relaxed);
                if start >= RANKS {
                    return report;
                }
                report.merge(&measure(subject, start, (start + RUN).min(RANKS)));
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            total.merge(&worker.join().expect("a worker does not panic"));
        }
    });
    total
}

fn main() -> ExitCode {
    let (mut threads, mut stride, mut names) = (1, 1, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument != "--threads" && argument != "--stride" {
            names.push(argument);
            continue;
        }
        let Some(number) = arguments.next().and_then(|n| n.parse::<u32>().ok()).filter(|&n| n > 0) else {
            eprintln!("{argument} takes a positive number");
            return ExitCode::FAILURE;
        };
        if argument == "--threads" {
            threads = number as usize;
        } else {
            stride = u64::from(number);
        }
    }
    if let Some(unknown) = names.iter().find(|name| SUBJECTS.iter().all(|s| s.name != **name)) {
        eprintln!("no function is called {unknown}");
        return ExitCode::FAILURE;
    }
    println!("| function | inputs | max ulp | at | misrounded | undecided | out of order | wrong | checksum |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut kept = true;
    for subject in SUBJECTS.iter().filter(|s| names.is_empty() || names.iter().any(|name| name == s.name)) {
        let r = survey(subject, threads, stride);
        println!(
            "| {} | {} | {} | {:#010x} | {} | {} | {} | {} | {:016x} |",
            subject.name, r.inputs, r.max_ulp, r.worst, r.misrounded, r.undecided, r.disorder, r.wrong, r.checksum
        );
        kept &= r.max_ulp <= 2 && r.disorder == 0 && r.wrong == 0;
    }
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
