//! Publishing and consuming at once, through one queue.

use std::sync::Arc;

use gear_api::Transport;

use crate::{
    consuming::{consume, drained, subscribe},
    measure::{Figures, Report, Stopwatch, round},
    place::{Place, SINK},
    publishing::publish,
    raw::{self, Shape},
};

const MESSAGES: usize = 30_000;
const NAIVE: usize = 1_000;

pub(crate) fn run(report: &mut Report, place: &Place) {
    report.compare(
        "both at once",
        &[
            ("lapin, tuned", &|| tuned(place, Shape::Bare)),
            ("the same, with Gear's properties", &|| tuned(place, Shape::Gear)),
            ("lapin, each awaited", &|| naive(place)),
            ("gear, `dyn Transport`", &|| gear(place)),
        ],
    );
}

fn tuned(place: &Place, shape: Shape) -> Figures {
    let place = place.clone();
    round(async move {
        let (publishing, to) = raw::publisher(&place).await;
        let (consuming, from, mut consumer) = raw::consumer(&place, SINK.as_str(), false).await;
        let watch = Stopwatch::start();
        let consume = tokio::spawn(async move {
            raw::consume_tuned(&from, &mut consumer, MESSAGES).await;
        });
        raw::publish_tuned(&to, place.entry(), shape, MESSAGES).await;
        consume.await.expect("the consumer lives");
        let figures = watch.stop(MESSAGES);
        raw::close(&publishing).await;
        raw::close(&consuming).await;
        drained(&place).await;
        figures
    })
}

fn naive(place: &Place) -> Figures {
    let place = place.clone();
    round(async move {
        let (publishing, to) = raw::publisher(&place).await;
        let (consuming, _from, mut consumer) = raw::consumer(&place, SINK.as_str(), false).await;
        let watch = Stopwatch::start();
        let consume = tokio::spawn(async move {
            raw::consume_naively(&mut consumer, NAIVE).await;
        });
        raw::publish_naively(&to, place.entry(), NAIVE).await;
        consume.await.expect("the consumer lives");
        let figures = watch.stop(NAIVE);
        raw::close(&publishing).await;
        raw::close(&consuming).await;
        drained(&place).await;
        figures
    })
}

fn gear(place: &Place) -> Figures {
    let place = place.clone();
    round(async move {
        let transport: Arc<dyn Transport> = place.transport().await.into();
        let mut consumer = subscribe(&*transport).await;
        let watch = Stopwatch::start();
        let consuming = tokio::spawn(async move {
            consume(&mut consumer, MESSAGES).await;
            consumer
        });
        publish(&*transport, MESSAGES).await;
        consuming.await.expect("the consumer lives").stop();
        let figures = watch.stop(MESSAGES);
        transport.close().await;
        drained(&place).await;
        figures
    })
}
