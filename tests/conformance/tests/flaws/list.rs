//! The flaws: what is broken, how, and which tests must notice.

use std::sync::atomic::{AtomicU64, Ordering};

use gear_api::{
    Capabilities, ConsumerEnd, HeaderValue, Headers, Message, Pattern, PublishError, Status,
    Subscription, Verdict,
};

/// One way to be broken.
pub(crate) struct Flaw {
    pub(crate) name: &'static str,
    pub(crate) does: Does,
    /// Each of these must fail.
    pub(crate) caught_by: &'static [&'static str],
}

/// What a publisher is told.
type Answer = Result<(), PublishError>;

/// Where the flaw is.
pub(crate) enum Does {
    /// In each message, on its way to the broker.
    Sent(fn(Message) -> Message),
    /// In each message, on its way from the broker.
    Got(fn(Message) -> Message),
    /// In the key and the mark of each delivery.
    Marked(fn(&mut gear_api::Text, &mut bool)),
    /// In what the broker is told of a delivery.
    Settled(fn(Verdict) -> Verdict),
    /// In what a publisher is told; none is silence.
    Answered(fn(Answer) -> Option<Answer>),
    /// In what is subscribed to.
    Subscribed(fn(Subscription) -> Subscription),
    /// In why a consumer ends.
    Ended(fn(ConsumerEnd) -> ConsumerEnd),
    /// In what the status says.
    Says(fn(Status) -> Status),
    /// In what is promised.
    Promised(fn(&mut Capabilities)),
    /// In something that takes more than a function.
    More(More),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum More {
    AckTakesEarlierAlong,
    AckOfOldCounts,
    AcksWait,
    RequeueIsSent,
    StopAcks,
    StopForgetsHeld,
    ForwardLoses,
    ForwardSwaps,
    GroupsTwice,
    InstanceToAll,
    ServiceToAll,
    BroadcastToOneService,
    CaselessNames,
    SendingCreates,
    FirstTakesAll,
    OverlapsTwice,
    ConfirmsFirst,
    AnswersShifted,
    SendsSwapped,
    SendsLazily,
    DelaysIgnored,
    DeadForgotten,
    ReplyToTheLast,
    RepliesToAllOfAName,
    NameTaken,
    CutIsTheEnd,
    DeletionIsTheEnd,
    DeletionIsNotNoticed,
    OutageRefuses,
    NotWithdrawn,
    OneSystem,
    AcceptsAfterClose,
    CloseHangs,
    LosesEveryTenth,
}
use Does::*;

fn change(
    message: &Message,
    with: impl FnOnce(gear_api::MessageBuilder) -> gear_api::MessageBuilder,
) -> Message {
    with(message.to_builder()).build()
}

/// The headers, each value changed.
fn map_headers(message: &Message, with: impl Fn(&HeaderValue) -> HeaderValue) -> Message {
    let mut headers = Headers::new();
    for (name, value) in message.headers().iter() {
        // They fitted before, and a test that they do not fit now is as good.
        let _ = headers.insert_reserved(name.to_owned().into(), with(value));
    }
    change(message, |builder| builder.headers(headers))
}

fn truncate(message: &Message, bytes: usize) -> Message {
    let body = message.body().slice(..message.body().len().min(bytes));
    change(message, |builder| builder.body(body))
}

/// One verdict taken for another.
fn mistake(verdict: Verdict, from: Verdict, to: Verdict) -> Verdict {
    if verdict == from { to } else { verdict }
}

/// The prefetch of a subscription, changed.
fn with_prefetch(mut subscription: Subscription, change: fn(u16) -> u16) -> Subscription {
    match &mut subscription {
        Subscription::Service { prefetch, .. }
        | Subscription::Instance { prefetch, .. }
        | Subscription::Events { prefetch, .. } => *prefetch = change(*prefetch),
        _ => {}
    }
    subscription
}

fn new_id() -> gear_api::Id {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
    gear_api::Id::from(number.as_str())
}

macro_rules! flaws {
    ($($name:literal: $does:expr => $($test:literal),+;)+) => {
        &[$(Flaw { name: $name, does: $does, caught_by: &[$($test),+] }),+]
    };
}

pub(crate) const FLAWS: &[Flaw] = flaws! {
    // Messages.
    "headers are lost": Sent(|m| change(&m, |b| b.headers(Headers::new())))
        => "headers::every_type_of_value_arrives",
           "node-nested::the_trace_goes_on_through_nested_calls";
    "numbers become text": Sent(|m| map_headers(&m, |value| match value {
            HeaderValue::Int(n) => HeaderValue::Text(n.to_string().into()),
            other => other.clone(),
        })) => "headers::every_type_of_value_arrives";
    "bytes become text": Sent(|m| map_headers(&m, |value| match value {
            HeaderValue::Bytes(b) => String::from_utf8_lossy(b).into_owned().into(),
            other => other.clone(),
        })) => "headers::every_type_of_value_arrives";
    "long texts are cut": Sent(|m| map_headers(&m, |value| match value {
            HeaderValue::Text(t) if t.len() > 255 => HeaderValue::Text(t[..255].to_owned().into()),
            other => other.clone(),
        })) => "headers::extreme_values_arrive";
    "a header of its own is shown": Got(|m| change(&m, |mut b| {
            let _ = b.headers_mut().insert("backend", 1);
            b
        })) => "headers::none_are_none";
    "the broker's own headers are sent on": Got(|m| change(&m, |mut b| {
            let _ = b.headers_mut().insert_reserved("x-gear-test".into(), true.into());
            b
        })) => "headers::what_is_the_brokers_own_is_not_sent_on";
    "the last byte is lost": Sent(|m| truncate(&m, m.body().len().saturating_sub(1)))
        => "bodies::every_byte_arrives", "node-calls::a_reply";
    "bodies are cut at a frame": Sent(|m| truncate(&m, 131_064))
        => "bodies::every_size_arrives", "bodies::the_largest_arrives",
           "bodies::a_multicast_body_is_the_same_for_all";
    "what is too large is cut": Sent(|m| truncate(&m, 16 * 1024 * 1024))
        => "bodies::one_byte_more_is_refused",
           "node-calls::a_body_larger_than_the_broker_takes_is_not_sent";
    "the correlation is lost": Sent(|m| change(&m, |b| b.correlation(None)))
        => "properties::ids_arrive", "node-calls::a_reply",
           "node-load::thousands_of_calls_in_flight",
           "node-handing-on::another_program_may_answer_later";
    "how often it was handed on is lost": Sent(|m| change(&m, |b| b.hops(0)))
        => "node-handing-on::what_is_handed_on_is_the_same_request";
    "every delivery has a new id": Got(|m| change(&m, |b| b.id(new_id())))
        => "properties::ids_arrive", "redelivery::it_is_the_same_message",
           "delays::a_delayed_message_is_the_same",
           "node-duplicates::a_message_that_comes_twice_is_handled_once",
           "node-duplicates::an_answer_that_comes_twice_is_handled_once";
    "an error becomes a reply": Sent(|m| change(&m, |b| b.error(None)))
        => "replies::a_reply_keeps_its_correlation_and_its_error",
           "node-layers::an_elapsed_timeout_is_a_timeout";
    "where to answer is lost": Sent(|m| change(&m, |b| b.reply_to(None)))
        => "properties::where_the_answer_goes_arrives";
    "the sender is lost": Sent(|m| change(&m, |b| b.sender("")))
        => "properties::who_sent_it_and_when_arrives",
           "node-gathers::it_ends_when_all_have_answered";
    "the time is lost": Sent(|m| change(&m, |b| b.sent_at(None)))
        => "properties::who_sent_it_and_when_arrives";
    "attempts are not counted on": Sent(|m| change(&m, |b| b.attempt(0)))
        => "properties::attempts_and_hops_arrive";
    "everything is a cast": Got(|m| change(&m, |b| b.kind(gear_api::Kind::Cast)))
        => "properties::what_is_asked_arrives";
    "a type is made up": Got(|m| change(&m, |b| b.content_type("application/octet-stream")))
        => "properties::what_a_body_is_arrives";
    "nothing is durable": Sent(|m| change(&m, |b| b.durable(false)))
        => "properties::durability_arrives", "restarts::what_is_durable_survives",
           "node-casts::a_durable_cast_survives_a_restart_of_the_broker";
    "deadlines are not told": Got(|m| change(&m, |b| b.deadline(None)))
        => "expiry::a_message_before_its_deadline_arrives",
           "node-calls::who_asks_and_how_long_is_known_to_the_handler";
    "expiry is ignored": Sent(|m| change(&m, |b| b.deadline(None)))
        => "expiry::a_message_is_dropped_at_its_deadline",
           "expiry::each_copy_of_a_multicast_expires",
           "expiry::an_event_expires", "expiry::what_goes_back_late_has_expired";

    // Deliveries.
    "the key is not passed": Marked(|key, _| *key = gear_api::Text::EMPTY)
        => "addressing::the_key_tells_how_it_was_addressed", "events::the_topic_arrives_as_the_key";
    "nothing is marked as redelivered": Marked(|_, again| *again = false)
        => "settlement::a_requeued_message_comes_again",
           "redelivery::what_a_lost_connection_held_comes_again";
    "everything is marked as redelivered": Marked(|_, again| *again = true)
        => "redelivery::the_first_delivery_is_not_marked";

    // Settlements.
    "a requeue drops": Settled(|v| mistake(v, Verdict::Requeue, Verdict::Reject))
        => "settlement::a_requeued_message_comes_again",
           "order::what_goes_back_comes_before_its_successors";
    "a drop consumes": Settled(|v| mistake(v, Verdict::Dropped, Verdict::Ack))
        => "settlement::a_dropped_delivery_comes_again",
           "settlement::a_panic_does_not_lose_a_message";
    "a reject requeues": Settled(|v| mistake(v, Verdict::Reject, Verdict::Requeue))
        => "settlement::a_rejected_message_is_dropped";
    "an ack is a drop": Settled(|v| mistake(v, Verdict::Ack, Verdict::Dropped))
        => "settlement::an_acked_message_is_forgotten", "closing::closing_flushes_settlements",
           "concurrency::many_consumers_and_publishers_lose_nothing",
           "sharing::each_message_goes_to_one_consumer";
    "a requeue counts as a failure": Settled(|v| mistake(v, Verdict::Requeue, Verdict::Dropped))
        => "poison::a_requeue_does_not_count";
    "poison goes round for ever": Settled(|v| mistake(v, Verdict::Dropped, Verdict::Requeue))
        => "poison::a_message_that_is_always_dropped_is_set_aside";
    "an ack takes the earlier ones along": More(More::AckTakesEarlierAlong)
        => "settlement::settlements_may_come_in_any_order";
    "a stale ack is accepted": More(More::AckOfOldCounts)
        => "cuts::a_settlement_of_before_is_ignored";
    "closing loses settlements": More(More::AcksWait)
        => "closing::closing_flushes_settlements";
    "a requeue is sent anew": More(More::RequeueIsSent)
        => "order::what_goes_back_comes_before_its_successors",
           "settlement::a_requeue_makes_no_copies_elsewhere";
    "settlements end with their consumer": More(More::StopForgetsHeld)
        => "settlement::what_was_taken_stays_settleable_after_a_stop";
    "stopping consumes what was not given out": More(More::StopAcks)
        => "redelivery::what_a_dropped_consumer_had_not_given_out_goes_back",
           "redelivery::what_a_stopped_consumer_had_not_given_out_goes_back";
    "forwarding loses": More(More::ForwardLoses)
        => "consumers::deliveries_may_go_straight_to_a_sink";
    "forwarding swaps": More(More::ForwardSwaps)
        => "consumers::deliveries_may_go_straight_to_a_sink";

    // Routing.
    "groups get two copies": More(More::GroupsTwice)
        => "addressing::a_multicast_reaches_every_instance_of_the_service_once",
           "addressing::a_broadcast_reaches_every_instance_once",
           "node-addressing::a_multicast_is_every_instance_of_the_service_once";
    "point to point leaks": More(More::InstanceToAll)
        => "addressing::an_instance_address_reaches_that_instance_alone",
           "node-addressing::an_instance_is_that_one_and_nobody_else";
    "a service is all of its instances": More(More::ServiceToAll)
        => "addressing::a_service_address_reaches_one_instance";
    "a broadcast stays in one service": More(More::BroadcastToOneService)
        => "addressing::a_broadcast_reaches_every_instance_once";
    "case does not count": More(More::CaselessNames) => "addressing::names_are_compared_exactly";
    "sending creates a queue": More(More::SendingCreates)
        => "addressing::nobody_there_is_not_routed", "node-calls::nobody_is_there";
    "who came first takes all": More(More::FirstTakesAll)
        => "sharing::consumers_take_turns", "sharing::a_busy_consumer_is_passed_over",
           "node-addressing::a_service_is_one_instance_in_turn";
    "patterns that overlap make two copies": More(More::OverlapsTwice)
        => "events::patterns_that_overlap_make_one_copy";
    "systems hear each other": More(More::OneSystem)
        => "addressing::two_systems_do_not_hear_each_other";
    "event groups compete": Subscribed(|subscription| match subscription {
            Subscription::Events { patterns, prefetch, .. } => {
                let group = gear_api::EventGroup::new(gear_api::Service::new("ALL"), "one");
                let group = group.expect("a valid name");
                Subscription::Events { group, patterns, prefetch }
            }
            other => other,
        }) => "events::every_group_gets_one_copy",
              "node-events::every_group_gets_one_copy_and_its_members_share";
    "a # is one word": Subscribed(|subscription| match subscription {
            Subscription::Events { group, patterns, prefetch } => {
                let one_word = |pattern: &Pattern| pattern.as_str().replace('#', "*").parse();
                let patterns = patterns.iter().map(one_word).collect::<Result<_, _>>();
                Subscription::Events { group, patterns: patterns.expect("valid, too"), prefetch }
            }
            other => other,
        }) => "events::patterns_select_as_they_say";
    "a tap competes": Subscribed(|subscription| match subscription {
            Subscription::Tap { .. } => {
                Subscription::Service { service: gear_api::Service::new("CTRL"), prefetch: 1000 }
            }
            other => other,
        }) => "taps::a_tap_sees_copies_and_never_competes",
              "taps::several_taps_see_everything_each";
    "a reply goes to the last who asked": More(More::ReplyToTheLast)
        => "replies::a_reply_goes_to_the_sink_that_asked",
           "node-answers::an_answer_goes_to_the_instance_that_asked";
    "replies go to all of a name": More(More::RepliesToAllOfAName)
        => "replies::every_start_has_a_reply_queue_of_its_own",
           "node-answers::an_answer_goes_to_the_instance_that_asked";
    "delays are ignored": More(More::DelaysIgnored)
        => "delays::a_delayed_message_reaches_its_queue_after_its_delay",
           "delays::shorter_delays_overtake_longer_ones",
           "delays::jitter_lets_a_message_leave_sooner",
           "node-retries::a_failed_cast_is_tried_again";
    "how often it was tried is lost": Sent(|m| change(&m, |b| b.attempt(0)))
        => "delays::a_delayed_message_is_the_same",
           "node-retries::a_failed_cast_is_tried_again",
           "node-retries::what_goes_on_failing_is_set_aside";
    "what is set aside is forgotten": More(More::DeadForgotten)
        => "dead-letters::what_is_set_aside_waits_for_an_operator",
           "node-casts::what_cannot_be_handled_is_set_aside",
           "node-dead-letters::what_is_put_back_is_handled_where_it_was";

    // Publishing.
    "what reaches nobody is confirmed": Answered(|answer| match answer {
            Err(PublishError::NotRouted) => Some(Ok(())),
            other => Some(other),
        }) => "addressing::nobody_there_is_not_routed",
              "publishing::what_reaches_nobody_is_not_confirmed",
              "node-calls::nobody_is_there";
    "of what reaches nobody nothing is told": Answered(|answer| match answer {
            Err(PublishError::NotRouted) => None,
            other => Some(other),
        }) => "addressing::nobody_there_is_not_routed",
              "node-addressing::nobody_there_is_not_routed_for_each_form";
    "a refusal is a confirm": Answered(|answer| match answer {
            Err(PublishError::Refused(_)) => Some(Ok(())),
            other => Some(other),
        }) => "limits::a_full_queue_refuses",
              "limits::of_several_queues_the_others_keep_their_copies",
              "node-casts::a_full_queue_refuses";
    "it confirms before it stores": More(More::ConfirmsFirst)
        => "publishing::what_is_confirmed_is_stored",
           "publishing::a_multicast_is_confirmed_when_all_have_it";
    "each gets the answer before its own": More(More::AnswersShifted)
        => "order::each_of_them_has_its_own_answer",
           "publishing::what_reaches_nobody_is_not_confirmed",
           "concurrency::each_gets_the_answer_to_its_own_message";
    "two in a row change places": More(More::SendsSwapped)
        => "order::messages_arrive_in_the_order_of_the_calls";
    "a send waits until it is awaited": More(More::SendsLazily)
        => "publishing::a_send_is_handed_over_in_the_call";
    "one in ten is lost": More(More::LosesEveryTenth)
        => "publishing::what_is_confirmed_is_stored",
           "concurrency::many_tasks_may_send_on_one_connection",
           "node-load::nothing_is_lost_while_nodes_come_and_go";

    // Consumers.
    "prefetch is ignored": Subscribed(|s| with_prefetch(s, |_| u16::MAX))
        => "prefetch::no_more_than_that_many_are_held", "sharing::a_busy_consumer_is_passed_over",
           "node-load::concurrency_is_bounded_for_each_queue",
           "node-shutdown::it_finishes_what_was_begun_and_gives_back_the_rest";
    "a prefetch of zero is no limit": Subscribed(|s| {
            with_prefetch(s, |n| if n == 0 { u16::MAX } else { n })
        })
        => "prefetch::zero_counts_as_one";
    "a name is given away twice": More(More::NameTaken)
        => "consumers::a_name_in_use_is_refused", "node-serving::a_name_in_use_is_refused";
    "a deleted queue is not noticed": More(More::DeletionIsNotNoticed)
        => "consumers::a_queue_that_is_deleted_is_declared_and_consumed_again",
           "consumers::every_consumer_of_a_queue_that_is_deleted_comes_back",
           "node-faults::a_queue_that_is_deleted_is_declared_and_consumed_again",
           "node-faults::a_reply_queue_that_is_deleted_is_replaced";
    "a deleted queue ends its consumers": More(More::DeletionIsTheEnd)
        => "consumers::a_queue_that_is_deleted_is_declared_and_consumed_again",
           "consumers::every_consumer_of_a_queue_that_is_deleted_comes_back";
    "a stop ends as if closed": Ended(|end| match end {
            ConsumerEnd::Stopped => ConsumerEnd::Closed,
            other => other,
        }) => "consumers::a_stopped_consumer_ends_and_says_so";
    "taps are there and not promised": Promised(|all| all.taps = false)
        => "taps::a_tap_sees_copies_and_never_competes";
    "events are there and not promised": Promised(|all| all.events = false)
        => "events::every_group_gets_one_copy";
    "delays are there and not promised": Promised(|all| all.delays = false)
        => "delays::a_delayed_message_is_the_same";
    "dead letters are there and not promised": Promised(|all| all.dead_letters = false)
        => "dead-letters::each_service_has_its_own", "node-casts::what_cannot_be_handled_is_set_aside";

    // Connections.
    "it is never ready": Says(|status| if status.is_ready() { Status::Connecting } else { status })
        => "closing::a_connection_is_ready_when_it_works";
    "a closed connection seems ready": Says(|status| match status {
            Status::Closed(_) => Status::Ready,
            other => other,
        }) => "closing::a_closed_connection_says_so";
    "an alarm is not told": Says(|status| match status {
            Status::Blocked(_) => Status::Ready,
            other => other,
        }) => "alarms::publishers_wait_and_are_told_why",
              "node-outages::an_alarm_blocks_casts_until_it_is_over";
    "a cut is the end": More(More::CutIsTheEnd)
        => "cuts::the_status_tells_of_it", "cuts::a_consumer_survives_it",
           "node-faults::a_call_survives_a_cut_of_its_caller";
    "an outage refuses what is sent": More(More::OutageRefuses)
        => "cuts::what_is_sent_meanwhile_waits",
           "node-faults::what_is_sent_during_a_cut_waits_and_goes_in_order";
    "what is withdrawn is sent": More(More::NotWithdrawn)
        => "cuts::what_is_withdrawn_meanwhile_is_not_sent",
           "node-faults::a_call_that_is_given_up_during_a_cut_is_not_sent";
    "a closed connection confirms": More(More::AcceptsAfterClose)
        => "publishing::after_closing_it_is_closed";
    "closing never ends": More(More::CloseHangs)
        => "closing::closing_twice_does_nothing";
};
