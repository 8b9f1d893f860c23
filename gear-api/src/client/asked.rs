//! What an answer needs to know of its request.

use bytes::Bytes;

use super::Core;
use crate::{Id, Kind, Message, Text, Timestamp, topology::header};

/// What an answer needs to know of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// What whoever asked has asked: handed on, the request may ask something else.
    pub(crate) operation: Text,
    pub(crate) correlation: Option<Id>,
    pub(crate) deadline: Option<Timestamp>,
    /// The id of the answer, where it may come to handlers: the same if the request is answered again.
    pub(crate) answer_id: Option<Id>,
    /// The instance that was asked, if another one answers.
    pub(crate) instance: Option<Text>,
    /// Whether it was handed on: what was done before, whoever answers does not know.
    pub(crate) handed_on: bool,
}

impl Core {
    /// An answer from here.
    ///
    /// Inlined, as all that makes a message is.
    #[inline(always)]
    pub(crate) fn answer(
        &self,
        asked: Asked,
        content_type: Text,
        body: Bytes,
        error: Option<Text>,
    ) -> Message {
        let now = self.clock.now();
        let mut head = self.head(Kind::Reply, asked.operation, now, None);
        head.id = Some(asked.answer_id.unwrap_or_else(|| self.next_id(now)));
        head.correlation = asked.correlation;
        head.deadline = asked.deadline;
        head.content_type = content_type;
        head.error = error;
        if let Some(instance) = asked.instance {
            // An answer has no other headers.
            let name = Text::from_static(header::ASKED_OF);
            let _ = head.headers.insert_reserved(name, instance.into());
        }
        head.message(body)
    }
}
