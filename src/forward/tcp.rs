//! Names and TCP.

use std::{error::Error as StdError, fmt, io, net::SocketAddr, vec};

use hyper_util::client::legacy::connect::{
    HttpConnector,
    dns::{GaiResolver, Name},
};
use tower::{ServiceExt, util::BoxCloneSyncService};

pub(super) type Resolver = BoxCloneSyncService<Name, vec::IntoIter<SocketAddr>, DnsError>;
pub(super) type Tcp = HttpConnector<Resolver>;

/// The system's resolver.
pub(super) fn resolver() -> Resolver {
    let resolver = GaiResolver::new().map_err(DnsError);
    Resolver::new(resolver.map_response(|addresses| addresses.collect::<Vec<_>>().into_iter()))
}

pub(super) fn connector(resolver: Resolver) -> Tcp {
    let mut tcp = HttpConnector::new_with_resolver(resolver);
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    tcp
}

/// Marks an error of the resolver, to be recognized behind the connector's own error.
#[derive(Debug)]
pub(super) struct DnsError(io::Error);

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name could not be resolved")
    }
}

impl StdError for DnsError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}
