//! TLS to backends, by the library that the features select. Each module has the same items.
//!
//! With both features it is rustls, so that it can be enabled without disabling the default.

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

pub(super) use self::library::{
    Connector, TlsStream, connect, has_chosen_http2, is_truncated, kind, tcp,
};
