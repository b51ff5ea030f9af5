//! `list`: who has which address, and how full the pools are.

use std::time::SystemTime;

use cni_ipam::inspect::{Occupation, Pool, Record, View};
use serde_json::{Value, json};

use super::{
    Failed, Health, Options,
    output::{Colour, Output},
    table::{self, Cell, plain},
};

/// How much of a container id a table shows, as `crictl` does.
const SHORT_ID: usize = 13;

pub(super) fn list(options: &Options, output: &mut Output) -> Result<Health, Failed> {
    let views = options.views()?;
    if options.json {
        let networks: Vec<Value> = views.iter().map(to_json).collect();
        output.json(&json!({ "networks": networks }));
        return Ok(health(&views));
    }
    if views.is_empty() {
        let place = options.data_dir.path().display();
        output.line(&format!("no network has leases in {place}"));
    }
    for (n, view) in views.iter().enumerate() {
        if n > 0 {
            output.line("");
        }
        let title = format!("network {}", view.network);
        let title = output.paint(Colour::Bold, &title);
        output.line(&format!("{title}  {}", view.directory.display()));
        print_leases(view, output);
        for pool in &view.pools {
            output.line(&pool_line(pool, output));
        }
    }
    Ok(health(&views))
}

/// Addresses in quarantine are a problem; a full pool is none that a tool can solve.
fn health(views: &[View]) -> Health {
    let mut records = views.iter().flat_map(|view| &view.records);
    if records.any(|record| record.state == Occupation::Quarantined) {
        Health::Problems
    } else {
        Health::Good
    }
}

fn print_leases(view: &View, output: &mut Output) {
    let rows: Vec<Vec<Cell>> = view
        .records
        .iter()
        .filter(|record| record.state != Occupation::Free)
        .map(row)
        .collect();
    if rows.is_empty() {
        output.line("no leases");
        return;
    }
    let head = [
        "ADDRESS",
        "POD",
        "CONTAINER",
        "INTERFACE",
        "AGE",
        "MADE BY",
        "LINK",
    ];
    table::print(&head, &rows, output);
}

fn row(record: &Record) -> Vec<Cell> {
    if record.state == Occupation::Quarantined {
        let note = "quarantined: damaged record".to_owned();
        return vec![plain(record.address.to_string()), (note, Colour::Red)];
    }
    let id = record.container.as_deref().unwrap_or("-");
    vec![
        plain(record.address.to_string()),
        plain(record.pod.as_deref().unwrap_or("-")),
        plain(id.get(..SHORT_ID).unwrap_or(id)),
        plain(record.interface.as_deref().unwrap_or("-")),
        plain(age(record.since)),
        plain(record.made_by),
        link(record),
    ]
}

pub(super) fn link(record: &Record) -> Cell {
    match (&record.link, record.link_is_present) {
        (None, _) => ("-".to_owned(), Colour::Faint),
        (Some(link), Some(true)) => (link.clone(), Colour::Green),
        (Some(link), Some(false)) => (format!("{link} is missing"), Colour::Yellow),
        (Some(link), None) => (format!("{link} in another namespace"), Colour::Faint),
    }
}

fn pool_line(pool: &Pool, output: &Output) -> String {
    let parts: Vec<String> = pool
        .parts
        .iter()
        .map(|(first, last)| format!("{first}-{last}"))
        .collect();
    let shown = match parts.as_slice() {
        [first, second, _, rest @ ..] => format!("{first}, {second} and {} more", rest.len() + 1),
        parts => parts.join(", "),
    };
    let free = format!("{} free", pool.free());
    let colour = if pool.free() == 0 {
        Colour::Red
    } else {
        Colour::Plain
    };
    let quarantined = format!("{} quarantined", pool.quarantined);
    let alarm = if pool.quarantined > 0 {
        Colour::Red
    } else {
        Colour::Plain
    };
    format!(
        "pool {} ({shown}): {} total, {} used, {}, {}",
        pool.subnet,
        pool.total,
        pool.used,
        output.paint(colour, &free),
        output.paint(alarm, &quarantined)
    )
}

/// How long ago, in the one unit that fits.
pub(super) fn age(since: u64) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    match now.saturating_sub(since) {
        _ if since == 0 => "-".to_owned(),
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

pub(super) fn to_json(view: &View) -> Value {
    let leases = view
        .records
        .iter()
        .filter(|record| record.state != Occupation::Free);
    json!({
        "network": view.network.as_str(),
        "directory": view.directory.display().to_string(),
        "leases": leases.map(record_json).collect::<Vec<_>>(),
        "pools": view.pools.iter().map(pool_json).collect::<Vec<_>>(),
    })
}

pub(super) fn record_json(record: &Record) -> Value {
    json!({
        "address": record.address.to_string(),
        "state": state(record.state),
        "containerID": record.container,
        "interface": record.interface,
        "pod": record.pod,
        "since": record.since,
        "madeBy": record.made_by,
        "link": record.link,
        "linkPresent": record.link_is_present,
    })
}

pub(super) fn state(state: Occupation) -> &'static str {
    match state {
        Occupation::Used => "used",
        Occupation::Condemned => "condemned",
        Occupation::Free => "free",
        Occupation::Quarantined => "quarantined",
    }
}

fn pool_json(pool: &Pool) -> Value {
    // JSON numbers have no 128 bits everywhere: pools are far smaller.
    let number = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
    let parts = pool.parts.iter();
    json!({
        "set": pool.set,
        "subnet": pool.subnet.to_string(),
        "ranges": parts.map(|(first, last)| format!("{first}-{last}")).collect::<Vec<_>>(),
        "total": number(pool.total),
        "used": number(pool.used),
        "free": number(pool.free()),
        "quarantined": number(pool.quarantined),
    })
}
