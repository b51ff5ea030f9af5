//! Random kills: callers in parallel add and delete pods, and most of their calls die.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use harness::{Answer, Container, Host, Request, on_host};
use serde_json::{Value, json};

use crate::kit::{self, Random};

const CALLERS: u64 = 8;
const PODS_EACH: u64 = 3;

/// Every n-th call is left alone, so that pods come to live.
const SPARED: u64 = 4;

/// What one caller does with one pod.
struct Slot {
    pod: Container,
    add: Request,
    del: Request,
    /// How many containers were here before.
    generation: u64,
    /// ADD was called, and no DEL came to its end since.
    dirty: bool,
}

/// What all callers share.
struct Crowd {
    /// Who has which address in the kernel, as seen by its caller between two of his calls.
    live: Mutex<HashMap<IpAddr, String>>,
    /// How many calls have to be killed.
    kills: u64,
    calls: AtomicU64,
    killed: AtomicU64,
    added: AtomicU64,
    /// The longest time that a call is let live, in microseconds.
    life: u64,
}

#[test]
#[ignore = "needs namespaces: run scripts/test"]
fn random_kills_neither_leak_nor_lose_a_lease() {
    on_host(|host| {
        // Fewer addresses than pods: what is freed is used again at once.
        let ipam = json!({ "rangeStart": "10.64.1.10", "rangeEnd": "10.64.1.25" });
        let conf = kit::network(&ipam);
        let (_neighbour, _) = host.pod(&conf);
        let before = host.state();
        let crowd = Crowd {
            live: Mutex::default(),
            kills: kit::number("CNI_E2E_KILLS", 600),
            calls: AtomicU64::new(0),
            killed: AtomicU64::new(0),
            added: AtomicU64::new(0),
            life: life_of_a_call(host, &conf),
        };
        let mut callers: Vec<Vec<Slot>> = (0..CALLERS)
            .map(|_| (0..PODS_EACH).map(|_| slot(host, &conf)).collect())
            .collect();
        thread::scope(|scope| {
            for (n, slots) in callers.iter_mut().enumerate() {
                let crowd = &crowd;
                scope.spawn(move || work(crowd, slots, Random::new(n as u64)));
            }
        });
        for slot in callers.iter().flatten() {
            slot.del.run().done();
            assert_eq!(kit::in_kernel(&slot.pod), Vec::<IpAddr>::new());
        }
        host.state().assert_same(&before);
        kit::assert_healthy();
        let counts = [&crowd.killed, &crowd.calls, &crowd.added];
        let [killed, calls, added] = counts.map(|n| n.load(Ordering::Relaxed));
        kit::figure(&format!(
            "random kills: {killed} of {calls} calls by {CALLERS} callers, {added} pods \
             that lived; no address twice, nothing left"
        ));
        assert!(added > killed / 40, "{killed} {added}");
    });
}

fn slot(host: &Host, conf: &Value) -> Slot {
    let pod = host.container();
    Slot {
        add: host.request_for("ADD", conf, &pod),
        del: host.request_for("DEL", conf, &pod),
        pod,
        generation: 0,
        dirty: false,
    }
}

/// How long calls take when all callers make one at once: kills have to meet them anywhere.
fn life_of_a_call(host: &Host, conf: &Value) -> u64 {
    let slots: Vec<Slot> = (0..CALLERS).map(|_| slot(host, conf)).collect();
    let started = Instant::now();
    let running: Vec<_> = slots.iter().map(|slot| slot.add.start()).collect();
    for run in running {
        run.wait().result();
    }
    let all = u64::try_from(started.elapsed().as_micros()).unwrap();
    for slot in &slots {
        slot.del.run().done();
    }
    (all / 2).max(3000)
}

fn work(crowd: &Crowd, slots: &mut [Slot], mut random: Random) {
    while crowd.killed.load(Ordering::Relaxed) < crowd.kills {
        crowd.calls.fetch_add(1, Ordering::Relaxed);
        let n = usize::try_from(random.below(PODS_EACH)).unwrap();
        let slot = &mut slots[n];
        if slot.dirty {
            del(crowd, slot, &mut random);
        } else {
            add(crowd, slot, &mut random);
        }
    }
}

fn add(crowd: &Crowd, slot: &mut Slot, random: &mut Random) {
    slot.generation += 1;
    let id = format!("{}-{}", slot.pod.id, slot.generation);
    slot.add = slot.add.clone().env("CNI_CONTAINERID", &id);
    slot.del = slot.del.clone().env("CNI_CONTAINERID", &id);
    slot.dirty = true;
    if let Some(answer) = call(crowd, &slot.add, random) {
        if answer.status != 0 {
            answer.refused(11, "no IP addresses available in range set");
            return;
        }
        let address = kit::address(&answer.result());
        assert_eq!(kit::in_kernel(&slot.pod), [address], "{id}");
        crowd.added.fetch_add(1, Ordering::Relaxed);
    }
    enter(crowd, &slot.pod, &id);
}

fn del(crowd: &Crowd, slot: &mut Slot, random: &mut Random) {
    let id = format!("{}-{}", slot.pod.id, slot.generation);
    // From here on the address may be somebody else's.
    crowd.live.lock().unwrap().retain(|_, owner| *owner != id);
    if let Some(answer) = call(crowd, &slot.del, random) {
        answer.done();
        slot.dirty = false;
        assert_eq!(kit::in_kernel(&slot.pod), Vec::<IpAddr>::new(), "{id}");
    }
    // A DEL that was killed before it took the link: the address is still this pod's.
    enter(crowd, &slot.pod, &id);
}

/// Notes what the kernel says that a pod has. Nobody else may have it.
fn enter(crowd: &Crowd, pod: &Container, id: &str) {
    for address in kit::in_kernel(pod) {
        let other = crowd.live.lock().unwrap().insert(address, id.to_owned());
        assert_eq!(other, None, "{address} is given to {id} too");
    }
}

/// Makes a call and kills it some time later. `None`: it was killed.
fn call(crowd: &Crowd, request: &Request, random: &mut Random) -> Option<Answer> {
    let running = request.start();
    if random.below(SPARED) > 0 {
        thread::sleep(Duration::from_micros(random.below(crowd.life)));
        running.kill();
    }
    let answer = running.wait();
    if answer.status == -9 {
        crowd.killed.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    Some(answer)
}
