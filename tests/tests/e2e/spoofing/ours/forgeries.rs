//! Everything that a malicious pod may think of, with whom it reaches and deceives where
//! nobody looks.

use std::net::IpAddr;

use harness::forge::{self, Extension, Mac};

use super::{
    super::{ip, v4, v6},
    cast::{
        Cast, Forgery,
        Place::{self, Node, OtherNode, Outside, Victim},
    },
};

pub(super) fn forgeries(cast: &Cast) -> Vec<Forgery> {
    let mut all = sources(cast);
    all.extend(hidden_sources(cast));
    all.extend(arp(cast));
    all.extend(advertisements(cast));
    all.extend(solicitations(cast));
    all.extend(routers(cast));
    all.extend(tags(cast));
    all.extend(other_protocols(cast));
    all
}

/// The Ethernet address by which a place is reached.
fn way(cast: &Cast, place: Place) -> Mac {
    match place {
        Victim => cast.macs.1,
        Node | Outside | OtherNode => cast.macs.2,
    }
}

/// Packets with a source that is not the attacker's.
fn sources(cast: &Cast) -> Vec<Forgery> {
    let own = cast.macs.0;
    let stranger = [2, 0, 0, 0, 0, 0x99];
    let forged = |(ethernet, from, to, reaches): (Mac, &str, &str, &[Place])| {
        let name = format!("{from} to {to} from {ethernet:02x?}");
        let packet = forge::udp(ip(from), ip(to), 9, format!("[{name}]").as_bytes());
        let group = matches!(ip(to), IpAddr::V6(to) if to.is_multicast());
        let destination = match reaches {
            _ if group => forge::group(v6(to)),
            [Victim, Node] => forge::BROADCAST,
            [place, ..] => way(cast, *place),
            [] => panic!("{name} reaches nobody"),
        };
        let frame = forge::packet(destination, ethernet, &packet);
        Forgery::new(&name, frame, format!("[{name}]").as_bytes(), reaches)
    };
    [
        (stranger, "10.64.1.2", "10.64.1.3", &[Victim][..]),
        (stranger, "10.64.1.2", "10.64.1.1", &[Node]),
        (stranger, "10.64.1.2", "203.0.113.10", &[Outside]),
        (stranger, "fd00:64:1::2", "fd00:64:1::3", &[Victim]),
        (stranger, "fd00:64:1::2", "fd00:64:1::1", &[Node]),
        (own, "10.64.1.3", "10.64.1.1", &[Node]),
        (own, "10.64.1.3", "203.0.113.10", &[Outside]),
        (own, "10.64.1.1", "10.64.1.3", &[Victim]),
        (own, "10.64.1.77", "10.64.1.3", &[Victim]),
        (own, "10.64.1.77", "10.64.2.7", &[OtherNode]),
        (own, "10.64.1.77", "10.64.1.255", &[Victim, Node]),
        (own, "10.200.0.2", "10.64.1.3", &[Victim]),
        (own, "198.51.100.7", "10.64.1.3", &[Victim]),
        (own, "198.51.100.7", "203.0.113.10", &[Outside]),
        (own, "0.0.0.0", "10.64.1.3", &[Victim]),
        (own, "127.0.0.1", "10.64.1.3", &[Victim]),
        (own, "fd00:64:1::3", "fd00:64:1::1", &[Node]),
        (own, "fd00:64:1::3", "2001:db8:113::10", &[Outside]),
        (own, "fd00:64:1::1", "fd00:64:1::3", &[Victim]),
        (own, "fd00:64:1::77", "fd00:64:1::3", &[Victim]),
        (own, "fd00:64:1::77", "ff02::1", &[Victim, Node]),
        (own, "2001:db8:bad::7", "fd00:64:1::3", &[Victim]),
        (own, "2001:db8:bad::7", "2001:db8:113::10", &[Outside]),
        (own, "fe80::77", "fd00:64:1::3", &[Victim]),
        (own, "::", "fd00:64:1::3", &[Victim]),
        (own, "::1", "fd00:64:1::3", &[Victim]),
        (own, "::ffff:10.64.1.3", "fd00:64:1::3", &[Victim]),
    ]
    .map(forged)
    .into()
}

/// The same behind extension headers, in fragments, and in packets that are too short.
fn hidden_sources(cast: &Cast) -> Vec<Forgery> {
    let (own, victim, _) = cast.macs;
    let packet =
        |mark: &str| forge::udp(ip("fd00:64:1::77"), ip("fd00:64:1::3"), 9, mark.as_bytes());
    let mut all = Vec::new();
    for extension in [
        Extension::HopByHop,
        Extension::Destination,
        Extension::Routing,
        Extension::Atomic,
        Extension::Unknown,
    ] {
        let mark = format!("[a false source behind {extension:?}]");
        let packet = forge::behind(extension, &packet(&mark));
        let frame = forge::packet(victim, own, &packet);
        all.push(Forgery::new(&mark, frame, mark.as_bytes(), &[Victim]));
    }
    for (number, fragment) in forge::fragments(&packet("[a false source in two]"), 16)
        .iter()
        .enumerate()
    {
        let name = format!("fragment {number} of a packet with a false source");
        let frame = forge::packet(victim, own, fragment);
        all.push(Forgery::new(&name, frame, fragment, &[Victim]));
    }
    for kind in [forge::IPV4, forge::IPV6, forge::ARP] {
        let mark = format!("[{kind:x}]");
        let frame = forge::frame(victim, own, kind, mark.as_bytes());
        let name = format!("a packet of {kind:x} that is too short");
        all.push(Forgery::new(&name, frame, mark.as_bytes(), &[Victim]));
    }
    all
}

fn arp(cast: &Cast) -> Vec<Forgery> {
    let (own, victim, gateway) = cast.macs;
    let (at_own, at_victim, at_gateway) = (v4("10.64.1.2"), v4("10.64.1.3"), v4("10.64.1.1"));
    let (anybody, stranger) = ([0; 6], [2, 0, 0, 0, 0, 0x98]);
    let forged = |name, to, arp: Vec<u8>, reaches: &[Place]| {
        let frame = forge::frame(to, own, forge::ARP, &arp);
        Forgery::new(name, frame, &arp, reaches)
    };
    let mut of_tokens = forge::arp(forge::REPLY, (own, at_gateway), (stranger, at_victim));
    of_tokens[1] = 6;
    let reverse = forge::arp(3, (own, at_gateway), (own, at_gateway));
    vec![
        forged(
            "the gateway's address in an ARP reply",
            victim,
            forge::arp(forge::REPLY, (own, at_gateway), (victim, at_victim)),
            &[Victim],
        )
        .deceives(Victim, "10.64.1.1", own),
        forged(
            "the victim's address in an ARP reply",
            gateway,
            forge::arp(forge::REPLY, (own, at_victim), (gateway, at_gateway)),
            &[Node],
        )
        .deceives(Node, "10.64.1.3", own),
        forged(
            "the gateway's address announced to all",
            forge::BROADCAST,
            forge::arp(forge::REQUEST, (own, at_gateway), (anybody, at_gateway)),
            &[Victim],
        )
        .deceives(Victim, "10.64.1.1", own),
        forged(
            "the victim's address in an ARP request",
            gateway,
            forge::arp(forge::REQUEST, (own, at_victim), (anybody, at_gateway)),
            &[Node],
        )
        .deceives(Node, "10.64.1.3", own),
        forged(
            "the own address at another Ethernet address",
            gateway,
            forge::arp(forge::REPLY, (stranger, at_own), (gateway, at_gateway)),
            &[Node],
        )
        .deceives(Node, "10.64.1.2", stranger),
        forged(
            "a probe for the victim's address",
            forge::BROADCAST,
            forge::arp(forge::REQUEST, (own, v4("0.0.0.0")), (anybody, at_victim)),
            &[Victim],
        ),
        forged("ARP of another medium", victim, of_tokens, &[Victim]),
        Forgery::new(
            "reverse ARP",
            forge::frame(forge::BROADCAST, own, forge::RARP, &reverse),
            &reverse,
            &[Victim],
        ),
    ]
}

/// Neighbour advertisements.
fn advertisements(cast: &Cast) -> Vec<Forgery> {
    let (own, victim, gateway) = cast.macs;
    let (at_own, at_victim, at_gateway) =
        (v6("fd00:64:1::2"), v6("fd00:64:1::3"), v6("fd00:64:1::1"));
    let everybody = v6("ff02::1");
    let forged = |name: &str, to, packet: Vec<u8>, reaches: &[Place]| {
        Forgery::new(name, forge::packet(to, own, &packet), &packet, reaches)
    };
    let of_gateway = forge::advertisement(at_own, at_victim, at_gateway, own);
    let mut all = vec![
        forged(
            "the gateway's address advertised",
            victim,
            of_gateway,
            &[Victim],
        )
        .deceives(Victim, "fd00:64:1::1", own),
        forged(
            "the victim's address advertised",
            gateway,
            forge::advertisement(at_own, at_gateway, at_victim, own),
            &[Node],
        )
        .deceives(Node, "fd00:64:1::3", own),
        forged(
            "the victim's address advertised in its name",
            gateway,
            forge::advertisement(at_victim, at_gateway, at_victim, own),
            &[Node],
        )
        .deceives(Node, "fd00:64:1::3", own),
        forged(
            "the gateway's address advertised to all",
            forge::group(everybody),
            forge::advertisement(forge::link_local(own), everybody, at_gateway, own),
            &[Victim],
        )
        .deceives(Victim, "fd00:64:1::1", own),
        forged(
            "the victim's address advertised without a source",
            gateway,
            forge::advertisement(v6("::"), at_gateway, at_victim, own),
            &[Node],
        ),
    ];
    all.extend(hidden_advertisements(cast));
    all
}

/// The same behind extension headers and in fragments.
fn hidden_advertisements(cast: &Cast) -> Vec<Forgery> {
    let (own, victim, _) = cast.macs;
    let of_gateway = forge::advertisement(
        v6("fd00:64:1::2"),
        v6("fd00:64:1::3"),
        v6("fd00:64:1::1"),
        own,
    );
    let forged = |name: &str, packet: Vec<u8>| {
        Forgery::new(
            name,
            forge::packet(victim, own, &packet),
            &packet,
            &[Victim],
        )
    };
    let mut all = Vec::new();
    // Behind a header that nobody knows it may come: nobody reads on.
    for extension in [
        Extension::HopByHop,
        Extension::Destination,
        Extension::Routing,
        Extension::Atomic,
    ] {
        let name = format!("the gateway's address advertised behind {extension:?}");
        let hidden = forge::behind(extension, &of_gateway);
        let forgery = forged(&name, hidden);
        all.push(forgery.deceives(Victim, "fd00:64:1::1", own));
    }
    // A fragment that shows the type only, one that shows the target too, and one that
    // shows nothing of what is behind a header.
    let behind_options = forge::behind(Extension::Destination, &of_gateway);
    for (packet, at, is_believed) in [
        (&of_gateway, 8, true),
        (&of_gateway, 24, true),
        (&behind_options, 16, true),
        (&behind_options, 8, false),
    ] {
        let name = format!("the gateway's address advertised in fragments of {at} bytes");
        let fragments = forge::fragments(packet, at);
        // The second one may come: without the first it is nothing.
        let mut forgery = forged(&name, fragments[0].clone());
        forgery
            .frames
            .push(forge::packet(victim, own, &fragments[1]));
        all.push(if is_believed {
            forgery.deceives(Victim, "fd00:64:1::1", own)
        } else {
            forgery
        });
    }
    all
}

/// Neighbour solicitations.
fn solicitations(cast: &Cast) -> Vec<Forgery> {
    let (own, victim, gateway) = cast.macs;
    let (at_victim, at_gateway) = (v6("fd00:64:1::3"), v6("fd00:64:1::1"));
    let asked = forge::solicited(at_victim);
    let forged = |name, to, packet: Vec<u8>, reaches: &[Place]| {
        Forgery::new(name, forge::packet(to, own, &packet), &packet, reaches)
    };
    let probe = forge::solicitation(v6("::"), asked, at_victim, None);
    vec![
        forged(
            "a question in the victim's name",
            gateway,
            forge::solicitation(at_victim, at_gateway, at_gateway, Some(own)),
            &[Node],
        )
        .deceives(Node, "fd00:64:1::3", own),
        forged(
            "a question in the gateway's name",
            victim,
            forge::solicitation(at_gateway, at_victim, at_victim, Some(own)),
            &[Victim],
        )
        .deceives(Victim, "fd00:64:1::1", own),
        forged(
            "a probe for the victim's IPv6 address",
            forge::group(asked),
            probe.clone(),
            &[Victim],
        ),
        forged(
            "a probe for the victim's IPv6 address behind options",
            forge::group(asked),
            forge::behind(Extension::Destination, &probe),
            &[Victim],
        ),
    ]
}

/// Router advertisements and redirects.
fn routers(cast: &Cast) -> Vec<Forgery> {
    let (own, victim, gateway) = cast.macs;
    let everybody = v6("ff02::1");
    let (by_own, by_gateway) = (forge::link_local(own), forge::link_local(gateway));
    let forged = |name: &str, to, packet: Vec<u8>, reaches: &[Place]| {
        Forgery::new(name, forge::packet(to, own, &packet), &packet, reaches)
    };
    let advertisement = forge::router_advertisement(by_own, everybody);
    let all = forge::group(everybody);
    let mut list = vec![
        forged("a router", all, advertisement.clone(), &[Victim, Node]),
        forged(
            "a router in the gateway's name",
            all,
            forge::router_advertisement(by_gateway, everybody),
            &[Victim, Node],
        ),
        forged(
            "a router for the victim only",
            victim,
            forge::router_advertisement(by_own, v6("fd00:64:1::3")),
            &[Victim],
        ),
        forged(
            "a router for the node only",
            gateway,
            forge::router_advertisement(by_own, v6("fd00:64:1::1")),
            &[Node],
        ),
    ];
    for extension in [
        Extension::HopByHop,
        Extension::Destination,
        Extension::Atomic,
    ] {
        let name = format!("a router behind {extension:?}");
        let hidden = forge::behind(extension, &advertisement);
        list.push(forged(&name, all, hidden, &[Victim, Node]));
    }
    let [first, _] = forge::fragments(&advertisement, 8);
    list.push(forged("a router in fragments", all, first, &[Victim, Node]));
    for (name, from) in [
        ("a redirect", by_own),
        ("a redirect in the gateway's name", by_gateway),
    ] {
        let way_out = v6("2001:db8:113::10");
        let packet = forge::redirect(from, v6("fd00:64:1::3"), by_own, way_out);
        list.push(forged(name, victim, packet, &[Victim]));
    }
    list
}

/// Frames with VLAN tags: with a priority only, of a VLAN, of a provider's, with two.
fn tags(cast: &Cast) -> Vec<Forgery> {
    let (own, victim, _) = cast.macs;
    let (at_victim, at_gateway) = (v4("10.64.1.3"), v4("10.64.1.1"));
    let mut all = Vec::new();
    for (from, mark) in [
        ("10.64.1.2", "[tagged]"),
        ("10.64.1.77", "[false and tagged]"),
        ("fd00:64:1::77", "[false, tagged, IPv6]"),
    ] {
        let to = if ip(from).is_ipv4() {
            "10.64.1.3"
        } else {
            "fd00:64:1::3"
        };
        for (kind, id) in [
            (forge::VLAN, 0),
            (forge::VLAN, 5),
            (forge::PROVIDER_VLAN, 0),
            (forge::PROVIDER_VLAN, 5),
        ] {
            let mark = format!("{mark}{kind:x}/{id}");
            let packet = forge::udp(ip(from), ip(to), 9, mark.as_bytes());
            let frame = forge::tagged(&forge::packet(victim, own, &packet), kind, id);
            all.push(Forgery::new(&mark, frame, mark.as_bytes(), &[Victim]));
        }
        let mark = format!("{mark} twice");
        let packet = forge::udp(ip(from), ip(to), 9, mark.as_bytes());
        let inner = forge::tagged(&forge::packet(victim, own, &packet), forge::VLAN, 5);
        let frame = forge::tagged(&inner, forge::PROVIDER_VLAN, 6);
        all.push(Forgery::new(&mark, frame, mark.as_bytes(), &[Victim]));
    }
    let reply = forge::arp(forge::REPLY, (own, at_gateway), (victim, at_victim));
    let frame = forge::frame(victim, own, forge::ARP, &reply);
    let name = "the gateway's address in an ARP reply with a priority";
    let tagged = forge::tagged(&frame, forge::VLAN, 0);
    all.push(Forgery::new(name, tagged, &reply, &[Victim]).deceives(Victim, "10.64.1.1", own));
    let packet = forge::advertisement(
        v6("fd00:64:1::2"),
        v6("fd00:64:1::3"),
        v6("fd00:64:1::1"),
        own,
    );
    let frame = forge::tagged(&forge::packet(victim, own, &packet), forge::VLAN, 0);
    let name = "the gateway's address advertised with a priority";
    all.push(Forgery::new(name, frame, &packet, &[Victim]).deceives(Victim, "fd00:64:1::1", own));
    all
}

/// What is neither IP nor ARP.
fn other_protocols(cast: &Cast) -> Vec<Forgery> {
    let (own, victim, _) = cast.macs;
    // Some protocols, and lengths of frames in the older form, one of which carries IP.
    let mut all: Vec<Forgery> = [forge::LLDP, 0x888e, 0x8847, 0x8863, 0x88b5, 0x0600, 32]
        .into_iter()
        .map(|kind| {
            let mark = format!("[a frame of type {kind:x}, at least 32 bytes]");
            let frame = forge::frame(victim, own, kind, mark.as_bytes());
            Forgery::new(&mark, frame, mark.as_bytes(), &[Victim])
        })
        .collect();
    let packet = forge::udp(ip("10.64.1.77"), ip("10.64.1.3"), 9, b"[in LLC and SNAP]");
    let framed = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &packet].concat();
    let length = u16::try_from(framed.len()).expect("a short one");
    let frame = forge::frame(victim, own, length, &framed);
    all.push(Forgery::new(
        "IP in LLC and SNAP",
        frame,
        b"[in LLC and SNAP]",
        &[Victim],
    ));
    let tree = b"\x42\x42\x03[a spanning tree of my own]";
    let length = u16::try_from(tree.len()).expect("a short one");
    let frame = forge::frame([1, 0x80, 0xc2, 0, 0, 0], own, length, tree);
    all.push(Forgery::new(
        "a spanning tree",
        frame,
        tree,
        &[Victim, Node],
    ));
    all
}
