//! Every word with the broker is bounded in time: lapin itself waits for ever when a peer
//! accepts and stays silent.

use std::{future::Future, time::Duration};

use gear_api::Text;
use lapin::{Channel, Connection, ErrorKind, options::ConfirmSelectOptions};
use tokio::{sync::oneshot, time::timeout};

/// What a broker did not do.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RpcError {
    /// It did not answer in time.
    #[error("the broker did not answer within {limit:?} ({what})")]
    Silent { what: &'static str, limit: Duration },
    /// It refused, and closed the channel. AMQP 0-9-1, section 1.2.
    #[error("{text}")]
    Refused { code: u16, text: Text },
    /// The connection is gone.
    #[error("{0}")]
    Lost(Text),
}

/// The reply codes of AMQP 0-9-1 that matter here.
pub(crate) mod code {
    pub(crate) const ACCESS_REFUSED: u16 = 403;
    pub(crate) const NOT_FOUND: u16 = 404;
    pub(crate) const PRECONDITION_FAILED: u16 = 406;
}

impl RpcError {
    pub(crate) fn is(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }

    /// Whether a classic queue exists and can not be reached: the node of the cluster that has it
    /// is down, or does not answer the others (RabbitMQ waits a minute or two before it says so).
    pub(crate) fn is_out_of_reach(&self) -> bool {
        match self {
            Self::Refused { code: code::NOT_FOUND, text } => {
                text.contains("is down or inaccessible") || text.contains("due to timeout")
            }
            _ => false,
        }
    }
}

/// Whether the broker closed the channel or the connection because of something that was sent on
/// it; not when an operator closed it (AMQP 0-9-1, 320).
pub(crate) fn is_reproach(error: &lapin::Error) -> bool {
    const CONNECTION_FORCED: u16 = 320;
    matches!(error.kind(), ErrorKind::ProtocolError(why) if why.get_id() != CONNECTION_FORCED)
}

impl From<lapin::Error> for RpcError {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(refusal) if error.is_amqp_soft_error() => Self::Refused {
                code: refusal.get_id(),
                text: refusal.get_message().as_str().into(),
            },
            _ => Self::Lost(error.to_string().into()),
        }
    }
}

/// How long a broker may take for one answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// How long a broker may take for an answer that nobody waits for any more: longer than anybody waits.
const LATE: Duration = Duration::from_secs(300);

/// Awaits one answer of the broker, `limit` at most.
///
/// Its channel must live in `answer`, on a task that goes on when nobody waits any more. Without that
/// lapin closes the channel, takes a refusal that comes later for an error, and ends the connection
/// (4.12).
pub(crate) async fn within<T: Send + 'static>(
    limit: Duration,
    what: &'static str,
    answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
) -> Result<T, RpcError> {
    within_or(limit, what, answer, |_| {}).await
}

/// The same; an answer that comes too late is for `late`.
pub(crate) async fn within_or<T: Send + 'static>(
    limit: Duration,
    what: &'static str,
    answer: impl Future<Output = lapin::Result<T>> + Send + 'static,
    late: impl FnOnce(lapin::Result<T>) + Send + 'static,
) -> Result<T, RpcError> {
    let (sender, mut receiver) = oneshot::channel();
    tokio::spawn(async {
        if let Ok(answer) = timeout(LATE, answer).await
            && let Err(answer) = sender.send(answer)
        {
            late(answer);
        }
    });
    let answer = match timeout(limit, &mut receiver).await {
        Ok(answer) => answer.ok(),
        Err(_) => {
            receiver.close();
            receiver.try_recv().ok() // it came in the last moment, and not to `late`
        }
    };
    answer.map_or(Err(RpcError::Silent { what, limit }), |answer| answer.map_err(RpcError::from))
}

/// More than a connection can have: RabbitMQ allows 2,047 by default, lapin takes no more.
const CHANNELS: usize = 2_048;

/// Opens a channel.
///
/// lapin remembers why the broker closed a channel, and gives that as the answer when the next one
/// of the same number is to be opened, 2,047 channels later (4.12): such a number can not be used
/// again. When none is left the connection is closed, so that its supervisor opens another.
pub(crate) async fn open_channel(connection: &Connection) -> Result<Channel, RpcError> {
    for _ in 0..CHANNELS {
        match timeout(ANSWER, connection.create_channel()).await {
            Ok(Ok(channel)) => return Ok(channel),
            // The broker itself refuses no channel that way.
            Ok(Err(error)) if error.is_amqp_soft_error() => {}
            Ok(Err(error)) if matches!(error.kind(), ErrorKind::ChannelsLimitReached) => break,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(RpcError::Silent { what: "opening a channel", limit: ANSWER }),
        }
    }
    let text = "no channel number is left";
    let _ = timeout(ANSWER, connection.close(200, text.into())).await;
    Err(RpcError::Lost(text.into()))
}

pub(crate) async fn open_confirming(connection: &Connection) -> Result<Channel, RpcError> {
    let channel = open_channel(connection).await?;
    let select = async move {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    };
    within(ANSWER, "switching confirms on", select).await
}

/// Closes a channel that is done with.
pub(crate) async fn close(channel: Channel) {
    let close = async move { channel.close(200, "done".into()).await };
    let _ = within(ANSWER, "closing a channel", close).await;
}

/// A channel for one purpose: the broker closes it when it refuses, so nothing else may be on
/// it. Another is opened when that has happened, and when one word was not answered: whatever
/// comes after that on the same channel waits for it.
pub(crate) struct Scratch<'a> {
    connection: &'a Connection,
    channel: Option<Channel>,
}

impl<'a> Scratch<'a> {
    pub(crate) fn new(connection: &'a Connection) -> Self {
        Self { connection, channel: None }
    }

    async fn channel(&mut self) -> Result<Channel, RpcError> {
        match &self.channel {
            Some(channel) if channel.status().connected() => Ok(channel.clone()),
            _ => {
                let channel = open_channel(self.connection).await?;
                self.channel = Some(channel.clone());
                Ok(channel)
            }
        }
    }

    /// Says one word, and awaits the answer as [`within`] does.
    pub(crate) async fn ask<T, A>(
        &mut self,
        limit: Duration,
        what: &'static str,
        word: impl FnOnce(Channel) -> A,
    ) -> Result<T, RpcError>
    where
        T: Send + 'static,
        A: Future<Output = lapin::Result<T>> + Send + 'static,
    {
        let channel = self.channel().await?;
        let answer = within(limit, what, word(channel)).await;
        if matches!(answer, Err(RpcError::Silent { .. })) {
            self.channel = None;
        }
        answer
    }

    /// The channel is closed on dropping too, but then nobody waits for it.
    pub(crate) async fn close(self) {
        if let Some(channel) = self.channel.filter(|channel| channel.status().connected()) {
            close(channel).await;
        }
    }
}
