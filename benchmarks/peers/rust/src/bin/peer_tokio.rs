//! tokio: `current/...` on its current-thread runtime, `multi/...` on its multi-thread one; `status` or `output` each.

#[path = "../server.rs"]
mod server;

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;
use tokio::process::Command;
use tokio::runtime::{Builder, Runtime};

async fn round(capture: bool, count: usize, program: &str) -> server::Round {
    let mut samples = Vec::with_capacity(count);
    let mut command = Command::new(program);
    command.stdin(Stdio::inherit());
    for _ in 0..count {
        let start = Instant::now();
        let status = if capture {
            command.output().await.map(|output| output.status)
        } else {
            command.status().await
        };
        let status = status.map_err(|error| error.to_string())?;
        samples.push(start.elapsed().as_nanos() as u64);
        if !status.success() {
            return Err(status.to_string());
        }
    }
    Ok(samples)
}

/// `at_once` tasks, each of which spawns one after the other until all are done.
async fn many(at_once: usize, count: usize, program: &str) -> server::Round {
    let taken = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let tasks: Vec<_> = (0..at_once)
        .map(|_| {
            let (taken, program) = (taken.clone(), program.to_string());
            tokio::spawn(async move {
                while taken.fetch_add(1, Ordering::Relaxed) < count {
                    let output = Command::new(&program).stdin(Stdio::null()).output().await;
                    let status = output.map_err(|error| error.to_string())?.status;
                    if !status.success() {
                        return Err(status.to_string());
                    }
                }
                Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|error| error.to_string())??;
    }
    Ok(vec![(start.elapsed().as_nanos() / count as u128) as u64])
}

fn runtime(kind: &str) -> std::io::Result<Runtime> {
    match kind {
        "multi" => Builder::new_multi_thread().enable_all().build(),
        _ => Builder::new_current_thread().enable_all().build(),
    }
}

fn main() -> std::io::Result<()> {
    let mut made: Option<(String, Runtime)> = None; // one runtime a process: the first mode asked for decides
    server::serve(|mode, count, program| {
        let (kind, what) = mode.split_once('/').unwrap_or((mode, ""));
        let at_once = server::at_once(what);
        if !matches!(kind, "current" | "multi") || (at_once.is_none() && !matches!(what, "status" | "output")) {
            return Err("modes: current or multi, then /status, /output or /many/N".into());
        }
        if made.as_ref().map_or(true, |(had, _)| had != kind) {
            made = Some((kind.to_string(), runtime(kind).map_err(|error| error.to_string())?));
        }
        let (_, runtime) = made.as_ref().expect("made above");
        if let Some(at_once) = at_once {
            return runtime.block_on(many(at_once, count, program));
        }
        runtime.block_on(round(what == "output", count, program))
    })
}
