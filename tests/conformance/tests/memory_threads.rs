//! The suite on the broker in memory, on threads and in real time: as it runs on any other
//! backend, so that its tests are known to hold there.

mod memory_backend;

fn main() -> std::process::ExitCode {
    gear_conformance::main(memory_backend::Memory { time: gear_conformance::Time::Real })
}
