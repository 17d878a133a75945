//! How far redirects may lead: a hub on the internet sends nobody to addresses of this machine or of its network.
//!
//! Names are resolved once, by the resolver that the connection is made with, so an address that was found harmless is
//! the one that is connected to (a name whose answer changes between two questions gains nothing).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::error::{Error, ErrorKind, Result};

use super::shown;

/// What kind of place an address is, the harmless first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// The internet.
    Public,
    /// A network of somebody's own: RFC 1918, shared address space (RFC 6598), unique local (RFC 4193).
    Private,
    /// This machine.
    Loopback,
    /// The same link (clouds serve their machines' secrets at one such address), no host at all, or many.
    Never,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Loopback => "loopback",
            Self::Never => "link-local, unspecified or multicast",
        })
    }
}

impl Reach {
    /// What kind of place an address is.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [a, b, c, _] = address.octets();
        if address.is_loopback() {
            return Self::Loopback;
        }
        // 0.0.0.0/8 is "this host", 240.0.0.0/4 is reserved and holds the broadcast address.
        if a == 0 || a >= 240 || address.is_link_local() || address.is_multicast() {
            return Self::Never;
        }
        let shared = a == 100 && (64..128).contains(&b);
        // 192.0.0.0/24 is for protocols, 198.18.0.0/15 for measurements inside a network.
        let inner = (a == 192 && b == 0 && c == 0) || (a == 198 && (b == 18 || b == 19));
        if address.is_private() || shared || inner { Self::Private } else { Self::Public }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if address.is_loopback() {
            return Self::Loopback;
        }
        if address.is_unspecified() || address.is_multicast() || address.is_unicast_link_local() {
            return Self::Never;
        }
        let parts = address.segments();
        let v4 = |high: u16, low: u16| {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            Self::of_v4(Ipv4Addr::new(a, b, c, d))
        };
        match parts {
            // Mapped (::ffff:a.b.c.d), translated (::ffff:0:a.b.c.d), compatible (::a.b.c.d), NAT64 (64:ff9b::a.b.c.d
            // and its local prefix) and 6to4 addresses lead to the IPv4 address in them.
            [0, 0, 0, 0, 0, 0xffff, high, low]
            | [0, 0, 0, 0, 0xffff, 0, high, low]
            | [0, 0, 0, 0, 0, 0, high, low]
            | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
            [0x2002, high, low, ..] => v4(high, low),
            [0x64, 0xff9b, 1, ..] => Self::Private,
            // Unique local, and site-local as it was called before.
            [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => Self::Private,
            _ => Self::Public,
        }
    }

    /// How far a hub's redirects may lead that is itself at these addresses: as far as it is itself, never to a link.
    pub fn allowed_to(addresses: &[IpAddr]) -> Self {
        let own = addresses.iter().map(|address| match address {
            // A server told to listen everywhere is often asked by that address, which leads to this machine.
            address if address.is_unspecified() => Self::Loopback,
            address => Self::of(*address),
        });
        // A link-local hub is in a network of somebody's own; its redirects to itself are no redirects elsewhere.
        own.map(|reach| if reach == Self::Never { Self::Private } else { reach }).max().unwrap_or(Self::Public)
    }
}

/// Whether a request may go to an address that the hub did not have: its scheme, and its host where that is an address
/// itself. Names are held to the same by [`AddressFilter`] when they are resolved.
pub(super) fn check(endpoint: &Url, target: &Url, reach: Reach, proxies: &BTreeSet<String>) -> Result<()> {
    let refused = |why: String| {
        let doing = format!("following a redirect of {} to {}: {why}", shown(endpoint), shown(target));
        Err(Error::new(ErrorKind::Malformed, doing))
    };
    match target.scheme() {
        "https" => {}
        "http" if endpoint.scheme() == "http" => {}
        "http" => return refused("from https to http".to_owned()),
        scheme => return refused(format!("to scheme {scheme}")),
    }
    let found = match target.host() {
        Some(Host::Ipv4(address)) => Reach::of(address.into()),
        Some(Host::Ipv6(address)) => Reach::of(address.into()),
        // The proxy's own name is resolved without the filter, or no request would reach it.
        Some(Host::Domain(name)) if proxies.contains(name) => return refused("to the proxy itself".to_owned()),
        Some(Host::Domain(_)) => return Ok(()),
        None => return refused("without a host".to_owned()),
    };
    if found > reach { refused(format!("a {found} address")) } else { Ok(()) }
}

/// Time for looking up a hub's own name. Where only a proxy knows it, the answer may never come.
const LOOK_UP: Duration = Duration::from_secs(5);

/// The addresses of a host, where it has any.
pub(super) async fn addresses(url: &Url) -> Vec<IpAddr> {
    match url.host() {
        Some(Host::Ipv4(address)) => vec![address.into()],
        Some(Host::Ipv6(address)) => vec![address.into()],
        Some(Host::Domain(name)) => match tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((name, 0))).await {
            Ok(Ok(found)) => found.map(|to| to.ip()).collect(),
            _ => Vec::new(),
        },
        None => Vec::new(),
    }
}

/// The hosts of the proxies that the environment names, as the HTTP library reads them.
pub(super) fn proxies() -> BTreeSet<String> {
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    let set = names.iter().flat_map(|name| [std::env::var(name), std::env::var(name.to_ascii_lowercase())]);
    set.flatten()
        .filter_map(|proxy| {
            let url = Url::parse(&proxy).ok().filter(Url::has_host);
            let url = url.or_else(|| Url::parse(&format!("http://{proxy}")).ok())?;
            url.host_str().map(str::to_owned)
        })
        .collect()
}

/// Resolves names, and refuses those that lead further than allowed.
pub(super) struct AddressFilter {
    pub(super) reach: Reach,
    /// Names that are resolved whatever they lead to.
    pub(super) free: BTreeSet<String>,
}

/// A name that leads where no redirect may lead.
#[derive(Debug)]
struct Forbidden {
    name: String,
    reach: Reach,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has a {} address, and a redirect may not lead there", self.name, self.reach)
    }
}

impl std::error::Error for Forbidden {}

impl Resolve for AddressFilter {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, host) = (self.reach, name.as_str().to_owned());
        let free = self.free.contains(&host);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            // One forbidden address among others is refused too: which of them is connected to is not ours to choose.
            let worst = found.iter().map(|to| Reach::of(to.ip())).max();
            match worst {
                Some(worst) if worst > reach && !free => Err(Forbidden { name: host, reach: worst }.into()),
                _ => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

/// What the filter refused, if an error is of its making.
pub(super) fn forbidden(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(forbidden) = error.downcast_ref::<Forbidden>() {
            return Some(forbidden.to_string());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn every_spelling_of_an_inner_address_is_seen_through() {
        let reach = |text: &str| Reach::of(text.parse().unwrap());
        for public in ["8.8.8.8", "192.0.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert_eq!(reach(public), Reach::Public, "{public}");
        }
        for private in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "fc00::1",
            "fdff::1",
            "fec0::1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::192.168.0.1",
            "64:ff9b:1::1",
            "2002:0a00:0001::1",
        ] {
            assert_eq!(reach(private), Reach::Private, "{private}");
        }
        for loopback in ["127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::"] {
            assert_eq!(reach(loopback), Reach::Loopback, "{loopback}");
        }
        for never in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "fe80::1",
            "ff02::1",
        ] {
            assert_eq!(reach(never), Reach::Never, "{never}");
        }
    }

    #[test]
    fn redirects_lead_no_further_than_the_hub_is_itself_and_not_from_https_to_http() {
        let none = BTreeSet::new();
        let go = |endpoint: &str, target: &str| {
            let endpoint = url(endpoint);
            let own = match endpoint.host() {
                Some(Host::Ipv4(address)) => vec![address.into()],
                _ => vec!["203.0.113.9".parse().unwrap()],
            };
            check(&endpoint, &url(target), Reach::allowed_to(&own), &none)
        };
        assert!(go("https://hub.example", "https://cdn.example/x").is_ok());
        assert!(go("https://hub.example", "http://cdn.example/x").unwrap_err().doing.contains("https to http"));
        assert!(go("http://hub.example", "http://cdn.example/x").is_ok());
        for target in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::1]:8/",
            "http://[::ffff:7f00:1]/",
            "http://169.254.169.254/latest",
            "http://10.1.2.3/",
            "http://0.0.0.0/",
            "ftp://cdn.example/",
        ] {
            assert_eq!(go("http://hub.example", target).unwrap_err().kind, ErrorKind::Malformed, "{target}");
        }
        assert!(go("http://10.0.0.1", "http://10.0.0.2/x").is_ok());
        assert!(go("http://10.0.0.1", "http://127.0.0.1/x").is_err());
        assert!(go("http://127.0.0.1:8", "http://127.0.0.1:9/x").is_ok());
        assert!(go("http://127.0.0.1:8", "http://169.254.169.254/x").is_err());
        let proxies = BTreeSet::from(["proxy.example".to_owned()]);
        assert!(check(&url("http://hub.example"), &url("http://proxy.example/"), Reach::Public, &proxies).is_err());
    }
}
