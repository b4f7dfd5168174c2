//! tokio: `current/...` on its current-thread runtime, `multi/...` on its multi-thread one; `status` or `output` each.

#[path = "../server.rs"]
mod server;

use std::process::Stdio;
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
        if !matches!((kind, what), ("current" | "multi", "status" | "output")) {
            return Err("modes: current/status, current/output, multi/status, multi/output".into());
        }
        if made.as_ref().map_or(true, |(had, _)| had != kind) {
            made = Some((kind.to_string(), runtime(kind).map_err(|error| error.to_string())?));
        }
        let (_, runtime) = made.as_ref().expect("made above");
        runtime.block_on(round(what == "output", count, program))
    })
}
