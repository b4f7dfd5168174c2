//! The protocol of the benchmark's contenders: one command a line on stdin, one line of JSON back.
//!
//! `run MODE COUNT PROGRAM` spawns PROGRAM (a path, to the end of the line) COUNT times, one at a time, and answers
//! `{"ns": [...], "wall_ns": w, "cpu_ns": c}`: every sample, the whole round, and the CPU time of this process and of
//! the children it reaped. MODE many/N captures COUNT children, N at a time, and its sample is the time per child. What it does not know it answers with `{"error": "why"}`. The end of stdin ends it.

use std::io::{self, BufRead, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What a contender gives back for one round: a sample in nanoseconds for each spawn.
pub type Round = Result<Vec<u64>, String>;

#[cfg(target_os = "linux")]
extern "C" {
    fn getrusage(who: i32, usage: *mut i64) -> i32;
}

/// CPU time of this process and of its reaped children in nanoseconds; 0 where it is not known.
#[cfg(target_os = "linux")]
fn cpu_time() -> u64 {
    // struct rusage starts with two timevals (user, system); 32 words are more than all of it.
    let mut total = 0;
    for who in [0, -1] {
        let mut usage = [0i64; 32];
        if unsafe { getrusage(who, usage.as_mut_ptr()) } == 0 {
            total += (usage[0] + usage[2]) * 1_000_000_000 + (usage[1] + usage[3]) * 1_000;
        }
    }
    total as u64
}

#[cfg(not(target_os = "linux"))]
fn cpu_time() -> u64 {
    0
}

/// Times `count` calls of `spawn`, which must spawn, wait and check. The first failure ends the round.
#[allow(dead_code)]
pub fn timed<E: std::fmt::Display>(count: usize, mut spawn: impl FnMut() -> Result<(), E>) -> Round {
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        spawn().map_err(|error| error.to_string())?;
        samples.push(start.elapsed().as_nanos() as u64);
    }
    Ok(samples)
}

/// `count` calls of `spawn` on `threads` threads; one sample, the time per child.
#[allow(dead_code)]
pub fn threaded<E: std::fmt::Display>(threads: usize, count: usize, spawn: impl Fn() -> Result<(), E> + Sync) -> Round {
    let left = AtomicUsize::new(0);
    let start = Instant::now();
    let failed = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    while left.fetch_add(1, Ordering::Relaxed) < count {
                        spawn().map_err(|error| error.to_string())?;
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().map(|one| one.join().expect("no worker panics")).find(Result::is_err)
    });
    match failed {
        Some(Err(why)) => Err(why),
        _ => Ok(vec![(start.elapsed().as_nanos() / count as u128) as u64]),
    }
}

/// The number in `many/NUMBER`.
#[allow(dead_code)]
pub fn at_once(mode: &str) -> Option<usize> {
    mode.strip_prefix("many/")?.parse().ok().filter(|number| *number > 0)
}

/// Answers one command line.
fn answer(line: &str, round: &mut impl FnMut(&str, usize, &str) -> Round) -> Result<String, String> {
    let mut words = line.splitn(4, ' ');
    let (command, mode, count, program) = (words.next(), words.next(), words.next(), words.next());
    let (Some("run"), Some(mode), Some(count), Some(program)) = (command, mode, count, program) else {
        return Err("command: run MODE COUNT PROGRAM".into());
    };
    let count: usize = count.parse().map_err(|_| "the count is not a number".to_string())?;
    let (cpu, start) = (cpu_time(), Instant::now());
    let samples = round(mode, count, program)?;
    let (wall, cpu) = (start.elapsed().as_nanos(), cpu_time() - cpu);
    let samples: Vec<String> = samples.iter().map(u64::to_string).collect();
    Ok(format!("{{\"ns\": [{}], \"wall_ns\": {wall}, \"cpu_ns\": {cpu}}}", samples.join(", ")))
}

/// Serves commands until stdin ends. `round(mode, count, program)` does the spawning.
pub fn serve(mut round: impl FnMut(&str, usize, &str) -> Round) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let reply = answer(line?.trim_end(), &mut round)
            .unwrap_or_else(|why| format!("{{\"error\": \"{}\"}}", why.replace(['"', '\\', '\n'], " ")));
        let mut out = io::stdout().lock();
        writeln!(out, "{reply}")?;
        out.flush()?;
    }
    Ok(())
}
