//! What a token is: a run of `[A-Za-z0-9_]`, as long as it goes.
//! CTRL cuts files and queries with it, REPO the lines that it ranks.

/// The tokens of a text, from left to right.
pub(crate) fn tokens(text: &str) -> impl Iterator<Item = &str> {
    spans(text).map(|(start, end)| &text[start..end])
}

/// Where the tokens of a text are: first byte, and the byte after the last.
pub(crate) fn spans(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + bytes[at..].iter().position(|byte| is_token(*byte))?;
        let length = bytes[start..].iter().position(|byte| !is_token(*byte));
        at = length.map_or(bytes.len(), |length| start + length);
        Some((start, at))
    })
}

/// Every byte of a character that is not ASCII says no, so that a cut never splits one.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_run_of_letters_digits_and_underscores() {
        let of = |text| tokens(text).collect::<Vec<_>>();
        assert_eq!(of("Arc::<Mutex_2>::new(0x1f)"), ["Arc", "Mutex_2", "new", "0x1f"]);
        assert_eq!(of("naïve été"), ["na", "ve", "t"]);
        assert_eq!(of("_"), ["_"]);
        assert!(of("").is_empty() && of(" é→ ").is_empty());
    }
}
