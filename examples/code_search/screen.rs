//! How things look: numbers, hits, tables. Makes text and prints it, and knows no services.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use crate::{
    protocol::{Found, Report, Settings, ShardSize},
    tokens::spans,
};

/// Prints a text. Unlike `println!` it does not panic when nobody reads any more.
pub(crate) fn say(text: impl Display) -> io::Result<()> {
    if cfg!(test) {
        // What the harness keeps to itself unless a test fails.
        println!("{text}");
        return Ok(());
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints a heading.
pub(crate) fn heading(text: &str) -> io::Result<()> {
    say(format!("\n{}", bold(text)))
}

/// Warns of instances that did not answer.
pub(crate) fn warn_missing(missing: &[String], consequence: &str) -> io::Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    say(format!("  warning: {}: {consequence}", missing.join(", ")))
}

/// 1234567 as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 line`, `2 lines`.
pub(crate) fn counted(number: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// Settings of the tokenizer in words.
pub(crate) fn settings(settings: Settings) -> String {
    let case = if settings.case_sensitive { "exact case" } else { "any case" };
    match settings.min_length {
        0 | 1 => case.to_owned(),
        length => format!("{case}, {length}+ letters"),
    }
}

/// The answer to a query: a line about it, and the best hits.
pub(crate) fn found(query: &str, found: &Found, took: Duration) -> String {
    let hits = &found.hits;
    let mut text = format!(
        "\n{}  {} in {}, {}, {} by {}",
        bold(&format!("\"{query}\"")),
        counted(hits.lines as u64, "line"),
        counted(hits.files as u64, "file"),
        settings(found.settings),
        duration(took),
        found.by,
    );
    if !found.ignored.is_empty() {
        text += &format!("\n  too short, ignored: {}", found.ignored.join(" "));
    }
    let places: Vec<String> =
        hits.best.iter().map(|hit| format!("{}:{}", hit.path, hit.line)).collect();
    let width = places.iter().map(|place| place.chars().count()).max().unwrap_or(0);
    for (place, hit) in places.iter().zip(&hits.best) {
        text += &format!("\n  {place:width$}  {}", highlighted(&hit.excerpt, &found.words));
    }
    let more = hits.lines.saturating_sub(hits.best.len());
    if more > 0 && !hits.best.is_empty() {
        text += &format!("\n  and {}", counted(more as u64, "more line"));
    }
    text
}

/// What everybody did and holds. Operations that nobody was asked for have no column.
pub(crate) fn reports(reports: &[(String, Report)]) -> String {
    let mut sums: Vec<(&str, u64)> = Vec::new();
    for (name, count) in reports.iter().flat_map(|(_, report)| &report.messages) {
        match sums.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += count,
            None => sums.push((name, *count)),
        }
    }
    sums.retain(|(_, sum)| *sum > 0);
    let row = |first: &str, counts: Vec<String>, last: [String; 3]| {
        [first.to_owned()].into_iter().chain(counts).chain(last).collect::<Vec<_>>()
    };
    let names = sums.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut rows = vec![row("instance", names, ["files", "lines", "tokens"].map(str::to_owned))];
    for (instance, Report { messages, shard }) in reports {
        let count = |wanted: &str| messages.iter().find(|(name, _)| name == wanted);
        let counts = sums.iter().map(|(name, _)| match count(name) {
            Some((_, count)) => grouped(*count),
            None => NONE.to_owned(),
        });
        rows.push(row(instance, counts.collect(), sizes(*shard)));
    }
    let counts = sums.iter().map(|(_, sum)| grouped(*sum)).collect();
    rows.push(row("all", counts, sizes(Some(total(reports)))));
    table(&rows)
}

/// What all shards together hold.
pub(crate) fn total(reports: &[(String, Report)]) -> ShardSize {
    let shards = reports.iter().filter_map(|(_, report)| report.shard);
    shards.fold(ShardSize::default(), |sum, shard| ShardSize {
        files: sum.files + shard.files,
        lines: sum.lines + shard.lines,
        tokens: sum.tokens + shard.tokens,
    })
}

/// For what an instance does not do or have.
const NONE: &str = "·";

fn sizes(shard: Option<ShardSize>) -> [String; 3] {
    match shard {
        Some(ShardSize { files, lines, tokens }) => [files, lines, tokens].map(grouped),
        None => [NONE; 3].map(str::to_owned),
    }
}

/// Rows of one length in columns: the first to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("  {cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A time in the unit that suits it.
pub(crate) fn duration(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.2} s"),
        seconds => format!("{:.1} ms", seconds * 1000.0),
    }
}

fn bold(text: &str) -> String {
    if has_style() { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

fn has_style() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// The excerpt with the words of the query in bold. What could steer a terminal is blanked.
fn highlighted(excerpt: &str, words: &[String]) -> String {
    let plain: String = excerpt.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut text = String::new();
    let mut done = 0;
    for (start, end) in spans(&plain) {
        if words.iter().any(|word| word.eq_ignore_ascii_case(&plain[start..end])) {
            text += &plain[done..start];
            text += &bold(&plain[start..end]);
            done = end;
        }
    }
    text + &plain[done..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(counted(1, "line"), "1 line");
        assert_eq!(counted(2, "line"), "2 lines");
    }

    #[test]
    fn an_excerpt_can_not_steer_the_terminal() {
        assert_eq!(highlighted("a\x1b[2Jb\tc", &[]), "a [2Jb c");
    }

    #[test]
    fn reports_have_a_column_for_what_happened() {
        let report = |messages: &[(&str, u64)], shard| Report {
            messages: messages.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            shard,
        };
        let shard = ShardSize { files: 1, lines: 2, tokens: 3 };
        let all = [
            ("A.h".to_owned(), report(&[("ask", 1), ("never", 0)], None)),
            ("B.h".to_owned(), report(&[("tell", 2), ("ask", 0)], Some(shard))),
        ];
        let expected = [
            "  instance  ask  tell  files  lines  tokens",
            "  A.h         1     ·      ·      ·       ·",
            "  B.h         0     2      1      2       3",
            "  all         1     2      1      2       3",
        ];
        assert_eq!(reports(&all), expected.join("\n"));
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "1"], ["bcd", "100"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "  a      1\n  bcd  100");
    }
}
