//! Two sides in turns, and the table that they fill: of each side the best turn, their ratio, and of the ratios of neighbouring
//! turns the least, the middle and the greatest. On a quiet machine they agree; on a busy one the first says what the code can
//! do, the others what the neighbours did.

use std::time::{Duration, Instant};

/// Shortest sample.
const SAMPLE: Duration = Duration::from_millis(2);
/// Fewest and most turns of a side.
const TURNS: std::ops::RangeInclusive<usize> = 5..=41;
/// How long a line may take once it has its fewest turns.
const LINE: Duration = Duration::from_millis(900);

/// Which lines are wanted.
pub(crate) struct Table {
    filter: Vec<String>,
    threads: usize,
}

/// Seconds of the best turn.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
}

impl Table {
    pub(crate) fn new(filter: Vec<String>) -> Self {
        Self { filter, threads: rayon::current_num_threads() }
    }

    pub(crate) fn head() {
        println!("| what | threads | ours | other | other / ours | least | middle | most | note |");
        println!("|---|---|---|---|---|---|---|---|---|");
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.filter.iter().all(|part| name.contains(part.as_str()))
    }

    /// Whether a section that uses these words may have a line that is wanted: else it need not load its models.
    pub(crate) fn may_want(&self, words: &str) -> bool {
        let known = |word: &str| word.starts_with(|c: char| c.is_ascii_digit()) || words.contains(word);
        self.filter.iter().all(|part| part.split([' ', ',']).all(known))
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Times both in turns and prints a line, unless it is not wanted.
    pub(crate) fn pair(&self, name: &str, ours: impl FnMut(), theirs: impl FnMut()) {
        self.pair_noted(name, ours, theirs, |_| String::new());
    }

    /// The same with a note.
    pub(crate) fn pair_noted(
        &self,
        name: &str,
        mut ours: impl FnMut(),
        mut theirs: impl FnMut(),
        note: impl FnOnce(Pair) -> String,
    ) {
        if !self.wants(name) {
            return;
        }
        let calls = [calibrate(&mut ours), calibrate(&mut theirs)];
        let (mut samples, started) = (Vec::new(), Instant::now());
        while samples.len() < *TURNS.start() || samples.len() < *TURNS.end() && started.elapsed() < LINE {
            // Who goes first changes, so that neither always finds the cache as the other left it.
            let (a, b);
            if samples.len() % 2 == 0 {
                (a, b) = (sample(&mut ours, calls[0]), sample(&mut theirs, calls[1]));
            } else {
                (b, a) = (sample(&mut theirs, calls[1]), sample(&mut ours, calls[0]));
            }
            samples.push((a, b));
        }
        let best = |side: fn(&(f64, f64)) -> f64| samples.iter().map(side).fold(f64::INFINITY, f64::min);
        let pair = Pair { ours: best(|pair| pair.0), theirs: best(|pair| pair.1) };
        let mut ratios: Vec<f64> = samples.iter().map(|pair| pair.1 / pair.0).collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "| {name} | {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {} |",
            self.threads,
            time(pair.ours),
            time(pair.theirs),
            pair.theirs / pair.ours,
            ratios[0],
            ratios[ratios.len() / 2],
            ratios[ratios.len() - 1],
            note(pair),
        );
    }

    /// A line of what is no contest.
    pub(crate) fn line(&self, name: &str, ours: &str, other: &str, note: &str) {
        if self.wants(name) {
            println!("| {name} | {} | {ours} | {other} | | | | | {note} |", self.threads);
        }
    }
}

/// The shortest of a few runs, in seconds.
pub(crate) fn best(turns: usize, mut f: impl FnMut()) -> f64 {
    f();
    (0..turns).map(|_| sample(&mut f, 1)).fold(f64::INFINITY, f64::min)
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s => format!("{:.2} ms", s * 1e3),
    }
}

/// How many calls fill a sample.
fn calibrate(f: &mut impl FnMut()) -> u32 {
    f();
    let mut calls = 1;
    while sample(f, calls) * f64::from(calls) < SAMPLE.as_secs_f64() {
        calls *= 2;
    }
    calls
}

/// Seconds per call: on the clock, or of processor time if `ENGINE_BENCH_CPU` is set, which on one thread of a busy machine
/// leaves the neighbours out.
fn sample(f: &mut impl FnMut(), calls: u32) -> f64 {
    let now = || match std::env::var_os("ENGINE_BENCH_CPU") {
        None => Now::Clock(Instant::now()),
        Some(_) => Now::Processor(processor_time()),
    };
    let start = now();
    for _ in 0..calls {
        f();
    }
    let seconds = match start {
        Now::Clock(start) => start.elapsed().as_secs_f64(),
        Now::Processor(start) => processor_time() - start,
    };
    seconds / f64::from(calls)
}

enum Now {
    Clock(Instant),
    Processor(f64),
}

/// Seconds that all threads of this process have run.
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time into a local.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Numbers from -1 to 1.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
