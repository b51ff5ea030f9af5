//! Who takes part: a malicious pod, one that it is after, and the world around them.

use std::net::IpAddr;

use harness::{
    Container, Echo, Host, Netns, World,
    forge::{self, Mac, Wire},
    packet,
};
use serde_json::Value;

use super::super::{PATIENCE, believe_every_source, ip, of_interface};

/// Who may see what the attacker sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    Victim,
    Node,
    Outside,
    OtherNode,
}
use Place::{Node, OtherNode, Outside, Victim};

pub(super) const ALL: [Place; 4] = [Victim, Node, Outside, OtherNode];

/// A pod that sends what it likes, one that it is after, and all around them; everybody
/// has talked to everybody before.
pub(super) struct Cast {
    pub(super) attacker: Container,
    pub(super) victim: Container,
    pub(super) world: World,
    /// Of attacker, victim and gateway.
    pub(super) macs: (Mac, Mac, Mac),
    pub(super) wire: Wire,
    pub(super) taps: [Wire; 4],
}

impl Cast {
    pub(super) fn on(host: &Host, conf: &Value) -> Self {
        let world = World::around(host);
        for netns in [
            &host.netns,
            &world.router,
            &world.outside,
            &world.other_node,
        ] {
            believe_every_source(netns);
        }
        let (attacker, result) = host.pod(conf);
        let (victim, of_victim) = host.pod(conf);
        believe_every_source(&victim.netns);
        let mac = |result, number| forge::mac(of_interface(result, number, "mac"));
        // Who believes fragments and changes his mind at once is easier to deceive.
        victim.sh("echo 0 >/proc/sys/net/ipv4/neigh/eth0/locktime
                   echo 0 >/proc/sys/net/ipv6/conf/eth0/suppress_frag_ndisc");
        harness::sh("echo 0 >/proc/sys/net/ipv4/neigh/cbr0/locktime");
        // It would sort out damaged packets before the check can.
        harness::sh(
            "ip link set cbr0 type bridge nf_call_iptables 0 nf_call_ip6tables 0
             for call in /proc/sys/net/bridge/bridge-nf-call-*tables; do
                 test ! -e $call || echo 0 >$call
             done",
        );
        let cast = Self {
            macs: (mac(&result, 2), mac(&of_victim, 2), mac(&result, 0)),
            wire: Wire::on(&attacker.netns, "eth0"),
            taps: [
                Wire::on(&victim.netns, "eth0"),
                Wire::on(&host.netns, "cbr0"),
                Wire::on(&world.outside, "uplink"),
                Wire::on(&world.other_node, "uplink"),
            ],
            attacker,
            victim,
            world,
        };
        cast.talk(host);
        cast
    }

    fn talk(&self, host: &Host) {
        for (place, target) in [
            (Victim, "10.64.1.3:7"),
            (Victim, "[fd00:64:1::3]:7"),
            (Node, "10.64.1.1:7"),
            (Node, "[fd00:64:1::1]:7"),
            (Outside, "203.0.113.10:7"),
            (Outside, "[2001:db8:113::10]:7"),
            (OtherNode, "10.64.2.7:7"),
        ] {
            let _echo = Echo::start(self.netns(host, place).0, target);
            packet::ask(&self.attacker.netns, target).expect(target);
            if place == Node {
                packet::ask(&self.victim.netns, target).expect(target);
            }
        }
    }

    pub(super) fn tap(&self, place: Place) -> &Wire {
        &self.taps[place as usize]
    }

    pub(super) fn netns<'a>(&'a self, host: &'a Host, place: Place) -> (&'a Netns, &'static str) {
        match place {
            Victim => (&self.victim.netns, "eth0"),
            Node => (&host.netns, "cbr0"),
            Outside => (&self.world.outside, "uplink"),
            OtherNode => (&self.world.other_node, "uplink"),
        }
    }

    pub(super) fn send(&self, forgery: &Forgery) {
        for frame in &forgery.frames {
            self.wire.send(frame);
        }
    }

    /// An honest packet to each place, behind all that was sent before.
    pub(super) fn send_honestly(&self) {
        let (own, victim, gateway) = self.macs;
        for (place, mac, to) in [
            (Victim, victim, "10.64.1.3"),
            (Node, gateway, "10.64.1.1"),
            (Outside, gateway, "203.0.113.10"),
            (OtherNode, gateway, "10.64.2.7"),
        ] {
            let honest = forge::udp(ip("10.64.1.2"), ip(to), 9, b"honest");
            self.wire.send(&forge::packet(mac, own, &honest));
            assert!(self.tap(place).saw(b"honest", PATIENCE), "{place:?}");
        }
    }
}

/// Something that no honest pod sends.
pub(super) struct Forgery {
    pub(super) name: String,
    pub(super) frames: Vec<Vec<u8>>,
    /// Bytes by which it is known wherever it arrives.
    pub(super) mark: Vec<u8>,
    pub(super) reaches: Vec<Place>,
    /// Who then believes that this address is there.
    pub(super) deceives: Option<(Place, IpAddr, Mac)>,
}

impl Forgery {
    pub(super) fn new(name: &str, frame: Vec<u8>, mark: &[u8], reaches: &[Place]) -> Self {
        Self {
            name: name.to_owned(),
            frames: vec![frame],
            mark: mark.to_owned(),
            reaches: reaches.to_owned(),
            deceives: None,
        }
    }

    pub(super) fn deceives(self, place: Place, address: &str, mac: Mac) -> Self {
        Self {
            deceives: Some((place, ip(address), mac)),
            ..self
        }
    }
}
