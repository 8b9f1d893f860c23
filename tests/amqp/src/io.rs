//! A runtime that outlives every test: for proxies and for the Docker client.

use std::{future::Future, sync::OnceLock, thread};
use tokio::runtime::{Builder, Handle, Runtime};

/// The process's own runtime, apart from those of the tests.
pub(crate) fn handle() -> &'static Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("gear-test-io")
                .enable_all()
                .build()
                .expect("a runtime can be built as long as the process may start threads")
        })
        .handle()
}

/// Runs `future` there, and blocks until it is done, whatever the calling thread is.
pub(crate) fn block_on<F>(future: F) -> F::Output
where
    F: Future + Send,
    F::Output: Send,
{
    off_runtime(|| handle().block_on(future))
}

/// Runs `work` on a thread that no runtime knows of, and waits for it.
pub(crate) fn off_runtime<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Runs `work`, which blocks, without blocking the runtime of the test that awaits it. A paused
/// clock of that runtime stands still meanwhile.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("the test's runtime is shutting down: {error}"),
        },
    }
}
