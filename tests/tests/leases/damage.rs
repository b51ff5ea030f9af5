//! A store that is lost or damaged under live pods.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::IpAddr,
    os::unix::fs::FileExt,
    path::Path,
};

use harness::{Host, conf, on_host};
use serde_json::Value;

use crate::kit::{self, LINE, Random, STORE};

/// All 256 lines of a block.
const BLOCK: u64 = 256 * LINE as u64;

const LEASES: &str = "/run/cni-ipam/cbr0/10.64.1.leases";

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn fifty_pods_outlive_their_store() {
    on_host(|host| {
        let conf = conf::smallest();
        let (_neighbour, _) = host.pod(&conf);
        let before = host.state();
        let (old, taken) = kit::pods(host, &conf, 50);
        fs::remove_dir_all("/run/cni-ipam").unwrap();
        let (new, addresses) = kit::pods(host, &conf, 50);
        assert!(taken.is_disjoint(&addresses), "{taken:?} {addresses:?}");
        let in_kernel: BTreeSet<IpAddr> = old.iter().chain(&new).flat_map(kit::in_kernel).collect();
        assert_eq!(in_kernel.len(), 100);
        kit::assert_healthy();
        for pod in old.iter().chain(&new) {
            host.del(&conf, pod).done();
        }
        host.state().assert_same(&before);
    });
}

/// Five leases of another main plugin, of which no link tells.
fn leases(host: &Host, conf: &Value, name: &str) -> BTreeSet<IpAddr> {
    (0..5)
        .map(|n| kit::lease(host, conf, &format!("{name}{n}")))
        .collect()
}

fn release(host: &Host, conf: &Value, name: &str) {
    for n in 0..5 {
        kit::ipam(host, "DEL", conf, &format!("{name}{n}"))
            .run()
            .done();
    }
}

/// Damages a store with five leases in some way, and leases five more.
fn survives(host: &Host, what: &str, damage: impl FnOnce()) {
    let conf = conf::smallest();
    let old = leases(host, &conf, "old");
    damage();
    println!("{what}");
    let new = leases(host, &conf, "new");
    assert!(old.is_disjoint(&new), "{old:?} {new:?}");
    assert_eq!(new.len(), 5);
    release(host, &conf, "old");
    release(host, &conf, "new");
    fs::remove_dir_all(STORE).unwrap();
}

fn open(file: &str) -> File {
    let path = Path::new(STORE).join(file);
    File::options().write(true).open(path).unwrap()
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn an_index_that_is_lost_or_damaged() {
    on_host(|host| {
        let index = Path::new(STORE).join("index");
        survives(host, "deleted", || fs::remove_file(&index).unwrap());
        survives(host, "text", || fs::write(&index, "hello\n").unwrap());
        survives(host, "zeroes", || {
            fs::write(&index, vec![0; 64 << 10]).unwrap();
        });
        let conf = conf::smallest();
        leases(host, &conf, "old");
        let whole = fs::read(&index).unwrap();
        release(host, &conf, "old");
        fs::remove_dir_all(STORE).unwrap();
        let length = whole.len() as u64;
        for cut in [0, 1, 63, 64, 4095, 4096, length - 1] {
            let cut_it = || open("index").set_len(cut).unwrap();
            survives(host, &format!("cut to {cut}"), cut_it);
        }
        let places = (0..length).zip(&whole).filter(|(_, byte)| **byte != 0);
        let shift = Random::new(1).below(3);
        for (at, byte) in places.skip(usize::try_from(shift).unwrap()).step_by(3) {
            survives(host, &format!("byte {at} is not {byte}"), || {
                open("index").write_all_at(&[!byte], at).unwrap();
            });
        }
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_block_that_is_cut_short() {
    on_host(|host| {
        let mut random = Random::new(2);
        let mut lengths = vec![
            0,
            1,
            255,
            256,
            257,
            511,
            512,
            600,
            768,
            1024,
            1300,
            BLOCK - 1,
        ];
        lengths.extend((0..40).map(|_| random.below(10 * LINE as u64)));
        for length in lengths {
            survives(host, &format!("cut to {length}"), || {
                open("10.64.1.leases").set_len(length).unwrap();
            });
        }
    });
}

/// Nothing tells any more which addresses of the lost lines are in use: none of them is
/// given until an operator says so.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_block_that_is_cut_short_without_an_index() {
    on_host(|host| {
        let conf = conf::smallest();
        for length in [0, 1, 256, 700, 1024, 1281, 5 * LINE as u64] {
            let old = leases(host, &conf, "old");
            open("10.64.1.leases").set_len(length).unwrap();
            fs::remove_file(Path::new(STORE).join("index")).unwrap();
            let answer = kit::ipam(host, "ADD", &conf, "new").run();
            let words = kit::words(answer, 11);
            assert!(words.contains(" quarantined"), "{length}: {words}");
            release(host, &conf, "old");
            let (status, text) = kit::tool(&["verify"]);
            assert_eq!(status, 1, "{text}");
            for address in &old {
                // The lines before the cut were whole, and their leases are ended.
                kit::tool(&["release", &address.to_string()]);
            }
            let new = leases(host, &conf, "new");
            assert_eq!(new, old, "{length}");
            fs::remove_dir_all(STORE).unwrap();
        }
    });
}

/// Where the index is whole, it knows more than the block that is gone: nothing but what
/// was in use is lost, and a DEL gives it back.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_block_that_is_deleted() {
    on_host(|host| {
        let conf = conf::smallest();
        survives(host, "deleted", || fs::remove_file(LEASES).unwrap());
        leases(host, &conf, "old");
        fs::remove_file(LEASES).unwrap();
        leases(host, &conf, "new");
        release(host, &conf, "old");
        release(host, &conf, "new");
        let lines = fs::read_to_string(LEASES).unwrap();
        let taken = lines.lines().filter(|line| !line.starts_with('F'));
        assert_eq!(taken.collect::<Vec<_>>(), Vec::<&str>::new());
        kit::assert_healthy();
    });
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_damaged_line_takes_one_address_away_and_is_told_of() {
    on_host(|host| {
        let conf = kit::network(&serde_json::json!({ "subnet": "10.64.1.0/29" }));
        // 10.64.1.2, .3 and .4 of .2 to .6.
        let results = ["a", "b", "c"].map(|id| kit::ipam(host, "ADD", &conf, id).run().result());
        let damaged = kit::address(&results[1]).to_string();
        open("10.64.1.leases")
            .write_all_at(b"junk", 3 * LINE as u64 + 50)
            .unwrap();
        told(host, &conf, &results, &damaged);

        let rest: BTreeSet<String> = ["d", "e"]
            .map(|id| kit::lease(host, &conf, id).to_string())
            .into();
        assert_eq!(
            rest,
            BTreeSet::from(["10.64.1.5".to_owned(), "10.64.1.6".to_owned()])
        );
        let words = kit::words(kit::ipam(host, "ADD", &conf, "f").run(), 11);
        assert!(
            words.contains("4 used") && words.contains("1 quarantined"),
            "{words}"
        );
        told(host, &conf, &results, &damaged);

        // An operator knows that nobody has it.
        let (status, text) = kit::tool(&["repair"]);
        assert!(status == 1 && text.contains(&damaged), "{status} {text}");
        let (status, text) = kit::tool(&["release", &damaged]);
        assert_eq!(status, 0, "{text}");
        kit::assert_healthy();
        assert_eq!(kit::lease(host, &conf, "f").to_string(), damaged);
    });
}

/// CHECK of the pod, STATUS and the tool say it; CHECK of the others is content.
fn told(host: &Host, conf: &Value, results: &[Value; 3], damaged: &str) {
    for (id, result) in ["a", "b", "c"].iter().zip(results) {
        let check = conf::with(conf, &serde_json::json!({ "prevResult": result }));
        let answer = kit::ipam(host, "CHECK", &check, id).run();
        if kit::address(result).to_string() == damaged {
            let words = kit::words(answer, 5);
            assert!(
                words.contains("damaged") && words.contains(damaged),
                "{words}"
            );
        } else {
            answer.done();
        }
    }
    let answer = kit::ipam(host, "STATUS", conf, "").run();
    assert!(answer.stderr.contains("damaged records"), "{answer:?}");
    answer.done();
    let (status, text) = kit::tool(&["verify"]);
    assert_eq!(status, 1, "{text}");
    let problems: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("10.64.1."))
        .collect();
    assert!(
        problems.len() == 1 && problems[0].contains(damaged),
        "{text}"
    );
}

/// The pod of a damaged line has its link, which knows what it has: the line is mended by
/// the operator's word, and its DEL works before and after.
#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn a_damaged_line_of_a_pod_of_ours_is_repaired_from_its_link() {
    on_host(|host| {
        let conf = conf::smallest();
        let (_neighbour, _) = host.pod(&conf);
        let before = host.state();
        let (pod, result) = host.pod(&conf);
        let whole = host.state();
        open("10.64.1.leases")
            .write_all_at(b"junk", 3 * LINE as u64 + 20)
            .unwrap();
        let words = kit::words(host.check(&conf, &pod, &result), 5);
        assert!(words.contains("10.64.1.3"), "{words}");
        let (status, text) = kit::tool(&["repair"]);
        assert_eq!(status, 0, "{text}");
        kit::assert_healthy();
        host.state().assert_same(&whole);
        host.check(&conf, &pod, &result).done();
        host.del(&conf, &pod).done();
        host.state().assert_same(&before);
    });
}
