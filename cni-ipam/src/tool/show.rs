//! `show`: all about one address or container, or a picture of the pools.

use std::net::IpAddr;

use cni_ipam::inspect::{self, Occupation, Record, View};
use serde_json::{Value, json};

use super::{
    Failed, Health, Options,
    list::{age, link, record_json, state},
    output::{Colour, Output},
};

/// How many addresses a line of the picture has.
const WIDTH: usize = 64;

pub(super) fn show(what: &str, options: &Options, output: &mut Output) -> Result<Health, Failed> {
    let views = options.views()?;
    let found = find(what, &views);
    if options.json {
        let found = found.iter().map(|(view, record)| {
            let mut json = record_json(record);
            if let Value::Object(fields) = &mut json {
                fields.insert("network".to_owned(), view.network.as_str().into());
            }
            json
        });
        output.json(&json!({ "leases": found.collect::<Vec<_>>() }));
    } else {
        for (n, (view, record)) in found.iter().enumerate() {
            if n > 0 {
                output.line("");
            }
            print(view, record, output);
        }
    }
    if found.is_empty() {
        return Err(Failed::Refused(format!("nothing has, or had, {what}")));
    }
    Ok(Health::Good)
}

/// The records of an address, or of the containers whose ids begin like this.
fn find<'a>(what: &str, views: &'a [View]) -> Vec<(&'a View, &'a Record)> {
    let address: Option<IpAddr> = what.parse().ok();
    let id = |record: &Record| record.container.clone().unwrap_or_default();
    let is_wanted = |record: &Record| match address {
        Some(address) => record.address == address,
        None => id(record).starts_with(what) && record.state != Occupation::Free,
    };
    let records = views
        .iter()
        .flat_map(|view| view.records.iter().map(move |record| (view, record)));
    records.filter(|(_, record)| is_wanted(record)).collect()
}

fn print(view: &View, record: &Record, output: &mut Output) {
    let title = output.paint(Colour::Bold, &record.address.to_string());
    let had = if record.state == Occupation::Free {
        " (the last one)"
    } else {
        ""
    };
    output.line(&format!("{title}  {}", state(record.state)));
    let mut line = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            output.line(&format!("  {key:<10} {value}"));
        }
    };
    line("network", Some(view.network.as_str()));
    line("pod", record.pod.as_deref());
    let container = record.container.as_ref().map(|id| format!("{id}{had}"));
    line("container", container.as_deref());
    line("interface", record.interface.as_deref());
    let since = (record.since > 0).then(|| format!("{} ago", age(record.since)));
    line("leased", since.as_deref());
    line("made by", Some(record.made_by));
    let (text, _) = link(record);
    line("link", record.link.as_ref().map(|_| text.as_str()));
}

/// One character an address, in lines that end at round numbers.
pub(super) fn map(options: &Options, output: &mut Output) -> Result<Health, Failed> {
    let views = options.views()?;
    if options.json {
        let maps: Vec<Value> = views.iter().flat_map(map_json).collect();
        output.json(&json!({ "pools": maps }));
        return Ok(Health::Good);
    }
    for view in &views {
        for pool in &view.pools {
            let title = format!("network {}, pool {}", view.network, pool.subnet);
            let title = output.paint(Colour::Bold, &title);
            output.line(&title);
            for (first, cells) in inspect::map(view, pool) {
                print_block(first, &cells, output);
            }
        }
    }
    let used = output.paint(Colour::Green, "#");
    let lost = output.paint(Colour::Red, "?");
    output.line(&format!(
        "{used} used  . free  : free, used before  c condemned  {lost} quarantined  - not given"
    ));
    Ok(Health::Good)
}

fn print_block(first: IpAddr, cells: &[inspect::Cell], output: &mut Output) {
    for (n, row) in cells.chunks(WIDTH).enumerate() {
        let label = label(first, n * WIDTH);
        let row: String = row
            .iter()
            .map(|cell| {
                let (letter, colour) = letter(*cell);
                output.paint(colour, letter)
            })
            .collect();
        output.line(&format!("{label:>20}  {row}"));
    }
}

/// The first address of a line.
fn label(first: IpAddr, offset: usize) -> String {
    let offset = u128::try_from(offset).unwrap_or_default();
    match first {
        IpAddr::V4(first) => {
            let number = u128::from(u32::from(first)) + offset;
            u32::try_from(number)
                .map_or_else(|_| String::new(), |n| IpAddr::V4(n.into()).to_string())
        }
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + offset).into()).to_string(),
    }
}

fn letter(cell: inspect::Cell) -> (&'static str, Colour) {
    match cell {
        inspect::Cell::NotGiven => ("-", Colour::Faint),
        inspect::Cell::Never => (".", Colour::Plain),
        inspect::Cell::Free => (":", Colour::Plain),
        inspect::Cell::Used => ("#", Colour::Green),
        inspect::Cell::Condemned => ("c", Colour::Yellow),
        inspect::Cell::Quarantined => ("?", Colour::Red),
    }
}

fn map_json(view: &View) -> Vec<Value> {
    let pool_json = |pool| {
        let blocks = inspect::map(view, pool).into_iter().map(|(first, cells)| {
            let text: String = cells.iter().map(|cell| letter(*cell).0).collect();
            json!({ "first": first.to_string(), "cells": text })
        });
        json!({
            "network": view.network.as_str(),
            "subnet": pool.subnet.to_string(),
            "blocks": blocks.collect::<Vec<_>>(),
        })
    };
    view.pools.iter().map(pool_json).collect()
}
