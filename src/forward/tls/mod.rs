//! TLS to backends, by whichever library the features chose. Each gives the same few items.
//!
//! With both features it is rustls: who asks for it on top of the default wants it.

#[cfg(all(feature = "native-tls", not(feature = "rustls")))]
mod native;
#[cfg(not(any(feature = "native-tls", feature = "rustls")))]
mod none;
#[cfg(feature = "rustls")]
mod rustls;
#[cfg(all(feature = "native-tls", not(feature = "rustls")))]
mod watched;

#[cfg(all(feature = "native-tls", not(feature = "rustls")))]
use self::native as library;
#[cfg(not(any(feature = "native-tls", feature = "rustls")))]
use self::none as library;
#[cfg(feature = "rustls")]
use self::rustls as library;

#[cfg(feature = "http2")]
pub(super) use self::library::has_chosen_http2;
pub(super) use self::library::{Connector, TlsStream, connect, is_cut, kind, tcp};
