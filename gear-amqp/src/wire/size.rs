//! How much room properties take: they must fit one frame of the connection, and a broker ends a
//! connection that brings a longer one.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

/// The bytes of the frame that has these properties (AMQP 0-9-1, 4.2.3 and 4.2.6.1).
pub(crate) fn header_frame(properties: &BasicProperties) -> usize {
    const FRAME: usize = 8;
    const CLASS_WEIGHT_SIZE_FLAGS: usize = 2 + 2 + 8 + 2;
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    let texts: usize = texts.into_iter().flatten().map(short).sum();
    let bytes = [properties.delivery_mode(), properties.priority()];
    let bytes = bytes.into_iter().flatten().count();
    let timestamp = properties.timestamp().map_or(0, |_| 8);
    let headers = properties.headers().as_ref().map_or(0, table);
    FRAME + CLASS_WEIGHT_SIZE_FLAGS + texts + bytes + timestamp + headers
}

fn short(text: &ShortString) -> usize {
    1 + text.as_str().len()
}

fn table(table: &FieldTable) -> usize {
    4 + table.inner().iter().map(|(name, field)| short(name) + value(field)).sum::<usize>()
}

fn value(it: &AMQPValue) -> usize {
    1 + match it {
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => short(text),
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        AMQPValue::FieldArray(values) => 4 + values.as_slice().iter().map(value).sum::<usize>(),
        AMQPValue::FieldTable(fields) => table(fields),
        AMQPValue::Void => 0,
    }
}
