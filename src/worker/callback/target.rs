//! Where a callback may go. Pure, but for the names: those are resolved by the caller.
//!
//! Whoever may publish a task says where its callback goes. Without a check he could have the worker,
//! which is inside the cluster, send requests to anything there (the API server, a cloud's metadata
//! service). So only addresses of the public internet are allowed, and what an operator's setting names.

use http::Uri;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest URL of a callback.
const MAX_URL: usize = 2048;

/// A URL that a callback may go to, if its addresses allow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The URL.
    pub url: Uri,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Why a callback can't go where it is to go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// It is no URL that we could use.
    #[error(
        "X-Callback-Url {0:?} can't be used: write an http:// or https:// URL of at most {MAX_URL} characters, without user and password"
    )]
    Url(String),
    /// It is inside the cluster, or in another network of its own.
    #[error(
        "X-Callback-Url leads to {host} ({address}), which is not on the public internet: have the operator's \
         --callback-allow name it, if it may be called"
    )]
    Address {
        /// The host of the URL.
        host: String,
        /// What its name stands for.
        address: IpAddr,
    },
}

impl Target {
    /// Reads the URL of a callback.
    ///
    /// # Errors
    /// One that can't be used.
    pub fn read(url: &str) -> Result<Self, NotAllowed> {
        let bad = || NotAllowed::Url(url.chars().take(MAX_URL).collect());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        if url.len() > MAX_URL || authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(bad());
        }
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        Ok(Self {
            host: host.trim_end_matches('.').to_owned(),
            port: authority.port_u16().unwrap_or(default_port),
            url: uri,
        })
    }

    /// Those of its addresses that it may be reached at.
    ///
    /// # Errors
    /// It may be reached at none.
    pub fn allowed(&self, addresses: &[IpAddr], allow: &[String]) -> Result<Vec<IpAddr>, NotAllowed> {
        let named = allow.iter().any(|rule| matches_host(rule, &self.host));
        let may = |address: &&IpAddr| {
            let address = address.to_canonical();
            let in_network = |rule: &String| rule.parse::<IpNet>().is_ok_and(|net| net.contains(&address));
            named || is_public(address) || allow.iter().any(in_network)
        };
        let allowed: Vec<_> = addresses.iter().filter(may).copied().collect();
        match addresses.first() {
            Some(first) if allowed.is_empty() => Err(NotAllowed::Address {
                host: self.host.clone(),
                address: *first,
            }),
            _ => Ok(allowed),
        }
    }
}

/// Whether a rule of the allow-list can be read: a host, `*.` and a domain, or a network.
pub fn is_rule(rule: &str) -> bool {
    rule.parse::<IpNet>().is_ok() || {
        let host = rule.strip_prefix("*.").unwrap_or(rule);
        !host.is_empty() && host.split('.').all(crate::protocol::subject::is_dns_label)
    }
}

fn matches_host(rule: &str, host: &str) -> bool {
    match rule.strip_prefix("*.") {
        Some(domain) => host.strip_suffix(domain).is_some_and(|front| front.ends_with('.')),
        None => rule.eq_ignore_ascii_case(host),
    }
}

/// Whether an address is one of the public internet (the special ones of RFC 6890 and its registries
/// are not).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmarking = a == 198 && (b == 18 || b == 19);
    let protocols = a == 192 && b == 0 && c == 0;
    let special = v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_broadcast()
        || v4.is_documentation()
        || v4.is_multicast();
    !(special || shared || benchmarking || protocols || a == 0 || a >= 240)
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let first = v6.segments()[0];
    // Global unicast is 2000::/3; of it, documentation, Teredo and 6to4 lead elsewhere.
    let documentation = first == 0x2001 && v6.segments()[1] == 0x0db8;
    let tunnel = first == 0x2002 || (first == 0x2001 && v6.segments()[1] == 0);
    first & 0xe000 == 0x2000 && !documentation && !tunnel
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<IpAddr> {
        text.split_whitespace()
            .map(|ip| ip.parse().expect("an address"))
            .collect()
    }

    #[test]
    fn only_plain_http_urls_are_read() {
        for (url, expected) in [
            ("http://hooks.example.com/a?b=c", Some(("hooks.example.com", 80))),
            ("https://Hooks.Example.com.:8443/", Some(("hooks.example.com", 8443))),
            ("https://[2001:4860::1]/", Some(("2001:4860::1", 443))),
            ("ftp://example.com/", None),
            ("file:///etc/passwd", None),
            ("/path", None),
            ("http://user:secret@example.com/", None),
            ("http://", None),
            ("", None),
        ] {
            let found = Target::read(url).ok().map(|target| (target.host, target.port));
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(found, expected, "{url:?}");
        }
        let long = format!("http://example.com/{}", "a".repeat(MAX_URL));
        assert!(Target::read(&long).is_err());
    }

    #[test]
    fn only_public_addresses_are_allowed_without_a_rule() {
        let target = Target::read("http://hooks.example.com/").expect("a URL");
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.8",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "2001:db8::1",
            "2002:7f00:1::",
            "64:ff9b::a00:1",
        ] {
            assert!(target.allowed(&addresses(inside), &[]).is_err(), "{inside}");
        }
        for public in ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "100.128.0.1"] {
            assert!(target.allowed(&addresses(public), &[]).is_ok(), "{public}");
        }
        // Of several, only those that are allowed.
        let some = target.allowed(&addresses("10.0.0.1 1.1.1.1"), &[]);
        assert_eq!(some, Ok(addresses("1.1.1.1")));
    }

    #[test]
    fn rules_name_hosts_domains_and_networks() {
        let target = Target::read("http://hooks.acme.svc/").expect("a URL");
        let inside = addresses("10.1.2.3");
        for (rule, allowed) in [
            ("hooks.acme.svc", true),
            ("*.acme.svc", true),
            ("*.svc", true),
            ("acme.svc", false),
            ("*.hooks.acme.svc", false),
            ("*.cme.svc", false),
            ("10.1.0.0/16", true),
            ("10.2.0.0/16", false),
        ] {
            let rules = [rule.to_owned()];
            assert!(is_rule(rule), "{rule}");
            assert_eq!(target.allowed(&inside, &rules).is_ok(), allowed, "{rule}");
        }
        for bad in ["", "*.", "*", "a b", "http://x", "10.1.0.0/33", "-a"] {
            assert!(!is_rule(bad), "{bad:?}");
        }
    }
}
