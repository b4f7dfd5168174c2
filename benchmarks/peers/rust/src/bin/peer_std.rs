//! Rust's standard library: `status` inherits the three streams, `output` captures stdout and stderr.
//! Needs no crate: `rustc -O peer_std.rs`.

#[path = "../server.rs"]
mod server;

use std::process::{Command, ExitStatus, Stdio};

fn check(status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

fn status(command: &mut Command) -> Result<(), String> {
    check(command.status().map_err(|error| error.to_string())?)
}

fn output(command: &mut Command) -> Result<(), String> {
    check(command.output().map_err(|error| error.to_string())?.status)
}

fn main() -> std::io::Result<()> {
    server::serve(|mode, count, program| {
        if let Some(threads) = server::at_once(mode) {
            return server::threaded(threads, count, || output(Command::new(program).stdin(Stdio::null())));
        }
        let mut command = Command::new(program);
        command.stdin(Stdio::inherit());
        match mode {
            "status" => server::timed(count, || status(&mut command)),
            "output" => server::timed(count, || output(&mut command)),
            _ => Err("modes: status, output, many/THREADS".into()),
        }
    })
}
