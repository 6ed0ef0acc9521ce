//! The one place that speaks rtnetlink: links, addresses, routes and neighbours of *the network
//! namespace its socket was opened in*. Values in, values out; it knows nothing of pods or Services.
//! Every change is idempotent: adding what is there and removing what is gone both succeed.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::{TryStream, TryStreamExt};
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// Routing protocol number that marks the routes this agent owns (unassigned in rtnetlink.h).
pub const ROUTE_PROTOCOL: u8 = 0x57;

const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A failed netlink operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open rtnetlink socket")]
    Open(#[source] std::io::Error),
    #[error("{operation}")]
    Request {
        operation: String,
        #[source]
        source: rtnetlink::Error,
    },
}

/// A link as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub alias: Option<String>,
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub up: bool,
    pub loopback: bool,
    pub veth: bool,
}

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub index: u32,
    pub address: IpAddr,
    pub prefix_len: u8,
}

/// A unicast route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    pub destination: IpNetwork,
    pub gateway: Option<IpAddr>,
    pub index: u32,
    /// The gateway is on the link although no prefix of the link covers it.
    pub onlink: bool,
    pub source: Option<IpAddr>,
}

/// A veth pair to make: the host's end here, the pod's end in another namespace.
#[derive(Debug)]
pub struct Veth<'a> {
    pub host_name: &'a str,
    pub host_mac: Mac,
    pub alias: &'a str,
    pub pod_name: &'a str,
    pub pod_mac: Mac,
    pub mtu: u32,
    pub pod_netns: BorrowedFd<'a>,
}

/// A resolved neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    pub index: u32,
    pub address: IpAddr,
    pub mac: Mac,
}

/// A connection to rtnetlink in one namespace.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
}

// === impl Netlink ===

impl Netlink {
    /// Opens a socket in the calling thread's network namespace; must run inside a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// All links.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let all = self.handle.link().get().execute();
        dump("links", all, |message: &LinkMessage| Some(message.into())).await
    }

    /// The link of that name, `None` if there is none.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        let mut found = Box::pin(self.handle.link().get().match_name(name).execute());
        match found.try_next().await {
            Ok(message) => Ok(message.as_ref().map(Link::from)),
            Err(e) if errno(&e) == Some(ENODEV) => Ok(None),
            Err(e) => Err(failed(format!("get link {name}"))(e)),
        }
    }

    /// Makes a veth pair, down on both ends. An existing host end is not an error.
    pub async fn add_veth(&self, veth: &Veth<'_>) -> Result<(), Error> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(veth.pod_name.to_string())
            .address(veth.pod_mac.to_vec())
            .mtu(veth.mtu)
            .setns_by_fd(veth.pod_netns.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(veth.host_name.to_string())
            .address(veth.host_mac.to_vec())
            .mtu(veth.mtu)
            .alias(veth.alias)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let added = self.handle.link().add(message).execute().await;
        let what = || format!("add veth {}", veth.host_name);
        done(added, &[EEXIST], what)
    }

    /// Sets a link up.
    pub async fn set_up(&self, index: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).up().build();
        let set = self.handle.link().set(message).execute().await;
        done(set, &[], || format!("set link {index} up"))
    }

    /// Removes a link (both ends of a veth pair).
    pub async fn delete_link(&self, index: u32) -> Result<(), Error> {
        let deleted = self.handle.link().del(index).execute().await;
        done(deleted, &[ENODEV], || format!("delete link {index}"))
    }

    /// All addresses.
    pub async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let all = self.handle.address().get().execute();
        dump("addresses", all, parse_address).await
    }

    /// Adds an address without duplicate address detection.
    pub async fn add_address(&self, address: Address) -> Result<(), Error> {
        let Address {
            index,
            address: ip,
            prefix_len,
        } = address;
        let mut request = self.handle.address().add(index, ip, prefix_len);
        if ip.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        done(request.execute().await, &[EEXIST], || {
            format!("add address {ip}")
        })
    }

    /// Adds a route of ours, replacing one to the same destination.
    pub async fn replace_route(&self, route: &Route) -> Result<(), Error> {
        let request = self.handle.route().add(message_of(route)).replace();
        done(request.execute().await, &[], || {
            format!("replace route {}", route.destination)
        })
    }

    /// Removes a route of ours.
    pub async fn delete_route(&self, route: &Route) -> Result<(), Error> {
        let deleted = self.handle.route().del(message_of(route)).execute().await;
        done(deleted, &[ESRCH, ENODEV, ENOENT], || {
            format!("delete route {}", route.destination)
        })
    }

    /// Unicast routes of the main table that `wanted` accepts by protocol number.
    async fn routes(&self, wanted: fn(RouteProtocol) -> bool) -> Result<Vec<Route>, Error> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let all = self.handle.route().get(query).execute();
            let main = |message: &RouteMessage| {
                let header = &message.header;
                let ours = header.table == RouteHeader::RT_TABLE_MAIN && wanted(header.protocol);
                ours.then(|| parse_route(message)).flatten()
            };
            found.extend(dump("routes", all, main).await?);
        }
        Ok(found)
    }

    /// The routes this agent owns.
    pub async fn own_routes(&self) -> Result<Vec<Route>, Error> {
        self.routes(|p| p == RouteProtocol::Other(ROUTE_PROTOCOL))
            .await
    }

    /// The default routes of the node, whoever made them.
    pub async fn default_routes(&self) -> Result<Vec<Route>, Error> {
        let all = self.routes(|_| true).await?;
        Ok(all
            .into_iter()
            .filter(|r| r.destination.prefix() == 0)
            .collect())
    }

    /// The route the kernel would take to an address.
    pub async fn route_to(&self, address: IpAddr) -> Result<Option<Route>, Error> {
        let prefix_len = if address.is_ipv4() { 32 } else { 128 };
        let query = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(address, prefix_len)
            .expect("a full-length prefix is valid")
            .build();
        let mut found = Box::pin(self.handle.route().get(query).execute());
        match found.try_next().await {
            Ok(message) => Ok(message.as_ref().and_then(parse_route)),
            Err(_) => Ok(None),
        }
    }

    /// Sets a permanent neighbour entry.
    pub async fn replace_neighbour(&self, index: u32, ip: IpAddr, mac: Mac) -> Result<(), Error> {
        let request = self
            .handle
            .neighbours()
            .add(index, ip)
            .state(NeighbourState::Permanent)
            .link_layer_address(&mac)
            .replace();
        done(request.execute().await, &[], || {
            format!("replace neighbour {ip}")
        })
    }

    /// Neighbours with a known Ethernet address.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, Error> {
        let all = self.handle.neighbours().get().execute();
        dump("neighbours", all, parse_neighbour).await
    }
}

// === impl Link ===

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            alias: None,
            mac: None,
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            loopback: flags.contains(LinkFlags::Loopback),
            veth: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::LinkInfo(infos) => {
                    link.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                }
                _ => {}
            }
        }
        link
    }
}

// === messages ===

fn message_of(route: &Route) -> RouteMessage {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.destination.ip(), route.destination.prefix())
        .expect("an IpNetwork holds a valid prefix")
        .output_interface(route.index)
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
    builder = match route.gateway {
        Some(gateway) => builder
            .gateway(gateway)
            .expect("the gateway has the route's family"),
        None => builder.scope(RouteScope::Link),
    };
    if let Some(source) = route.source {
        builder = builder
            .pref_source(source)
            .expect("the source has the route's family");
    }
    if route.onlink {
        builder = builder.onlink();
    }
    builder.build()
}

fn parse_route(message: &RouteMessage) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let (mut destination, mut gateway, mut source, mut index) = (any, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => destination = ip_of(a)?,
            RouteAttribute::Gateway(a) => gateway = ip_of(a),
            RouteAttribute::PrefSource(a) => source = ip_of(a),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            _ => {}
        }
    }
    let destination = IpNetwork::new(destination, message.header.destination_prefix_length).ok()?;
    let onlink = message
        .header
        .flags
        .contains(rtnetlink::packet_route::route::RouteFlags::Onlink);
    Some(Route {
        destination,
        gateway,
        index: index?,
        onlink,
        source,
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn parse_address(message: &AddressMessage) -> Option<Address> {
    // On point-to-point links IFA_LOCAL is our own address and IFA_ADDRESS the other end's.
    let own = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let any = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    let address = own.or(any)?;
    Some(Address {
        index: message.header.index,
        address,
        prefix_len: message.header.prefix_len,
    })
}

fn parse_neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => {
                address = Some(IpAddr::from(*a));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => {
                address = Some(IpAddr::from(*a));
            }
            NeighbourAttribute::LinkLayerAddress(m) => mac = m.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour {
        index: message.header.ifindex,
        address: address?,
        mac: mac?,
    })
}

// === errors ===

fn failed(operation: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let operation = operation.into();
    move |source| Error::Request { operation, source }
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|c| -c.get()),
        _ => None,
    }
}

/// The result of a change; some errors mean that it was made before.
fn done(
    result: Result<(), rtnetlink::Error>,
    harmless: &[i32],
    operation: impl FnOnce() -> String,
) -> Result<(), Error> {
    match result {
        Err(e) if errno(&e).is_some_and(|code| harmless.contains(&code)) => Ok(()),
        other => other.map_err(|e| failed(operation())(e)),
    }
}

/// Everything the kernel has of a kind, as far as it is of interest.
async fn dump<M, T>(
    what: &str,
    messages: impl TryStream<Ok = M, Error = rtnetlink::Error>,
    parse: impl Fn(&M) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let messages: Vec<M> = messages
        .try_collect()
        .await
        .map_err(failed(format!("dump {what}")))?;
    Ok(messages.iter().filter_map(parse).collect())
}
