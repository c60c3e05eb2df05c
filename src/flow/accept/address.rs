//! Who the client is: the peer, or whom a chain of trusted proxies names.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::config::settings::{ClientAddress, Listen};

/// Whether a peer's word on the client's address is believed.
#[must_use]
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// The client's address. A header of a peer that is not trusted says nothing. A list is read from the right: the first address that is
/// not a trusted proxy's is the client's; what stands left of it was written by the client (RFC 7239 section 8.1).
#[must_use]
pub fn client_address(peer: IpAddr, headers: &HeaderMap, listen: &Listen) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, &listen.trusted_proxies) {
        return peer;
    }
    let named = match listen.client_address {
        ClientAddress::XForwardedFor => {
            return from_the_right(peer, hops(headers, &X_FORWARDED_FOR).map(parse), &listen.trusted_proxies);
        }
        ClientAddress::Forwarded => {
            let parsed = hops(headers, &http::header::FORWARDED).map(|element| forwarded_for(element).and_then(parse));
            return from_the_right(peer, parsed, &listen.trusted_proxies);
        }
        ClientAddress::CfConnectingIp => single(headers, "cf-connecting-ip"),
        ClientAddress::TrueClientIp => single(headers, "true-client-ip"),
    };
    named.unwrap_or(peer)
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

fn single(headers: &HeaderMap, name: &'static str) -> Option<IpAddr> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() { None } else { parse(value) }
}

/// The elements of a list header over all its lines, from the right.
fn hops<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines: Vec<&str> = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?")).collect();
    lines.into_iter().rev().flat_map(|line| line.rsplit(',')).map(str::trim)
}

fn from_the_right(peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>, trusted: &[IpNet]) -> IpAddr {
    let mut nearest = peer;
    for hop in hops {
        let Some(address) = hop else { return nearest };
        nearest = address;
        if !is_trusted(address, trusted) {
            return address;
        }
    }
    nearest
}

/// The `for` of one element of `Forwarded` (RFC 7239 section 4).
fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim().trim_matches('"'))
    })
}

/// An address as proxies write it: bare, with a port, in brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split(']').next()?.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    }
    text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: ClientAddress, peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        let trusted = ["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")];
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a value"));
        }
        let peer: IpAddr = peer.parse().expect("an address");
        if !is_trusted(peer, &trusted) {
            return peer.to_canonical().to_string();
        }
        let found = match kind {
            ClientAddress::XForwardedFor => from_the_right(peer, hops(&map, &X_FORWARDED_FOR).map(parse), &trusted),
            ClientAddress::Forwarded => {
                from_the_right(peer, hops(&map, &http::header::FORWARDED).map(|hop| forwarded_for(hop).and_then(parse)), &trusted)
            }
            ClientAddress::CfConnectingIp => single(&map, "cf-connecting-ip").unwrap_or(peer),
            ClientAddress::TrueClientIp => single(&map, "true-client-ip").unwrap_or(peer),
        };
        found.to_string()
    }

    #[test]
    fn only_a_trusted_peer_is_believed() {
        assert_eq!(read(ClientAddress::XForwardedFor, "192.0.2.1", &[("x-forwarded-for", "1.2.3.4")]), "192.0.2.1");
        assert_eq!(read(ClientAddress::XForwardedFor, "10.0.0.1", &[("x-forwarded-for", "1.2.3.4")]), "1.2.3.4");
    }

    #[test]
    fn what_the_client_wrote_itself_is_not_believed() {
        let headers = [("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.0.0.2")];
        assert_eq!(read(ClientAddress::XForwardedFor, "10.0.0.1", &headers), "1.2.3.4");
        let headers = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.2.3.4")];
        assert_eq!(read(ClientAddress::XForwardedFor, "10.0.0.1", &headers), "1.2.3.4");
    }

    #[test]
    fn an_unreadable_hop_ends_the_chain_at_the_last_trusted_one() {
        let headers = [("x-forwarded-for", "1.2.3.4, unknown, 10.0.0.2")];
        assert_eq!(read(ClientAddress::XForwardedFor, "10.0.0.1", &headers), "10.0.0.2");
    }

    #[test]
    fn every_form_of_address_is_read() {
        let headers = [("forwarded", "for=\"[2001:db8::1]:4711\";proto=https, for=10.0.0.9")];
        assert_eq!(read(ClientAddress::Forwarded, "fd00::1", &headers), "2001:db8::1");
        assert_eq!(read(ClientAddress::CfConnectingIp, "10.0.0.1", &[("cf-connecting-ip", "1.2.3.4")]), "1.2.3.4");
        let twice = [("true-client-ip", "1.2.3.4"), ("true-client-ip", "5.6.7.8")];
        assert_eq!(read(ClientAddress::TrueClientIp, "10.0.0.1", &twice), "10.0.0.1");
        assert_eq!(read(ClientAddress::XForwardedFor, "::ffff:10.0.0.1", &[("x-forwarded-for", "1.2.3.4:80")]), "1.2.3.4");
    }
}
