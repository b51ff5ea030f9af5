//! The process dies between any two of its writes.

use std::collections::BTreeSet;

use crate::store::{boot::Boot, faults};
use crate::testing::{Node, texts};

const POOL: &str = r#""ranges":[[{"subnet":"10.64.1.0/29"}],[{"subnet":"fd00::/125"}]]"#;

/// Does `work` and dies after `writes` writes. Whether it lived to the end.
fn dying_after<T>(writes: u64, work: impl FnOnce() -> Result<T, crate::Error>) -> bool {
    faults::die_after(Some(writes));
    let done = work();
    faults::die_after(None);
    done.is_ok()
}

/// After whatever happened: DELs leave nothing, every address can be given, none twice.
fn assert_sound(node: &Node, ids: &[&str]) {
    let taken = node.taken();
    let addresses: BTreeSet<_> = taken.iter().map(|line| line.split(' ').next()).collect();
    assert_eq!(addresses.len(), taken.len());
    for id in ids {
        node.del(id);
    }
    assert_eq!(node.taken(), [""; 0]);
    let got: BTreeSet<String> = (0..5).map(|n| node.add(&format!("new{n}"))).collect();
    assert_eq!(got.len(), 5);
    assert_eq!(node.lost(), 0);
}

#[test]
fn a_lease_that_dies_anywhere_leaves_what_a_del_removes() {
    let mut deaths = 0;
    for with_neighbour in [false, true] {
        for writes in 0.. {
            let node = Node::new(POOL);
            if with_neighbour {
                node.add("other");
            }
            if dying_after(writes, || node.lease("c1")) {
                break;
            }
            deaths += 1;
            assert_sound(&node, &["c1", "other"]);
        }
    }
    assert!(deaths > 15, "{deaths}");
}

#[test]
fn a_lease_that_died_is_taken_up_by_the_retry() {
    for writes in 0.. {
        let node = Node::new(POOL);
        node.add("other");
        let lived = dying_after(writes, || node.lease("c1"));
        let again = texts(&node.lease("c1").unwrap());
        assert_eq!(again.split(", ").count(), 2);
        assert_eq!(node.taken().len(), 4);
        if lived {
            break;
        }
    }
}

#[test]
fn a_release_that_dies_anywhere_is_finished_by_the_next() {
    for writes in 0.. {
        let node = Node::new(POOL);
        node.add("c1");
        node.add("other");
        let lived = dying_after(writes, || node.try_del("c1"));
        assert!(
            node.taken()
                .iter()
                .filter(|line| line.contains("other"))
                .count()
                == 2
        );
        assert_sound(&node, &["c1", "other"]);
        if lived {
            break;
        }
    }
}

#[test]
fn a_rebuild_that_dies_anywhere_is_done_again() {
    for writes in 0.. {
        let node = Node::new(POOL);
        node.add_pod("c1");
        node.add_pod("other");
        node.file("10.64.1.leases").set_len(700).unwrap();
        let lived = dying_after(writes, || node.lease("c2"));
        node.lease("c3").unwrap();
        let live = ["10.64.1.2 c1 eth0", "10.64.1.3 other eth0"];
        let taken = node.taken();
        assert!(
            live.iter().all(|line| taken.iter().any(|t| t == line)),
            "{taken:?}"
        );
        assert_sound(&node, &["c1", "c2", "c3", "other"]);
        if lived {
            break;
        }
    }
}

#[test]
fn the_first_lease_of_a_boot_that_dies_anywhere_loses_no_address() {
    for writes in 0.. {
        let mut node = Node::new(POOL);
        for n in 0..5 {
            node.add(&format!("old{n}"));
        }
        node.damage("10.64.1.3", 9);
        node.boot = Boot::parse("ffffffff").unwrap();
        let lived = dying_after(writes, || node.lease("c1"));
        assert_sound(&node, &["c1"]);
        if lived {
            break;
        }
    }
}
