//! What a pattern selects, by definition.

/// Whether a key is one that a pattern selects: AMQP 0-9-1, 3.1.3.3, word by word.
#[must_use]
pub fn selects(pattern: &str, key: &str) -> bool {
    fn walk(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            (["#", rest @ ..], _) if walk(rest, key) => true,
            (["#", ..], [_, tail @ ..]) => walk(pattern, tail),
            (["*", rest @ ..], [_, tail @ ..]) => walk(rest, tail),
            ([word, rest @ ..], [other, tail @ ..]) => word == other && walk(rest, tail),
            _ => false,
        }
    }
    walk(&words(pattern), &words(key))
}

/// Nothing is no word at all, not an empty one.
fn words(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split('.').collect() }
}
