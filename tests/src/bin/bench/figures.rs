//! Medians, ratios and their spread, and the tables of them.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use crate::call::Call;

/// What a row of a table is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    /// Pods on the bridge.
    pub(crate) level: usize,
    pub(crate) callers: usize,
    /// What is to be reached.
    pub(crate) target: &'static str,
}

#[derive(Debug)]
struct Sample {
    row: Row,
    side: usize,
    round: usize,
    call: Call,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    samples: Vec<Sample>,
}

impl Table {
    pub(crate) fn record(&mut self, row: Row, side: usize, round: usize, call: Call) {
        self.samples.push(Sample {
            row,
            side,
            round,
            call,
        });
    }

    pub(crate) fn failures(&self) -> impl Iterator<Item = &str> {
        let calls = self.samples.iter().map(|sample| &sample.call);
        calls.filter_map(|call| call.failure.as_deref())
    }

    /// Less is better. The ratio says how many times faster the first side is than the
    /// faster of the others: for each round, and then the median and the extremes of that.
    pub(crate) fn milliseconds(&self, names: &[&str]) -> String {
        self.print(names, spread, |rounds| {
            let median = |round: &Vec<&Call>| percentile(walls(round), 50);
            let medians: Vec<Vec<f64>> = by_round(rounds, median);
            ratios(&medians, f64::min, |ours, best| best / ours)
        })
    }

    /// How many times longer one thing takes than another, on the first side.
    pub(crate) fn times_longer(&self, what: &str, than: &str, target: &str) -> String {
        let mut text = String::new();
        for row in self.rows().into_iter().filter(|row| row.what == what) {
            let is_other = |other: &Row| other.what == than && other.level == row.level;
            let Some(other) = self.rows().into_iter().find(is_other) else {
                continue;
            };
            let sides = [self.rounds(row, 0), self.rounds(other, 0)];
            let medians = by_round(&sides, |round| percentile(walls(round), 50));
            let ratio = spread_of_rounds(&ratios(&medians, f64::min, |long, short| long / short));
            let level = row.level;
            writeln!(
                text,
                "{level:>4} pods: {what} / {than}: {ratio}  target: {target}"
            )
            .ok();
        }
        text
    }

    /// More is better; each round counts once.
    pub(crate) fn per_second(&self, names: &[&str]) -> String {
        let rates = |rounds: &[Vec<&Call>]| {
            spread_of_rounds(&rounds.iter().map(|round| rate(round)).collect::<Vec<_>>())
        };
        self.print(names, rates, |rounds| {
            let rates = by_round(rounds, |round| rate(round));
            ratios(&rates, f64::max, |ours, best| ours / best)
        })
    }

    fn print(
        &self,
        names: &[&str],
        cell: fn(&[Vec<&Call>]) -> String,
        ratio: fn(&[Vec<Vec<&Call>>]) -> Vec<f64>,
    ) -> String {
        let mut text = header(names);
        for row in self.rows() {
            let sides: Vec<_> = (0..names.len())
                .map(|side| self.rounds(row, side))
                .collect();
            let Row {
                what,
                level,
                callers,
                target,
            } = row;
            write!(text, "{level:>4} {callers:>7}  {what:<17}").ok();
            for rounds in &sides {
                write!(text, "{:>25}", cell(rounds)).ok();
            }
            let ratio = spread_of_rounds(&ratio(&sides));
            writeln!(text, "{ratio:>19}  {target}").ok();
        }
        text
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for sample in &self.samples {
            if !rows.contains(&sample.row) {
                rows.push(sample.row);
            }
        }
        rows
    }

    fn rounds(&self, row: Row, side: usize) -> Vec<Vec<&Call>> {
        let mine = |sample: &&Sample| sample.row == row && sample.side == side;
        let mut rounds = BTreeMap::<usize, Vec<&Call>>::new();
        for sample in self.samples.iter().filter(mine) {
            rounds.entry(sample.round).or_default().push(&sample.call);
        }
        rounds.into_values().collect()
    }
}

/// One value for each round of each side.
fn by_round(sides: &[Vec<Vec<&Call>>], value: impl Fn(&Vec<&Call>) -> f64) -> Vec<Vec<f64>> {
    let of_side = |rounds: &Vec<Vec<&Call>>| rounds.iter().map(&value).collect();
    sides.iter().map(of_side).collect()
}

fn walls(calls: &[&Call]) -> Vec<f64> {
    calls.iter().map(|call| milliseconds(call.wall())).collect()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Successful calls per second, from the first one's start to the last one's end.
fn rate(calls: &[&Call]) -> f64 {
    let start = calls.iter().map(|call| call.started).min();
    let end = calls.iter().map(|call| call.ended).max();
    let good = calls.iter().filter(|call| call.failure.is_none()).count();
    match (start, end) {
        (Some(start), Some(end)) => count(good) / (end - start).as_secs_f64(),
        _ => f64::NAN,
    }
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn count(number: usize) -> f64 {
    number as f64
}

/// For each round: the first side against the best of the others.
fn ratios(
    rounds: &[Vec<f64>],
    better: fn(f64, f64) -> f64,
    ratio: fn(f64, f64) -> f64,
) -> Vec<f64> {
    let Some((ours, others)) = rounds.split_first() else {
        return Vec::new();
    };
    let best = |round: usize| {
        let values = others.iter().filter_map(|side| side.get(round).copied());
        values.reduce(better).unwrap_or(f64::NAN)
    };
    let numbered = ours.iter().enumerate();
    numbered
        .map(|(round, value)| ratio(*value, best(round)))
        .collect()
}

/// The value below which this share of the values lies.
pub(crate) fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len().saturating_sub(1) * percent + 50) / 100;
    values.get(index).copied().unwrap_or(f64::NAN)
}

fn spread(rounds: &[Vec<&Call>]) -> String {
    spread_of(&walls(&rounds.concat()))
}

pub(crate) fn spread_of(values: &[f64]) -> String {
    let [low, middle, high] = [10, 50, 90].map(|percent| percentile(values.to_vec(), percent));
    if values.is_empty() {
        return String::new();
    }
    format!("{middle:.2} ({low:.2}-{high:.2})")
}

pub(crate) fn spread_of_rounds(values: &[f64]) -> String {
    let [low, middle, high] = [0, 50, 100].map(|percent| percentile(values.to_vec(), percent));
    if middle.is_nan() {
        return String::new();
    }
    format!("{middle:.1} ({low:.1}-{high:.1})")
}

fn header(names: &[&str]) -> String {
    let mut text = format!("{:>4} {:>7}  {:<17}", "pods", "callers", "");
    for name in names {
        write!(text, "{name:>25}").ok();
    }
    text + &format!("{:>19}  target\n", "times better")
}
