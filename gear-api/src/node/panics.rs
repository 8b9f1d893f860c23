//! Panics of what is a service's own: each becomes a fault like any other.

use std::{
    any::Any,
    future::Future,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::Fault;

pin_project! {
    /// A panic of the handler becomes a fault like any other. What the handler left behind is
    /// its own: as with a thread that panics, its locks are poisoned.
    ///
    /// An async function would hold the handler's future twice, and so double every task.
    pub(super) struct CatchPanic<F> {
        #[pin]
        pub(super) handling: F,
    }
}

impl<T, F: Future<Output = Result<T, Fault>>> Future for CatchPanic<F> {
    type Output = Result<T, Fault>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let handling = self.project().handling;
        caught(|| handling.poll(cx)).unwrap_or_else(|fault| Poll::Ready(Err(fault)))
    }
}

/// What `run` returns, or the fault that its panic is.
pub(super) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Fault> {
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let fault = fault_of_panic(payload.as_ref());
        // What it carried may panic in turn when it is dropped, and so may what that carries.
        let dropped = panic::catch_unwind(AssertUnwindSafe(|| drop(payload)));
        dropped.unwrap_or_else(std::mem::forget);
        fault
    })
}

fn fault_of_panic(payload: &(dyn Any + Send)) -> Fault {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let because = text.unwrap_or("a panic without a text").to_owned();
    Fault::of_panic("the handler panicked").because(because)
}
