//! Many at once, and one that does not let go.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use cni_protocol::{Failure, InterfaceName};

use crate::store::{Host, Store};
use crate::{
    alias::Alias,
    lease::{Maker, Wish, lease_in, owner_of},
    release::release_in,
    testing::{Node, attachment, texts},
};

struct NoLinks;

impl Host for NoLinks {
    fn aliases(&self) -> io::Result<Vec<(String, Alias)>> {
        Ok(Vec::new())
    }
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn exists(&self, _: &InterfaceName) -> io::Result<bool> {
        Ok(false)
    }
    fn netns(&self) -> io::Result<u64> {
        Ok(1)
    }
}

#[test]
fn threads_that_lease_and_release_never_share_an_address() {
    let node = Node::new(r#""subnet":"10.64.1.0/27""#);
    let owners: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let work = |worker: usize| {
        for round in 0..150 {
            let store = Store {
                host: &NoLinks,
                patience: Duration::from_secs(30),
                path: node.path(),
                network: &node.network,
                boot: node.boot,
            };
            let id = format!("w{worker}r{round}");
            let wish = Wish {
                config: &node.config,
                attachment: &attachment(&id),
                owner: owner_of(&attachment(&id)),
                maker: Maker::Other,
                pod: None,
            };
            let address = texts(&lease_in(&store, &wish).unwrap());
            let before = owners.lock().unwrap().insert(address.clone(), id.clone());
            assert_eq!(before, None, "{address} has two owners");
            owners.lock().unwrap().remove(&address);
            release_in(&store, &node.data_dir(), &attachment(&id)).unwrap();
        }
    };
    thread::scope(|scope| {
        for worker in 0..16 {
            scope.spawn(move || work(worker));
        }
    });
    assert_eq!(node.taken(), [""; 0]);
    assert_eq!(node.lost(), 0);
}

#[test]
fn a_lock_that_is_held_is_an_error_in_time_that_names_the_holder() {
    let node = Node::new(r#""subnet":"10.64.1.0/27""#);
    node.add("c1");
    let held = File::open(node.path()).unwrap();
    held.lock().unwrap();
    let store = Store {
        patience: Duration::from_millis(50),
        ..node.store()
    };
    let started = Instant::now();
    let error = release_in(&store, &node.data_dir(), &attachment("c1")).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(error.is_busy());
    assert_eq!(error.code(), cni_protocol::Code::TryAgain);
    let text = error.to_string();
    let pid = format!("process {}", std::process::id());
    assert!(text.contains(&pid), "{text}");
    drop(held);
    node.del("c1");
}

#[test]
fn a_directory_that_was_replaced_while_waiting_is_opened_again() {
    let node = Node::new(r#""subnet":"10.64.1.0/27""#);
    node.add("c1");
    let held = File::open(node.path()).unwrap();
    held.lock().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let store = Store {
                host: &NoLinks,
                patience: Duration::from_secs(30),
                path: node.path(),
                network: &node.network,
                boot: node.boot,
            };
            let wish = Wish {
                config: &node.config,
                attachment: &attachment("c2"),
                owner: owner_of(&attachment("c2")),
                maker: Maker::Other,
                pod: None,
            };
            texts(&lease_in(&store, &wish).unwrap())
        });
        thread::sleep(Duration::from_millis(50));
        node.remove_store();
        drop(held);
        assert_eq!(waiting.join().unwrap(), "10.64.1.2");
    });
    assert_eq!(node.taken(), ["10.64.1.2 c2 eth0"]);
}
