//! Sequences that are run first, every time: those that ever showed a difference, shrunk, and
//! those that nobody would draw.

use crate::op::Op;

/// A sequence with a name.
#[derive(Debug, Clone)]
pub struct Kept {
    /// What it is about.
    pub name: String,
    /// What is done.
    pub ops: Vec<Op>,
}

/// Reads a file of them: a name after `#`, then an operation a line.
///
/// # Errors
///
/// The line that is none, and why.
pub fn read(text: &str) -> Result<Vec<Kept>, String> {
    let mut all: Vec<Kept> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix('#') {
            all.push(Kept { name: name.trim().to_owned(), ops: Vec::new() });
        } else {
            let kept = all.last_mut().ok_or("a sequence has a name before it")?;
            kept.ops.push(line.parse().map_err(|error| format!("{line}: {error}"))?);
        }
    }
    Ok(all)
}

/// As [`read`] reads it.
#[must_use]
pub fn write(name: &str, ops: &[Op]) -> String {
    let lines: Vec<String> = ops.iter().map(ToString::to_string).collect();
    format!("# {name}\n{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Taste, sequence};

    #[test]
    fn what_is_written_reads_back() {
        for seed in 0..200 {
            for taste in [Taste::USUAL, Taste::SERIAL] {
                let ops = sequence(seed, taste);
                let kept = read(&write("a name", &ops)).unwrap();
                assert_eq!((kept.len(), &*kept[0].name, &kept[0].ops), (1, "a name", &ops));
            }
        }
        assert!(read("send A").is_err() && read("# a\nsing A").is_err());
    }
}
