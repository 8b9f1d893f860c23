//! Rounds, medians, and the table.

use std::time::Instant;

const ROUNDS: usize = 7;

/// What one round gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Operations a second.
    rate: f64,
    /// CPU time of this process for each operation, in µs.
    cpu: f64,
}

/// Measures from when it is made to when it is read.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    start: Instant,
    cpu: f64,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), cpu: cpu() }
    }

    pub(crate) fn stop(self, operations: usize) -> Figures {
        let operations = operations as f64;
        Figures {
            rate: operations / self.start.elapsed().as_secs_f64(),
            cpu: (cpu() - self.cpu) / operations,
        }
    }
}

/// CPU time that the threads of this process have taken, in µs; NaN where the kernel does not
/// tell (`/proc/PID/task/TID/schedstat`, nanoseconds first). No thread ends while a contestant is
/// measured.
fn cpu() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return f64::NAN };
    let times = threads.flatten().map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<f64>().ok()
    });
    times.map(|nanoseconds| nanoseconds.map_or(f64::NAN, |ns| ns / 1000.0)).sum()
}

/// Runs one round on a runtime of two threads.
pub(crate) fn round(work: impl Future<Output = Figures> + Send + 'static) -> Figures {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs threads and memory only");
    runtime.block_on(async { tokio::spawn(work).await.expect("a contestant failed") })
}

/// One who is measured: a name, and a round.
pub(crate) type Contestant<'a> = (&'a str, &'a dyn Fn() -> Figures);

pub(crate) struct Report {
    title: Option<String>,
    who: Option<String>,
    rows: Vec<String>,
}

impl Report {
    pub(crate) fn new() -> Self {
        let mut words = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
        Self { title: words.next(), who: words.next(), rows: Vec::new() }
    }

    /// Lets all take turns. The first two are what the others are compared to, round by round.
    pub(crate) fn compare(&mut self, title: &str, contestants: &[Contestant<'_>]) {
        let wanted = |filter: &Option<String>, name: &str| {
            filter.as_ref().is_none_or(|filter| name.contains(filter))
        };
        if !wanted(&self.title, title) {
            return;
        }
        let contestants: Vec<_> =
            contestants.iter().filter(|(name, _)| wanted(&self.who, name)).collect();
        let mut figures = vec![Vec::new(); contestants.len()];
        for number in 1..=ROUNDS {
            eprintln!("{title}: round {number} of {ROUNDS}");
            for ((_, round), figures) in contestants.iter().zip(&mut figures) {
                figures.push(round());
            }
        }
        if figures.is_empty() {
            return;
        }
        self.rows.push(format!("| **{title}** | | | | | | |"));
        for ((name, _), mine) in contestants.iter().zip(&figures) {
            let column = |what: fn(&Figures) -> f64, digits: usize| {
                let ratio_to = |other: usize| {
                    let other = figures.get(other).unwrap_or(mine);
                    median(mine.iter().zip(other).map(|(mine, its)| what(mine) / what(its)))
                };
                let absolute = median(mine.iter().map(what));
                format!("{absolute:.digits$} | {:.2} | {:.2}", ratio_to(0), ratio_to(1))
            };
            self.rows.push(format!(
                "| {name} | {} | {} |",
                column(|figures| figures.rate, 0),
                column(|figures| figures.cpu, 1)
            ));
        }
    }

    pub(crate) fn print(&self) {
        println!("Medians of {ROUNDS} rounds, of figures and of ratios.\n");
        println!(
            "| | a second | to the first | to the second | CPU µs | to the first | to the second |"
        );
        println!("|---|---|---|---|---|---|---|");
        self.rows.iter().for_each(|row| println!("{row}"));
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
