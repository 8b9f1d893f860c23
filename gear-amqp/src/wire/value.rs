//! The values of headers.

use bytes::Bytes;
use gear_api::HeaderValue;
use lapin::types::{AMQPValue, ByteArray, FieldArray, FieldTable, LongString, ShortString};

/// None if a name is too long for the wire.
pub(super) fn to_amqp(value: &HeaderValue) -> Option<AMQPValue> {
    Some(match value {
        HeaderValue::Bool(value) => AMQPValue::Boolean(*value),
        HeaderValue::Int(value) => AMQPValue::LongLongInt(*value),
        HeaderValue::Float(value) => AMQPValue::Double(*value),
        HeaderValue::Text(text) => AMQPValue::LongString(LongString::from(text.as_str())),
        HeaderValue::Bytes(bytes) => AMQPValue::ByteArray(ByteArray::from(bytes.to_vec())),
        HeaderValue::Time(seconds) => AMQPValue::Timestamp(*seconds),
        HeaderValue::List(values) => {
            let values: Option<Vec<AMQPValue>> = values.iter().map(to_amqp).collect();
            AMQPValue::FieldArray(FieldArray::from(values?))
        }
        HeaderValue::Table(fields) => {
            let mut table = FieldTable::default();
            for (name, value) in fields {
                table.insert(ShortString::try_new(name.as_str()).ok()?, to_amqp(value)?);
            }
            AMQPValue::FieldTable(table)
        }
        _ => AMQPValue::Void,
    })
}

/// How deep a value from the wire is read; [`gear_api::Headers`] takes less.
const MAX_DEPTH: usize = 8;

pub(super) fn from_amqp(value: &AMQPValue) -> HeaderValue {
    read(value, MAX_DEPTH)
}

fn read(value: &AMQPValue, depth: usize) -> HeaderValue {
    use HeaderValue as H;
    let Some(deeper) = depth.checked_sub(1) else { return H::Null };
    match value {
        AMQPValue::Boolean(value) => H::Bool(*value),
        AMQPValue::ShortShortInt(value) => H::Int((*value).into()),
        AMQPValue::ShortShortUInt(value) => H::Int((*value).into()),
        AMQPValue::ShortInt(value) => H::Int((*value).into()),
        AMQPValue::ShortUInt(value) => H::Int((*value).into()),
        AMQPValue::LongInt(value) => H::Int((*value).into()),
        AMQPValue::LongUInt(value) => H::Int((*value).into()),
        AMQPValue::LongLongInt(value) => H::Int(*value),
        AMQPValue::Float(value) => H::Float((*value).into()),
        AMQPValue::Double(value) => H::Float(*value),
        AMQPValue::DecimalValue(value) => {
            H::Float(f64::from(value.value) / 10f64.powi(value.scale.into()))
        }
        AMQPValue::ShortString(text) => H::Text(text.as_str().into()),
        // The wire does not tell text from bytes.
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => H::Text(text.into()),
            Err(_) => H::Bytes(Bytes::copy_from_slice(text.as_bytes())),
        },
        AMQPValue::ByteArray(bytes) => H::Bytes(Bytes::copy_from_slice(bytes.as_slice())),
        AMQPValue::Timestamp(seconds) => H::Time(*seconds),
        AMQPValue::FieldArray(values) => {
            H::List(values.as_slice().iter().map(|value| read(value, deeper)).collect())
        }
        AMQPValue::FieldTable(table) => {
            let field = |(name, value): (&ShortString, &AMQPValue)| {
                (name.as_str().into(), read(value, deeper))
            };
            H::Table(table.inner().iter().map(field).collect())
        }
        _ => H::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_comes_back() {
        let values = [
            HeaderValue::Null,
            HeaderValue::Bool(true),
            HeaderValue::Int(i64::MIN),
            HeaderValue::Float(-0.5),
            HeaderValue::Text("schön".into()),
            HeaderValue::Bytes(Bytes::from_static(&[0, 255])),
            HeaderValue::Time(1_700_000_000),
            HeaderValue::List(vec![HeaderValue::Int(1), HeaderValue::List(Vec::new())]),
            HeaderValue::Table(vec![("a".into(), HeaderValue::Null)]),
        ];
        for value in values {
            assert_eq!(to_amqp(&value).as_ref().map(from_amqp), Some(value));
        }
    }

    #[test]
    fn what_is_nested_without_end_is_cut() {
        let deep = (0..10_000)
            .fold(AMQPValue::Void, |inner, _| AMQPValue::FieldArray(FieldArray::from(vec![inner])));
        let HeaderValue::List(_) = from_amqp(&deep) else { panic!("a list") };
        std::mem::forget(deep); // its own Drop would recurse
    }
}
