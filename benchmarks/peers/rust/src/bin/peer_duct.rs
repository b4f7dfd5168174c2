//! duct: `run` inherits the streams, `read` captures stdout as text (duct reads stderr only by another handle).

#[path = "../server.rs"]
mod server;

fn main() -> std::io::Result<()> {
    server::serve(|mode, count, program| {
        if let Some(threads) = server::at_once(mode) {
            let captured = || duct::cmd(program, Vec::<String>::new()).stdin_null().stdout_capture().stderr_capture();
            return server::threaded(threads, count, || captured().run().map(drop));
        }
        let expression = duct::cmd(program, Vec::<String>::new());
        match mode {
            "run" => server::timed(count, || expression.run().map(drop)),
            "read" => server::timed(count, || expression.read().map(drop)),
            _ => Err("modes: run, read, many/THREADS".into()),
        }
    })
}
