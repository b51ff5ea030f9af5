//! Rules as they come from nftables, and what is said of them.

use std::{collections::HashMap, convert::Infallible, rc::Rc, time::Instant};

use super::{walk::Step as S, *};

/// Register 1, where rules load what they compare.
const R1: usize = 4;
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const MARK: u32 = 3;

#[derive(Default)]
struct Fake {
    chains: HashMap<String, Rc<[Rule]>>,
    sets: HashMap<String, Rc<Set>>,
    asked: usize,
}

impl Rulesets for Fake {
    type Error = Infallible;
    type Table = Self;

    fn table(&mut self, _table: &Table) -> &mut Self {
        self
    }
}

impl Ruleset for Fake {
    type Error = Infallible;

    fn rules(&mut self, chain: &str) -> Result<Rc<[Rule]>, Infallible> {
        self.asked += 1;
        Ok(self.chains.get(chain).cloned().unwrap_or_default())
    }

    fn set(&mut self, name: &str) -> Result<Option<Rc<Set>>, Infallible> {
        Ok(self.sets.get(name).cloned())
    }
}

impl Fake {
    fn chain(mut self, name: &str, rules: Vec<Vec<Step>>) -> Self {
        let rules = (1..).zip(rules).map(|(handle, steps)| Rule {
            handle,
            comment: None,
            steps,
        });
        self.chains.insert(name.to_owned(), rules.collect());
        self
    }

    fn set(mut self, name: &str, fields: &[usize], elements: Vec<(Key, Option<Verdict>)>) -> Self {
        let elements = elements.into_iter();
        let set = Set {
            fields: fields.to_vec(),
            elements: elements
                .map(|(key, verdict)| Element { key, verdict })
                .collect(),
        };
        self.sets.insert(name.to_owned(), Rc::new(set));
        self
    }
}

fn link(name: &str, index: u32) -> Link {
    Link {
        name: name.to_owned(),
        index: Some(index),
    }
}

fn pods() -> Pods {
    Pods {
        bridge: link("cbr0", 7),
        gateway: Some(link("cbr0", 7)),
        bridged: (true, true),
        networks: vec!["10.64.1.0/24".parse().unwrap()],
        uplinks: (vec![link("eth0", 2)], vec![]),
    }
}

fn base(name: &str, hook: Hook) -> BaseChain {
    BaseChain {
        table: Table {
            family: Family::Ip,
            name: "filter".to_owned(),
        },
        name: name.to_owned(),
        hook,
        kind: "filter".to_owned(),
        drops_by_policy: true,
        owned: false,
        manager: Manager::Unknown,
    }
}

/// What is said of chain `f`, which drops by policy.
fn said(mut rules: Fake) -> Vec<String> {
    let all = [base("f", Hook::Forward), base("pre", Hook::Prerouting)];
    let findings = examine(&mut rules, &[&all[0]], &all, &pods()).unwrap();
    findings.iter().map(Finding::to_string).collect()
}

fn is(key: u32, name: &str) -> Vec<Step> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    vec![
        S::Meta { key, to: R1 },
        S::Compare {
            from: R1,
            operator: Operator::Equal,
            with: bytes,
        },
    ]
}

fn then(mut steps: Vec<Step>, verdict: Verdict) -> Vec<Step> {
    steps.push(S::Decide(verdict));
    steps
}

fn accept_pods() -> Vec<Vec<Step>> {
    vec![
        then(is(IIFNAME, "cbr0"), Verdict::Accept),
        then(is(OIFNAME, "cbr0"), Verdict::Accept),
    ]
}

fn jump(to: &str) -> Verdict {
    Verdict::Jump(to.to_owned())
}

const ALL: &str =
    "connections from pods to the outside, from the outside to pods, between pods of this node";

#[test]
fn the_policy_is_for_what_comes_to_the_end() {
    let expected =
        format!("{ALL} are dropped in chain f of nftables table ip filter (policy drop)");
    assert_eq!(said(Fake::default().chain("f", vec![]))[0], expected);
    assert_eq!(said(Fake::default().chain("f", accept_pods())), [""; 0]);
    let docker = vec![
        then(is(OIFNAME, "docker0"), Verdict::Accept),
        then(is(IIFNAME, "docker0"), Verdict::Accept),
    ];
    assert_eq!(said(Fake::default().chain("f", docker)), [expected]);
}

#[test]
fn what_a_chain_returns_goes_on_and_what_it_goes_to_does_not() {
    let rules = |first: Verdict, inner: Vec<Vec<Step>>| {
        let mut outer = vec![vec![S::Decide(first)]];
        outer.extend(accept_pods());
        said(Fake::default().chain("f", outer).chain("inner", inner))
    };
    let returns = vec![
        vec![S::Decide(Verdict::Return)],
        vec![S::Decide(Verdict::Drop)],
    ];
    assert_eq!(rules(jump("inner"), returns.clone()), [""; 0]);
    let went = rules(Verdict::Goto("inner".to_owned()), returns);
    assert!(went[0].contains("are dropped in chain f of nftables table ip filter (policy drop)"));
    let drops = rules(jump("inner"), vec![vec![S::Decide(Verdict::Drop)]]);
    assert!(
        drops[0].ends_with("(rule with handle 1 in chain inner)"),
        "{drops:?}"
    );
}

#[test]
fn what_nobody_understands_is_never_certain() {
    for unknown in [
        vec![S::Maybe, S::Decide(Verdict::Accept)],
        vec![S::Decide(Verdict::Unknown)],
        vec![S::Choose {
            from: R1,
            set: "gone".to_owned(),
        }],
        vec![
            S::Lookup {
                from: R1,
                set: "gone".to_owned(),
                found: true,
            },
            S::Decide(Verdict::Accept),
        ],
        vec![
            S::Match(Match {
                name: "set".to_owned(),
                revision: 4,
                info: vec![],
            }),
            S::Decide(Verdict::Accept),
        ],
        vec![
            S::Payload {
                base: 2,
                offset: 2,
                length: 2,
                to: R1,
            },
            S::Compare {
                from: R1,
                operator: Operator::Equal,
                with: vec![0, 80],
            },
            S::Decide(Verdict::Accept),
        ],
    ] {
        let said = said(Fake::default().chain("f", vec![unknown.clone()]));
        let all = format!("{ALL} may be dropped");
        assert!(said[0].starts_with(&all), "{unknown:?}: {said:?}");
    }
}

#[test]
fn a_drop_for_a_reason_of_its_own_is_none_of_all() {
    // Behind it everything is accepted.
    let some = vec![S::Maybe, S::Decide(Verdict::Drop)];
    let rules = vec![some, vec![S::Decide(Verdict::Accept)]];
    assert_eq!(said(Fake::default().chain("f", rules)), [""; 0]);
    let within = Fake::default()
        .chain(
            "f",
            vec![
                vec![S::Maybe, S::Decide(jump("inner"))],
                vec![S::Decide(Verdict::Accept)],
            ],
        )
        .chain("inner", vec![vec![S::Decide(Verdict::Drop)]]);
    assert_eq!(said(within), [""; 0]);
}

#[test]
fn a_mark_is_nobodys_unless_somebody_sets_it() {
    let marked = then(
        vec![
            S::Meta { key: MARK, to: R1 },
            S::Compare {
                from: R1,
                operator: Operator::Equal,
                with: 7_u32.to_ne_bytes().to_vec(),
            },
        ],
        Verdict::Accept,
    );
    let rules = |before: Vec<Vec<Step>>| {
        said(
            Fake::default()
                .chain("f", vec![marked.clone()])
                .chain("pre", before),
        )[0]
        .clone()
    };
    assert!(rules(vec![]).contains("are dropped"));
    assert!(rules(vec![vec![S::SetMark]]).contains("may be dropped"));
    let docker = [is(IIFNAME, "docker0"), vec![S::SetMark]].concat();
    let on_docker = rules(vec![docker]);
    // What comes in by eth0 or cbr0 is no packet of Docker's.
    assert!(on_docker.contains("are dropped"), "{on_docker}");
    let own = vec![vec![S::SetMark], marked.clone()];
    assert!(said(Fake::default().chain("f", own))[0].contains("may be dropped"));
}

#[test]
fn a_map_asks_for_one_element() {
    let name = |name: &str| {
        let mut key = name.as_bytes().to_vec();
        key.resize(16, 0);
        Key::One(key)
    };
    let choose = |key| {
        vec![
            S::Meta { key, to: R1 },
            S::Choose {
                from: R1,
                set: "m".to_owned(),
            },
        ]
    };
    let rules = |elements| {
        said(
            Fake::default()
                .chain("f", vec![choose(IIFNAME), choose(OIFNAME)])
                .chain("in", vec![vec![S::Decide(Verdict::Accept)]])
                .set("m", &[16], elements),
        )
    };
    assert_eq!(rules(vec![(name("cbr0"), Some(jump("in")))]), [""; 0]);
    assert_eq!(rules(vec![(Key::Rest, Some(Verdict::Accept))]), [""; 0]);
    let docker = rules(vec![(name("docker0"), Some(jump("in")))]);
    assert!(docker[0].contains("are dropped"), "{docker:?}");
    let dropped = rules(vec![
        (name("docker0"), Some(jump("in"))),
        (Key::Rest, Some(Verdict::Drop)),
    ]);
    assert!(dropped[0].contains("are dropped") && dropped[0].contains("rule with handle 1"));
}

#[test]
fn a_rule_that_names_the_pods_is_meant() {
    let mut rules = Fake::default()
        .chain(
            "f",
            vec![
                then(is(IIFNAME, "cbr0"), jump("pods")),
                vec![S::Decide(Verdict::Accept)],
            ],
        )
        .chain("pods", vec![vec![S::Decide(Verdict::Drop)]]);
    let chain = base("f", Hook::Forward);
    let findings = examine(&mut rules, &[&chain], &[], &pods()).unwrap();
    assert!(findings[0].meant && findings[0].certain);
    let mut rules = Fake::default().chain("f", vec![vec![S::Decide(Verdict::Drop)]]);
    assert!(!examine(&mut rules, &[&chain], &[], &pods()).unwrap()[0].meant);
}

/// Each chain calls the next one twenty times: as many ways as atoms in the sea.
#[test]
fn many_ways_through_many_chains_are_no_burden() {
    let mut rules = Fake::default();
    for depth in 0..15 {
        let name = if depth == 0 {
            "f".to_owned()
        } else {
            depth.to_string()
        };
        let next = || vec![S::Maybe, S::Decide(jump(&(depth + 1).to_string()))];
        rules = rules.chain(&name, (0..20).map(|_| next()).collect());
    }
    let started = Instant::now();
    let all = [base("f", Hook::Forward)];
    examine(&mut rules, &[&all[0]], &all, &pods()).unwrap();
    assert!(rules.asked < 500 && started.elapsed().as_secs() < 2);
}

/// The kernel's `xt_conntrack_mtinfo3`, as iptables fills it in.
fn conntrack(flags: u16, inverted: u16, asked: u16, status: u16) -> Step {
    let numbers = [flags, inverted, asked, status];
    let mut info = vec![0; 146];
    info.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
    info.resize(168, 0);
    S::Match(Match {
        name: "conntrack".to_owned(),
        revision: 3,
        info,
    })
}

#[test]
fn matches_of_iptables_are_understood() {
    const STATE: u16 = 0x2001;
    const STATUS: u16 = 0x40;
    let matching = |name: &str, info: Vec<u8>| {
        S::Match(Match {
            name: name.to_owned(),
            revision: 1,
            info,
        })
    };
    let mark = |mark: u32, mask: u32, inverted: u8| {
        let info = [
            &mark.to_ne_bytes()[..],
            &mask.to_ne_bytes(),
            &[inverted, 0, 0, 0],
        ]
        .concat();
        matching("mark", info)
    };
    let address_type = |flags: u32| {
        let info = [
            &0_u16.to_ne_bytes()[..],
            &4_u16.to_ne_bytes(),
            &flags.to_ne_bytes(),
        ]
        .concat();
        matching("addrtype", info)
    };
    for (step, accepts) in [
        // NEW; ESTABLISHED,RELATED; not INVALID; not NEW; DNAT.
        (conntrack(STATE, 0, 8, 0), true),
        (conntrack(STATE, 0, 6, 0), false),
        (conntrack(STATE, 1, 1, 0), true),
        (conntrack(STATE, 1, 8, 0), false),
        (conntrack(STATE, 0, 0x80, 0), false),
        // --ctstatus SEEN_REPLY, and not.
        (conntrack(STATUS, 0, 0, 2), false),
        (conntrack(STATUS, STATUS, 0, 2), true),
        (mark(0x4000, 0x4000, 0), false),
        (mark(0x4000, 0x4000, 1), true),
        (mark(0, 0xff, 0), true),
        (address_type(0), false),
        (address_type(2), true),
        (matching("comment", vec![b'x', 0]), true),
    ] {
        let said =
            said(Fake::default().chain("f", vec![vec![step.clone(), S::Decide(Verdict::Accept)]]));
        assert_eq!(said.is_empty(), accepts, "{step:?}: {said:?}");
        assert!(
            said.iter().all(|said| said.contains("are dropped")),
            "{step:?}: {said:?}"
        );
    }
}

#[test]
fn targets_of_iptables_are_understood() {
    let accept = || vec![S::Decide(Verdict::Accept)];
    for (name, dropped) in [
        ("REJECT", "are dropped"),
        ("LOG", ""),
        ("TCPMSS", ""),
        ("NFQUEUE", ""),
    ] {
        let said = said(Fake::default().chain("f", vec![vec![target(name)], accept()]));
        assert_eq!(said.is_empty(), dropped.is_empty(), "{name}: {said:?}");
    }
    let queued = said(Fake::default().chain("f", vec![vec![target("NFQUEUE")]]));
    assert!(queued[0].contains("may be dropped"), "{queued:?}");
}

#[test]
fn what_helps_depends_on_who_looks_after_the_chain() {
    let finding = |manager, family| {
        let mut chain = base("FORWARD", Hook::Forward);
        chain.manager = manager;
        chain.table.family = family;
        let mut pods = pods();
        if family == Family::Ip6 {
            pods.networks = vec!["fd00::/64".parse().unwrap()];
        }
        let mut rules = Fake::default();
        let findings = examine(&mut rules, &[&chain], &[], &pods).unwrap();
        findings[0].remedy(&pods)
    };
    for (manager, family, remedy) in [
        (
            Manager::Iptables,
            Family::Ip,
            "iptables -I FORWARD -i cbr0 -j ACCEPT && iptables -I FORWARD -o cbr0 -j ACCEPT",
        ),
        (
            Manager::Docker,
            Family::Ip6,
            "ip6tables -I DOCKER-USER -i cbr0 -j ACCEPT && ip6tables -I DOCKER-USER -o cbr0 -j ACCEPT",
        ),
        (
            Manager::Ufw,
            Family::Ip,
            "ufw route allow in on cbr0 && ufw route allow out on cbr0",
        ),
        (
            Manager::Unknown,
            Family::Inet,
            "nft insert rule inet filter FORWARD iifname cbr0 accept && nft insert rule inet filter FORWARD oifname cbr0 accept",
        ),
    ] {
        assert_eq!(finding(manager, family), remedy);
    }
}

/// In a VLAN the node routes by another link than the bridge.
#[test]
fn packets_of_a_vlan_come_by_the_link_of_the_gateway() {
    let pods = Pods {
        gateway: Some(link("cbr0.5", 9)),
        ..pods()
    };
    let chain = base("f", Hook::Forward);
    let said = |rules: Vec<Vec<Step>>| {
        let mut rules = Fake::default().chain("f", rules);
        let findings = examine(&mut rules, &[&chain], &[], &pods).unwrap();
        findings.iter().map(Finding::to_string).collect::<Vec<_>>()
    };
    let bridge_only = said(accept_pods());
    assert!(
        bridge_only[0].starts_with(
            "connections from pods to the outside, from the outside to pods are dropped"
        )
    );
    let mut both = accept_pods();
    both.push(then(is(IIFNAME, "cbr0.5"), Verdict::Accept));
    both.push(then(is(OIFNAME, "cbr0.5"), Verdict::Accept));
    assert_eq!(said(both), [""; 0]);
}
