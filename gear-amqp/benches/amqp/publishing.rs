//! Confirmed publishing: persistent, mandatory, through the entry exchange.

use std::{collections::VecDeque, sync::Arc};

use gear_api::{Address, Id, Kind, Message, Publish, Route, Text, Transport};

use crate::{
    measure::{Figures, Report, Stopwatch, round},
    place::{Place, SINK},
    raw::{self, Shape, UNCONFIRMED, body, id},
};

const MESSAGES: usize = 30_000;
const NAIVE: usize = 1_000;

pub(crate) fn run(report: &mut Report, place: &Place) {
    report.compare(
        "confirmed publishing",
        &[
            ("lapin, polled together, 1,000 unconfirmed", &|| tuned(place, Shape::Bare)),
            ("the same, with Gear's properties", &|| tuned(place, Shape::Gear)),
            ("lapin, each awaited", &|| naive(place)),
            ("gear, `dyn Transport`, 1,000 unconfirmed", &|| gear(place)),
        ],
    );
}

fn tuned(place: &Place, shape: Shape) -> Figures {
    let place = place.clone();
    round(async move {
        let (connection, channel) = raw::publisher(&place).await;
        let watch = Stopwatch::start();
        raw::publish_tuned(&channel, place.entry(), shape, MESSAGES).await;
        let figures = watch.stop(MESSAGES);
        raw::close(&connection).await;
        arrived(&place, MESSAGES).await;
        figures
    })
}

fn naive(place: &Place) -> Figures {
    let place = place.clone();
    round(async move {
        let (connection, channel) = raw::publisher(&place).await;
        let watch = Stopwatch::start();
        raw::publish_naively(&channel, place.entry(), NAIVE).await;
        let figures = watch.stop(NAIVE);
        raw::close(&connection).await;
        arrived(&place, NAIVE).await;
        figures
    })
}

fn gear(place: &Place) -> Figures {
    let place = place.clone();
    round(async move {
        let transport: Arc<dyn Transport> = place.transport().await.into();
        let watch = Stopwatch::start();
        publish(&*transport, MESSAGES).await;
        let figures = watch.stop(MESSAGES);
        transport.close().await;
        arrived(&place, MESSAGES).await;
        figures
    })
}

pub(crate) async fn publish(transport: &dyn Transport, count: usize) {
    let to = Address::from(SINK);
    let mut unconfirmed: VecDeque<Publish> = VecDeque::with_capacity(UNCONFIRMED);
    for n in 0..count {
        if unconfirmed.len() == UNCONFIRMED
            && let Some(oldest) = unconfirmed.pop_front()
        {
            oldest.await.expect("it is stored");
        }
        let message = Message::builder(Kind::Cast, Text::from_static("take"))
            .id(Id::from(id(n)))
            .durable(true)
            .body(body())
            .build();
        unconfirmed.push_back(transport.send(Route::Address(&to), message));
    }
    for publish in unconfirmed {
        publish.await.expect("it is stored");
    }
}

async fn arrived(place: &Place, count: usize) {
    assert_eq!(place.purge(SINK.as_str()).await as usize, count);
}
