//! The suite on the broker in memory, in virtual time.

mod memory_backend;

fn main() -> std::process::ExitCode {
    gear_conformance::main(memory_backend::Memory { time: gear_conformance::Time::Virtual })
}
