//! What stands in the files is wrong.

use std::{collections::BTreeSet, fs, os::unix::fs::FileExt};

use crate::store::{block, index, line::LINE};
use crate::testing::Node;

const POOL: &str = r#""subnet":"10.64.1.0/28""#;
const FILE: &str = "10.64.1.leases";

/// A node with five pods with links, of which the third is gone.
fn node() -> Node {
    let node = Node::new(POOL);
    for n in 2..7 {
        node.add_pod(&format!("c{n}"));
    }
    node.remove_link("c4");
    node.del("c4");
    node
}

/// Adds pods until none is to be had, and returns the addresses that all have.
fn fill(node: &Node) -> BTreeSet<String> {
    let mut got = BTreeSet::new();
    for n in 0.. {
        match node.lease(&format!("new{n}")) {
            Ok(leased) => assert!(got.insert(crate::testing::texts(&leased))),
            Err(error) => {
                assert!(
                    error.to_string().contains("no IP addresses available"),
                    "{error}"
                );
                return got;
            }
        }
    }
    got
}

/// The live pods' addresses: none of them may be given to anybody.
const LIVE: [&str; 4] = ["10.64.1.2", "10.64.1.3", "10.64.1.5", "10.64.1.6"];

fn assert_live_are_kept(node: &Node) -> usize {
    let got = fill(node);
    for address in LIVE {
        assert!(!got.contains(address), "{address} was given twice");
    }
    got.len()
}

#[test]
fn a_damaged_line_of_a_pod_costs_nobody_anything_at_any_byte() {
    for byte in 0..LINE {
        let node = node();
        node.damage("10.64.1.3", byte);
        assert_eq!(
            node.add("c3"),
            "10.64.1.3",
            "its owner's retry, byte {byte}"
        );
        node.damage("10.64.1.3", byte);
        node.del("c3");
        assert_eq!(node.lost(), 0, "byte {byte}");
        node.remove_link("c3");
        assert_eq!(fill(&node).len(), 10, "byte {byte}");
    }
}

#[test]
fn a_damaged_line_of_a_free_address_heals_at_any_byte() {
    for byte in 0..LINE {
        // One that was given before, and one that never was.
        let address = ["10.64.1.4", "10.64.1.9"][byte % 2];
        let node = node();
        node.damage(address, byte);
        assert_eq!(assert_live_are_kept(&node), 9, "{address} byte {byte}");
        assert_eq!(node.lost(), 0);
    }
}

#[test]
fn every_line_damaged_and_no_index_is_healed_from_the_links() {
    for byte in [0, 3, 50, 140, 160, 250, LINE - 1] {
        let node = node();
        for slot in 0..16 {
            node.damage(&format!("10.64.1.{slot}"), byte);
        }
        fs::remove_file(node.path().join(index::NAME)).unwrap();
        node.del("someone");
        let mut taken = node.taken();
        taken.sort_unstable();
        assert_eq!(
            taken,
            [
                "10.64.1.2 c2 eth0",
                "10.64.1.3 c3 eth0",
                "10.64.1.5 c5 eth0",
                "10.64.1.6 c6 eth0"
            ]
        );
        // What no link speaks for might be another plugin's: it stays out of use.
        assert_eq!(node.lost(), 12);
        assert_eq!(assert_live_are_kept(&node), 0);
    }
}

#[test]
fn damage_ends_with_the_boot() {
    let mut node = node();
    for slot in 0..16 {
        node.damage(&format!("10.64.1.{slot}"), 7);
    }
    fs::remove_file(node.path().join(index::NAME)).unwrap();
    node.del("someone");
    assert_eq!(node.lost(), 12);
    node.links.there.lock().unwrap().clear();
    node.boot = crate::store::boot::Boot::parse("ffffffff").unwrap();
    assert_eq!(fill(&node).len(), 13);
}

#[test]
fn a_file_that_was_cut_off_anywhere_loses_no_pod_and_no_free_address() {
    let line_ends = (0..block::SIZE).step_by(LINE);
    let odd = [
        1,
        100,
        255,
        257,
        512 + 3,
        1024 + 254,
        1025,
        4095,
        40_000,
        block::SIZE - 1,
    ];
    for len in line_ends.chain(odd) {
        let node = node();
        node.file(FILE).set_len(len as u64).unwrap();
        assert_eq!(assert_live_are_kept(&node), 9, "length {len}");
        assert_eq!(node.lost(), 0, "length {len}");
        for id in ["c2", "c3", "c5", "c6"] {
            node.del(id);
        }
        assert_eq!(node.taken().len(), 9, "length {len}");
        let whole = fs::metadata(node.path().join(FILE)).unwrap().len();
        assert_eq!(whole, block::SIZE as u64);
    }
}

#[test]
fn a_file_that_was_cut_off_with_its_index_gone_loses_no_pod() {
    for len in [0, 1, 3 * LINE, 5 * LINE + 7, 17 * LINE, block::SIZE - 1] {
        let node = node();
        node.file(FILE).set_len(len as u64).unwrap();
        fs::write(node.path().join(index::NAME), b"").unwrap();
        assert_live_are_kept(&node);
    }
}

#[test]
fn a_block_that_was_removed_loses_no_pod_and_no_free_address() {
    let node = node();
    fs::remove_file(node.path().join(FILE)).unwrap();
    assert_eq!(assert_live_are_kept(&node), 9);
}

#[test]
fn an_index_that_is_garbage_anywhere_in_its_header_is_built_anew() {
    for byte in 0..128 {
        let node = node();
        let file = node.file(index::NAME);
        let mut old = [0];
        file.read_exact_at(&mut old, byte).unwrap();
        file.write_all_at(&[!old[0]], byte).unwrap();
        assert_eq!(assert_live_are_kept(&node), 9, "byte {byte}");
    }
}

#[test]
fn an_index_of_any_wrong_size_is_built_anew() {
    let size = fs::metadata(node().path().join(index::NAME)).unwrap().len();
    for len in (0..size).step_by(197).chain([size + 1, size * 3]) {
        let node = node();
        node.file(index::NAME).set_len(len).unwrap();
        assert_eq!(assert_live_are_kept(&node), 9, "length {len}");
    }
}

#[test]
fn garbage_behind_the_header_never_gives_an_address_twice() {
    let size = fs::metadata(node().path().join(index::NAME)).unwrap().len();
    for at in (128..size).step_by(128) {
        for wrong in [0x00, 0xff] {
            let node = node();
            let file = node.file(index::NAME);
            file.write_all_at(&[wrong; 128], at).unwrap();
            assert_live_are_kept(&node);
        }
    }
}

#[test]
fn a_store_that_was_deleted_under_fifty_pods_is_rebuilt_from_their_links() {
    let node = Node::new(r#""ranges":[[{"subnet":"10.64.1.0/24"}],[{"subnet":"fd00::/64"}]]"#);
    let mut seen: BTreeSet<String> = (0..50).map(|n| node.add_pod(&format!("c{n}"))).collect();
    node.remove_store();
    for n in 50..100 {
        assert!(seen.insert(node.add_pod(&format!("c{n}"))));
    }
    assert_eq!(node.taken().len(), 200);
    assert_eq!(node.add("c7"), "10.64.1.9, fd00::9", "its owner keeps it");
    for n in 0..100 {
        node.del(&format!("c{n}"));
    }
    assert_eq!(node.taken(), [""; 0]);
}

#[test]
fn what_is_left_of_a_store_does_not_lead_outside() {
    let node = node();
    let elsewhere = node.dir.path().join("elsewhere");
    fs::rename(node.path().join(FILE), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, node.path().join(FILE)).unwrap();
    let error = node.lease("c9").unwrap_err();
    assert_eq!(
        format!("{error}: {}", std::error::Error::source(&error).unwrap()),
        format!(
            "cannot write to {}: it is a symbolic link",
            node.path().display()
        )
    );
}
