//! `resolv.conf`, as far as a CNI result can say it. Pure.

use cni_protocol::Dns;

/// Reads the lines that are understood and passes over all others.
pub(crate) fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let key = words.next().unwrap_or_default();
        let mut words = words.map(str::to_owned);
        match key {
            "nameserver" => dns.nameservers.extend(words.next()),
            "domain" => dns.domain = words.next(),
            "search" => dns.search = words.collect(),
            "options" => dns.options.extend(words),
            // Comments, empty lines, and what is not for a container to know.
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_result_can_say() {
        let dns = parse(
            "# made by hand\n; another comment\nnameserver 10.0.0.10\nnameserver fd00::a\n\
             domain example.org\nsearch a.example b.example\noptions ndots:5 edns0\nsortlist x\n",
        );
        assert_eq!(dns.nameservers, ["10.0.0.10", "fd00::a"]);
        assert_eq!(dns.domain.as_deref(), Some("example.org"));
        assert_eq!(dns.search, ["a.example", "b.example"]);
        assert_eq!(dns.options, ["ndots:5", "edns0"]);
    }
}
