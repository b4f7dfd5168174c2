//! duct: `run` inherits the streams, `read` captures stdout as text (duct reads stderr only by another handle).

#[path = "../server.rs"]
mod server;

fn main() -> std::io::Result<()> {
    server::serve(|mode, count, program| {
        let expression = duct::cmd(program, Vec::<String>::new());
        match mode {
            "run" => server::timed(count, || expression.run().map(drop)),
            "read" => server::timed(count, || expression.read().map(drop)),
            _ => Err("modes: run, read".into()),
        }
    })
}
