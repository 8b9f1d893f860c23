//! Which of the lines that have all words come first, and what is shown of them.
//! Looks at the line alone, so that the scores of different shards compare.

use crate::tokens::{spans, tokens};

/// Words after which something gets its name, in a few languages.
const DEFINES: [&str; 14] = [
    "class",
    "const",
    "def",
    "define",
    "enum",
    "fn",
    "macro_rules",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "typedef",
    "union",
];

/// The most characters of a line that an excerpt shows.
const EXCERPT: usize = 72;

/// How well a line that has all of `words` fits: 0 to 300.
///
/// Up to 100 for the share of the line that is made of the words, 100 if they follow each
/// other as in the query, 100 if the line defines one of them.
pub(crate) fn score(line: &str, words: &[String]) -> u32 {
    let line = line.trim();
    let tokens: Vec<&str> = tokens(line).collect();
    let wanted = |token: &str| words.iter().any(|word| word.eq_ignore_ascii_case(token));
    let matched: usize = tokens.iter().filter(|token| wanted(token)).map(|token| token.len()).sum();
    let share = (matched * 100 / line.len().max(1)) as u32;
    let in_order = words.len() > 1
        && tokens.windows(words.len()).any(|window| {
            window.iter().zip(words).all(|(token, word)| token.eq_ignore_ascii_case(word))
        });
    let defined = tokens.windows(2).any(|pair| DEFINES.contains(&pair[0]) && wanted(pair[1]));
    share + 100 * u32::from(in_order) + 100 * u32::from(defined)
}

/// The line without its indentation; if it is long, the part where the first word is.
pub(crate) fn excerpt(line: &str, words: &[String]) -> String {
    let line = line.trim();
    if line.chars().count() <= EXCERPT {
        return line.to_owned();
    }
    let is_wanted = |&(start, end): &(usize, usize)| {
        words.iter().any(|word| word.eq_ignore_ascii_case(&line[start..end]))
    };
    let first = spans(line).find(is_wanted).map_or(0, |(start, _)| start);
    let before = line[..first].chars().count();
    let skipped = if before < EXCERPT / 2 { 0 } else { before - EXCERPT / 4 };
    let part: String = line.chars().skip(skipped).take(EXCERPT).collect();
    let head = if skipped > 0 { "…" } else { "" };
    let tail = if line.chars().count() > skipped + EXCERPT { "…" } else { "" };
    format!("{head}{part}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_and_phrases_come_first() {
        let words = ["spin".to_owned(), "lock".to_owned()];
        let definition = score("pub struct Lock<T> { spin: T }", &words);
        let phrase = score("// a spin lock, as in the book about it", &words);
        let neither = score("let lock = something.with(a_long_name, spin);", &words);
        assert!(definition > neither && phrase > neither);
    }

    #[test]
    fn a_long_line_is_cut_around_the_word() {
        let line = format!("   {} needle {}", "é ".repeat(200), "b ".repeat(200));
        let excerpt = excerpt(&line, &["needle".to_owned()]);
        assert!(excerpt.contains("needle") && excerpt.chars().count() <= EXCERPT + 2);
        assert!(line.contains(excerpt.trim_matches('…')));
    }
}
