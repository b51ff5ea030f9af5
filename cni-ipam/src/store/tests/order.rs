//! The index never changes what is given: with it, or built anew at any moment, the address
//! that has been free longest comes next.

use std::{collections::BTreeMap, fs};

use proptest::prelude::*;

use crate::{store::index, testing::Node};

#[derive(Clone, Debug)]
enum Step {
    Lease,
    Release(prop::sample::Index),
    LoseIndex,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => Just(Step::Lease),
        4 => any::<prop::sample::Index>().prop_map(Step::Release),
        1 => Just(Step::LoseIndex),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_lost_index_does_not_change_the_order(steps in prop::collection::vec(step(), 1..80)) {
        let node = Node::new(r#""subnet":"10.64.1.0/28","exclude":["10.64.1.4-10.64.1.6"]"#);
        let usable = (2..15).filter(|last| !(4..=6).contains(last));
        // When each address became free.
        let mut free: BTreeMap<String, usize> =
            usable.map(|last| (format!("10.64.1.{last}"), 0)).collect();
        let mut taken: Vec<(String, String)> = Vec::new();
        for (n, step) in (1..).zip(steps) {
            match step {
                Step::LoseIndex => drop(fs::remove_file(node.path().join(index::NAME))),
                Step::Release(pick) if !taken.is_empty() => {
                    let (id, address) = taken.swap_remove(pick.index(taken.len()));
                    node.del(&id);
                    free.insert(address, n);
                }
                Step::Lease | Step::Release(_) => {
                    let last = |address: &String| -> u8 {
                        address.rsplit('.').next().unwrap().parse().unwrap()
                    };
                    let next = free.iter().min_by_key(|(at, since)| (**since, last(at)));
                    let next = next.map(|(address, _)| address.clone());
                    let id = format!("c{n}");
                    let got = node.lease(&id).ok().map(|leased| crate::testing::texts(&leased));
                    prop_assert_eq!(&got, &next);
                    if let Some(address) = got {
                        free.remove(&address);
                        taken.push((id, address));
                    }
                }
            }
        }
        prop_assert_eq!(node.taken().len(), taken.len());
    }
}
