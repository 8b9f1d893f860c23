//! The page that says what was proven: `GEAR_DIFFERENTIAL_MARKDOWN` names the file. Several runs,
//! each with another RabbitMQ, add to the same.

use std::{
    env, fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

const VARIABLE: &str = "GEAR_DIFFERENTIAL_MARKDOWN";
const HEAD: &str = include_str!("page/head.md");
const FOOT: &str = include_str!("page/foot.md");

/// Writes that `what` is proven on `broker`, instead of what the page said of the two before.
/// Says it on the terminal, too.
///
/// # Panics
///
/// If the file can not be written.
pub fn proven(broker: &str, what: &str, how_often: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    println!("{broker}: {what}: {how_often}");
    let Some(path) = env::var_os(VARIABLE) else { return };
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let page = fs::read_to_string(&path).unwrap_or_default();
    let written = fs::write(&path, with_row(&page, broker, what, how_often));
    written.unwrap_or_else(|error| panic!("{}: {error}", Path::new(&path).display()));
}

fn with_row(page: &str, broker: &str, what: &str, how_often: &str) -> String {
    let key = format!("| {broker} | {what} |");
    let is_row = |line: &&str| line.starts_with("| gear-memory") || line.starts_with("| RabbitMQ");
    let mut rows: Vec<String> = page
        .lines()
        .filter(is_row)
        .filter(|row| !row.starts_with(&key))
        .map(str::to_owned)
        .collect();
    rows.push(format!("{key} {how_often} |"));
    rows.sort();
    format!("{HEAD}{}\n{FOOT}", rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_takes_the_place_of_the_one_before() {
        let page = with_row("", "RabbitMQ 4.0.5", "sequences", "300");
        let page = with_row(&page, "RabbitMQ 3.10.8", "sequences", "300");
        let page = with_row(&page, "RabbitMQ 4.0.5", "sequences", "5,000");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| RabbitMQ")).collect();
        assert_eq!(
            rows,
            ["| RabbitMQ 3.10.8 | sequences | 300 |", "| RabbitMQ 4.0.5 | sequences | 5,000 |"]
        );
    }
}
