//! A publish that is being written.
//!
//! lapin's future of it has 1.5 KB, which allocators are slow to give and to take back: the place
//! of one is used for the next.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use lapin::{Channel, PublisherConfirm, options::BasicPublishOptions};
use pin_project_lite::pin_project;

use super::flight::Publishing;

/// What comes of it: the confirm that is to come.
pub(super) type Written = lapin::Result<PublisherConfirm>;

/// A place for the publishes of one channel, one after the other.
pub(super) struct Write {
    place: Pin<Box<dyn Place>>,
    /// What came of it at once.
    written: Option<Written>,
}

impl Write {
    pub(super) fn new(channel: Arc<Channel>) -> Self {
        let begin = move |publishing: Publishing| {
            let channel = Arc::clone(&channel);
            async move {
                let Publishing { exchange, key, mandatory, properties, body, .. } = publishing;
                let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
                channel.basic_publish(exchange, key, options, &body, properties).await
            }
        };
        Self { place: Box::pin(Reused { begin, future: None }), written: None }
    }

    /// Queues the frames of a publish in lapin. Returns whether it has ended already, with an
    /// error.
    pub(super) fn begin(&mut self, publishing: Publishing, cx: &mut Context<'_>) -> bool {
        self.place.as_mut().begin(publishing);
        match self.place.as_mut().poll(cx) {
            Poll::Ready(written) => self.written = Some(written),
            Poll::Pending => {}
        }
        self.written.is_some()
    }

    /// Once it is ready the place is free.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Written> {
        match self.written.take() {
            Some(written) => Poll::Ready(written),
            None => self.place.as_mut().poll(cx),
        }
    }
}

trait Place: Send {
    fn begin(self: Pin<&mut Self>, publishing: Publishing);
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Written>;
}

pin_project! {
    struct Reused<B, F> {
        begin: B,
        #[pin]
        future: Option<F>,
    }
}

impl<B, F> Place for Reused<B, F>
where
    B: Fn(Publishing) -> F + Send,
    F: Future<Output = Written> + Send,
{
    fn begin(self: Pin<&mut Self>, publishing: Publishing) {
        let this = self.project();
        let mut place = this.future;
        place.set(Some((this.begin)(publishing)));
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Written> {
        let mut place = self.project().future;
        let Some(future) = place.as_mut().as_pin_mut() else { return Poll::Pending };
        let written = future.poll(cx);
        if written.is_ready() {
            place.set(None);
        }
        written
    }
}
